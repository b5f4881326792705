"""Model checking of the hand-over and of the role switch: no error as they are, a counterexample without any guard.

Searches every state of the models in docs/spec (small pools, see docs/spec/README.md) with spin. Runs of four kinds:
base and redundant must be clean and complete, mutants and reached states must give a counterexample.

Run: ``python -m benchmarks.spec --json`` (``--quick``: a few of each; ``--long``: larger configurations too).
"""

import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import finish, parse, say
from benchmarks.spec_runs import LONG_RUNS, RUNS, Kind, Run
from benchmarks.spin import Search, Verdict, missing_tools, search

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "spec"
TIMEOUT_S = 900.0  # against a hang: on a loaded machine a search of 10 s of CPU takes minutes
LONG_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A run and what came out."""

    run: Run
    search: Search

    @property
    def ok(self) -> bool:
        """Whether what had to come out did."""
        clean = self.run.kind in (Kind.BASE, Kind.REDUNDANT)
        return self.search.verdict is (Verdict.CLEAN if clean else Verdict.VIOLATION)

    def __str__(self) -> str:
        found = self.search
        mark = "ok " if self.ok else "BAD"
        size = f"{found.num_states:>9} states, depth {found.depth:>4}, {found.seconds:5.1f} s"
        return f"{mark} {self.run.kind:9} {self.run.model:9} {self.run.name:64} {found.verdict:9} {size}  {found.what}"


def check(run: Run, *, timeout_s: float = TIMEOUT_S) -> Checked:
    """Search one run's states."""
    model = FOLDER / f"{run.model}.pml"
    # In these two every step touches shared state, so that partial-order reduction only costs time there.
    reduce = run.model not in ("kv", "kv_reuse")
    return Checked(run=run, search=search(model, run.flags, reduce=reduce, timeout_s=timeout_s))


def check_all(runs: tuple[Run, ...], *, timeout_s: float = TIMEOUT_S) -> list[Checked]:
    """Search two at a time, in order."""
    checked = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for one in pool.map(lambda run: check(run, timeout_s=timeout_s), runs):
            say(str(one))
            checked.append(one)
    return checked


def summarise(checked: list[Checked], *, seconds: float, cpu_s: float = 0.0) -> dict[str, Any]:
    """Count: ``errors`` are base runs that are not clean, ``unexpected`` all runs that did not do what they had to."""

    def of(kind: Kind) -> list[Checked]:
        return [one for one in checked if one.run.kind is kind]

    return {
        "base": len(of(Kind.BASE)),
        "errors": sum(not one.ok for one in of(Kind.BASE)),
        "mutants": len(of(Kind.MUTANT)),
        "caught": sum(one.ok for one in of(Kind.MUTANT)),
        "reached": sum(one.ok for one in of(Kind.REACHED)),
        "redundant": sum(one.ok for one in of(Kind.REDUNDANT)),
        "unexpected": sum(not one.ok for one in checked),
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu_s, 1),
    }


def main() -> int:
    """Run, print the table and the result; 1 if anything came out otherwise than it had to."""
    options = parse(__doc__, "quick", "long")
    if missing := missing_tools():
        say(f"{' and '.join(missing)} not found; install with: apt-get install {' '.join(missing)}")
        return 1
    runs = tuple(run for run in RUNS if run.quick or not options.quick)
    began_s = time.monotonic()
    checked = check_all(runs)
    if options.long:
        checked += check_all(LONG_RUNS, timeout_s=LONG_TIMEOUT_S)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = summarise(checked, seconds=time.monotonic() - began_s, cpu_s=used.ru_utime + used.ru_stime)
    details = {
        "runs": [
            {
                "kind": one.run.kind,
                "model": one.run.model,
                "name": one.run.name,
                "flags": " ".join(one.run.flags),
                "verdict": one.search.verdict,
                "violated": one.search.what,
                "states": one.search.num_states,
                "depth": one.search.depth,
                "seconds": round(one.search.seconds, 2),
            }
            for one in checked
        ]
    }
    finish(options, result, method=(__doc__ or "").strip(), details=details)
    return 1 if result["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
