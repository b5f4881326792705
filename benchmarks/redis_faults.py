"""What does a Redis in trouble cost callers? Down, hung, slow, flushed, full, read-only, locked, lied to: under load.

    python -m benchmarks.redis_faults --json [--quick] [--server redis|valkey] [--output FILE]

Rows 30 to 35 of the failure modes, on Debian's Redis and on the embedded Valkey. Two clusters of real processes (the
tagged engine: every answer and every byte of KV is checked) get the same requests at the same moments; one has Redis,
the other has none: its times are what serving costs cold. Beside them, the Redis tier and the shared reservations are
asked as a request asks them, and that time is measured directly.

- ``success``: share of the requests to the cluster with Redis, over the whole run, whose whole answer was right.
- ``added_ttft_p99_ms``: what a look-up in the tier and a reservation took (p99 of all asks during faults, of the worse
  server), which is what a request can wait for Redis; ``added_ttft_p99_worst_fault_ms`` the same of the worst fault
  alone. ``cluster_added_ttft_p99_ms``: p99 of TTFT with Redis less that without, all faults together; by fault in the
  details (a p99 of so few requests on a busy machine is a noisy figure).
- ``added_ttft_p99_open_ms``: like the first, of asks from 1.5 s after a fault began, when breakers are open. Of
  faults that open none (flushed, forged; read-only and full for reads) it is the time of a healthy answer, for which
  ``added_ttft_p99_quiet_ms`` is the measure: asks while nothing was wrong.
- ``forged_accepted``: blocks that were taken and were not what they must be, plus KV mismatches in the engines.
- ``reconnect_s``: the longest time from a fault's end, which comes just after a breaker tried in vain, until blocks are
  found, stored and workers reserved again; ``registry_back_s`` until every worker is registered again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.redis_cells import QUICK_PACE, WITH, WITHOUT, Pace, Played, play
from benchmarks.report import finish, parser, say
from tests.fakes.redis_server import binaries


def result_of(runs: Sequence[Played]) -> dict[str, Any]:
    """Return the numbers that count."""
    cells = [cell for run in runs for cell in run.cells]
    requests = sum(run.requests for run in runs)
    return {
        "success": round(1 - sum(run.failures for run in runs) / requests, 6) if requests else 0.0,
        "added_ttft_p99_ms": max((run.tier_p99_ms for run in runs), default=0.0),
        "added_ttft_p99_worst_fault_ms": max((cell.tier_p99_ms for cell in cells), default=0.0),
        "added_ttft_p99_open_ms": max((run.tier_p99_open_ms for run in runs), default=0.0),
        "added_ttft_p99_quiet_ms": max((run.tier_p99_quiet_ms for run in runs), default=0.0),
        "cluster_added_ttft_p99_ms": round(
            max((run.pooled[WITH].ttft_p99_ms - run.pooled[WITHOUT].ttft_p99_ms for run in runs), default=0.0), 2
        ),
        "forged": sum(cell.forged for cell in cells),
        "forged_accepted": sum(cell.forged_accepted for cell in cells) + sum(run.mismatches for run in runs),
        "reconnect_s": max((cell.tier_back_s for cell in cells), default=0.0),
        "registry_back_s": max((cell.registry_back_s for cell in cells), default=0.0),
        "worker_promoted_blocks": sum(run.workers.get("promoted_blocks", 0) for run in runs),
        "worker_rejected_blocks": sum(run.workers.get("rejected_blocks", 0) for run in runs),
        "requests": requests,
        "servers": [run.server for run in runs],
        "faults_verified": bool(cells) and all(cell.evidence for cell in cells),
    }


async def measure(flavours: Sequence[str], pace: Pace) -> list[Played]:
    """Play all faults on one server of each kind."""
    runs = []
    for flavour in flavours:
        say(f"starting {flavour}, a cluster with it and one without")
        runs.append(await play(flavour, pace))
        for cell in runs[-1].cells:
            say(f"{cell}")
        say(f"{runs[-1].requests} requests, {runs[-1].failures} failures {runs[-1].errors}")
    return runs


def main() -> None:
    """Run and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="seconds per fault")
    arguments.add_argument("--server", choices=sorted(binaries()), help="this one alone; nothing = all there are")
    options = arguments.parse_args()
    flavours = [options.server] if options.server else sorted(binaries())
    runs = asyncio.run(measure(flavours, QUICK_PACE if options.quick else Pace()))
    finish(options, result_of(runs), method=__doc__ or "", details={"runs": [asdict(run) for run in runs]})


if __name__ == "__main__":
    main()
