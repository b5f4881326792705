"""The chaos matrix: failure modes by phases, over real processes, each fault proven to have taken effect.

Rows are those of the failure-mode table. Every cell attacks a request at a phase and compares what its caller sees with
what the table promises: tokens equal to the oracle's or a named error, no hang, nothing leaked, the cluster well again;
and every cluster's event logs must hold no violation. Controls run the same without a fault.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.demands import Demand, at_least, exactly, exit_unless_met, none_of, unmet
from benchmarks.fault_matrix import (
    ray_cells,
    rows_cancel,
    rows_clients,
    rows_cuts,
    rows_decode_death,
    rows_engine,
    rows_frames,
    rows_network,
    rows_prefill_death,
    rows_ray,
    rows_router,
    rows_slow_links,
    rows_stalls,
)
from benchmarks.fault_matrix.cell import Cell, CellResult
from benchmarks.fault_matrix.lanes import Lanes, MatrixResult, open_local
from benchmarks.report import finish, say
from benchmarks.report import parser as common_options
from tandem.core.log import configure_logging

CELLS: list[Cell] = [
    *rows_prefill_death.CELLS,
    *rows_decode_death.CELLS,
    *rows_stalls.CELLS,
    *rows_cuts.CELLS,
    *rows_slow_links.CELLS,
    *rows_frames.CELLS,
    *rows_cancel.CELLS,
    *rows_clients.CELLS,
    *rows_engine.CELLS,
    *rows_router.CELLS,
    *rows_network.CELLS,
]
PLAN = (
    ("pairs",),
    ("pairs",),
    ("pairs",),
    ("network", "pairs"),
    ("new-pairs", "even-pairs", "small-pool", "churn", "default-timers", "pairs"),
    ("slow-callers", "mixed", "versions", "two-slots", "unequal", "pairs"),
)

LEAST_CELLS = 100
LEAST_RAY_CELLS = 12
QUICK_PLAN = (("pairs",), ("churn",))


def chosen(*, only: str, quick: bool) -> list[Cell]:
    """Return the cells that are asked for: of a row (``7``), or whose name begins so."""
    cells = [cell for cell in CELLS if cell.quick or not quick]
    return [cell for cell in cells if not only or str(cell.row) == only or cell.name.startswith(only)]


def rows_there_are() -> str:
    """Return the numbers of the rows that have cells, in words."""
    rows = sorted({cell.row for cell in CELLS})
    starts = [row for row in rows if row - 1 not in rows]
    ends = [row for row in rows if row + 1 not in rows]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def show(cells: Sequence[Cell]) -> None:
    """Print the table."""
    for cell in sorted(cells, key=lambda cell: cell.row):
        endings = "/".join(sorted(ending.value for ending in cell.expect.endings))
        named = f" ({', '.join(sorted(cell.expect.reasons))})" if cell.expect.reasons else ""
        print(f"{cell.row:3}  {cell.phase.value:13} {cell.does:60} → {endings}{named}")


def summary(found: MatrixResult) -> dict[str, Any]:
    """Return the last line."""
    cells = found.cells
    return {
        "cells": len(cells),
        "passed": sum(result.passed for result in cells),
        "faults_verified": sum(result.fault_verified for result in cells),
        "wrong_tokens": sum(result.num_wrong for result in cells),
        "hangs": sum(result.num_hangs for result in cells),
        "leaks": sum(len(result.leaks) for result in cells),
        "controls": len(found.controls),
        "controls_passed": sum(result.passed for result in found.controls),
        "violations": len(found.problems),
    }


def details(found: MatrixResult) -> dict[str, Any]:
    """Return everything that a reader of the result may ask."""
    return {
        "cells": [_detail(result) for result in sorted(found.cells, key=lambda r: (r.cell.row, r.cell.name))],
        "controls": [_detail(result) for result in found.controls],
        "cells_by_row": dict(sorted(Counter(result.cell.row for result in found.cells).items())),
        "violations": found.problems,
        "events_checked": found.num_events,
        "checks_by_invariant": dict(sorted(found.num_checks.items())),
        "requests": found.num_requests,
        "clusters": found.num_clusters,
    }


def _detail(result: CellResult) -> dict[str, Any]:
    return {
        "row": result.cell.row,
        "phase": result.cell.phase.value,
        "does": result.cell.does,
        "cluster": result.cell.shape,
        "passed": result.passed,
        "fault": result.evidence,
        "fault_verified": result.fault_verified,
        "endings": result.endings[:8],
        "problems": result.problems,
        "leaks": result.leaks,
        "seconds": round(result.seconds, 1),
    }


def whole_demands() -> list[Demand]:
    """What a whole run must have besides."""
    return at_least(cells=LEAST_CELLS, ray_cells=LEAST_RAY_CELLS, controls=1)


def demands(result: Mapping[str, Any], *, num_cells: int, num_ray_cells: int) -> list[Demand]:
    """What the figures must be: every cell that was asked for ran and passed, its fault proven."""
    num_all = num_cells + num_ray_cells
    return [
        *exactly(cells=num_all, passed=num_all, faults_verified=num_all, ray_cells=num_ray_cells),
        *exactly(controls_passed=result["controls"]),
        *none_of("wrong_tokens", "hangs", "leaks", "violations"),
    ]


def main() -> None:
    """Run what is asked for; the exit status says whether every cell passed."""
    parser = common_options(__doc__)
    parser.add_argument("--quick", action="store_true", help="a dozen cells, in a minute")
    parser.add_argument("--only", default="", help="a row's number, the beginning of a cell's name, or `ray`")
    parser.add_argument("--list", action="store_true", help="print the cells and run none")
    options = parser.parse_args()
    cells = chosen(only=options.only, quick=options.quick)
    if not cells and options.only != "ray":
        among = "quick cells" if options.quick else "cells"
        parser.error(f"--only {options.only}: no such {among}. Rows are {rows_there_are()}; see --list; or `ray`")
    if options.list:
        show(cells)
        return
    configure_logging(level="error")
    began_s = time.monotonic()
    plan = QUICK_PLAN if options.quick else PLAN
    with_ray = not (options.quick or options.only) or options.only == "ray"
    lanes = Lanes([] if options.only == "ray" else cells, rows_engine.CONTROLS, say=say, open_world=open_local)
    found = asyncio.run(lanes.run(plan))
    ray = asyncio.run(rows_ray.RayRun(say=say).run()) if with_ray else MatrixResult()
    found.add(ray)
    result = {**summary(found), "ray_cells": len(ray.cells), "seconds": round(time.monotonic() - began_s)}
    finish(options, result, method=(__doc__ or "").strip(), details=details(found))
    num_ray_cells = len(ray_cells.CELLS) if with_ray else 0
    num_cells = 0 if options.only == "ray" else len(cells)
    problems = unmet(result, demands(result, num_cells=num_cells, num_ray_cells=num_ray_cells))
    if not options.only:  # a few cells need not touch all that a checker judges
        problems += [f"no event log gave anything to judge {name} by" for name in found.unjudged]
    if not (options.only or options.quick):
        problems += unmet(result, whole_demands())
    exit_unless_met(problems)


if __name__ == "__main__":
    main()
