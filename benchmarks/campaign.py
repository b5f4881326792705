"""The long run: recovery, KV race, then fault storm and cancel fuzz by turns until enough requests were faulted.

    python -m benchmarks.campaign --json [--requests 100000] [--output FILE]

Counted as faulted are, by program:

- `fault_storm`: requests that were in flight while a fault was on and can have met it, or were cancelled (its docstring
  says exactly). At least ``STORM_SHARE`` of the whole number must come from here.
- `cancel_fuzz`: requests whose caller left before the answer was whole. Those that stayed are checked and not counted.
- `recovery`: streams that had to move to another worker.
- `kv_race`: hand-overs whose lease ended under a receiver that stood still (victims).

The fault matrix (`faults`) is a run by itself: its few hundred requests would not count, since it does not tell its
probes from its warm-ups. Calibration, warm-ups, controls and neighbours that nothing happened to do not count;
``checked_requests`` has them too: every one was compared with the one right answer. Each part is the program of its own
name, with its own checks; a part that fails or finds anything makes the exit status 1. What is done so far is saved
after each part.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.demands import Demand, at_least, exit_unless_met, none_of, unmet
from benchmarks.report import finish, parser, save, say

METHOD = (__doc__ or "").strip()
PART_TIMEOUT_S = 3600.0
FUZZ_REQUESTS = 10_000
LEAST_FUZZ = 600  # fewer would show nothing, and its own demands say so
STORM_REQUESTS = 5_000
STORM_SHARE = 0.5
FINDINGS = (
    "wrong_tokens",
    "mismatches",
    "tag_mismatches",
    "hangs",
    "leaks",
    "errors",
    "broken",
    "faults_without_effect",
    "worker_deaths",
    "trace_violations",
    "violations",
    "stall_aborts",
)
MUST_BE_TRUE = ("faults_verified", "caught_without_guard", "victims")


@dataclass(frozen=True, slots=True)
class Part:
    """One program and how to ask for it.

    ``faulted`` and ``checked`` are the paths of its request counts in what it saves.
    """

    name: str
    arguments: tuple[str, ...]
    faulted: str
    checked: str


@dataclass(slots=True)
class Done:
    """What one part brought."""

    part: Part
    result: dict[str, Any]
    details: dict[str, Any]
    faulted: int
    checked: int
    seconds: float
    findings: dict[str, int] = field(default_factory=dict)


FIRST = (
    Part("recovery", (), "result.moved_streams", "result.total_streams"),
    Part("kv_race", (), "result.victims", "result.requests"),
)


def fuzz(seed: int, num_requests: int) -> Part:
    """A further piece of cancel fuzz."""
    arguments = ("--requests", str(num_requests), "--seed", str(seed))
    return Part("cancel_fuzz", arguments, "result.cancelled", "result.requests")


def storm(seed: int, num_requests: int) -> Part:
    """A further piece of the storm."""
    return Part("fault_storm", ("--requests", str(num_requests), "--seed", str(seed)), "result.requests", "result.sent")


def next_part(done: Sequence[Done], wanted: int) -> Part | None:
    """Storm and cancel fuzz by turns, until the sum and the storm's share of it are reached; None then."""
    left = wanted - sum(one.faulted for one in done)
    storms = sum(one.faulted for one in done if one.part.name == "fault_storm")
    storm_left = round(STORM_SHARE * wanted) - storms
    seed = 1000 * (1 + len(done))
    if storm_left > 0 and (left <= storm_left or done[-1].part.name != "fault_storm"):
        return storm(seed, min(STORM_REQUESTS, storm_left))
    return fuzz(seed, min(FUZZ_REQUESTS, max(LEAST_FUZZ, 2 * left))) if left > 0 else None


def run_part(part: Part) -> Done:
    """Run a program to its end; raises RuntimeError when it leaves no result."""
    with tempfile.TemporaryDirectory(prefix="tandem-campaign-") as folder:
        saved = Path(folder) / "result.json"
        command = [sys.executable, "-m", f"benchmarks.{part.name}", "--json", "--output", str(saved), *part.arguments]
        began_s = time.monotonic()
        process = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PART_TIMEOUT_S, check=False)
        if not saved.is_file():
            raise RuntimeError(f"{part.name} ended with status {process.returncode} and without a result")
        found = json.loads(saved.read_text(encoding="utf-8"))
    result = found["result"]
    findings = {name: int(result[name]) for name in FINDINGS if result.get(name)}
    findings |= {f"no_{name}": 1 for name in MUST_BE_TRUE if name in result and not result[name]}
    if process.returncode != 0:
        findings["exit_status"] = process.returncode
    if "completed" in result and result["completed"] != result["streams"]:
        findings["lost_streams"] = result["streams"] - result["completed"]
    return Done(
        part,
        result,
        found["details"] if part.name == "fault_storm" else {},
        _count(found, part.faulted),
        _count(found, part.checked),
        round(time.monotonic() - began_s, 1),
        findings,
    )


def _count(found: dict[str, Any], path: str) -> int:
    value: Any = found
    for name in path.split("."):
        value = value[name]
    return int(value)


def summary(done: Sequence[Done]) -> dict[str, Any]:
    """The last line."""
    return {
        "faulted_requests": sum(one.faulted for one in done),
        "faulted_in_storm": sum(one.faulted for one in done if one.part.name == "fault_storm"),
        "checked_requests": sum(one.checked for one in done),
        "wrong_tokens": sum(one.findings.get("wrong_tokens", 0) + one.findings.get("mismatches", 0) for one in done),
        "hangs": sum(one.findings.get("hangs", 0) for one in done),
        "leaks": sum(one.findings.get("leaks", 0) for one in done),
        "findings": sum(len(one.findings) for one in done),
        "parts": len(done),
        "seconds": round(sum(one.seconds for one in done)),
    }


def details(done: Sequence[Done]) -> dict[str, Any]:
    """Every part's own result."""
    return {
        "parts": [
            {
                "program": one.part.name,
                "arguments": list(one.part.arguments),
                "faulted": one.faulted,
                "checked": one.checked,
                "seconds": one.seconds,
                "findings": one.findings,
                "result": one.result,
                "details": one.details,
            }
            for one in done
        ]
    }


def demands(num_requests: int) -> list[Demand]:
    """What the sums must be."""
    return [
        *at_least(faulted_requests=num_requests, faulted_in_storm=int(STORM_SHARE * num_requests)),
        *none_of("wrong_tokens", "hangs", "leaks", "findings"),
    ]


def main() -> None:
    """Run until the sum is reached."""
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=100_000, help="how many in all (default 100000)")
    options = arguments.parse_args()
    done: list[Done] = []

    def add(part: Part) -> None:
        say(f"{part.name} {' '.join(part.arguments)}")
        done.append(run_part(part))
        last = done[-1]
        say(f"  {last.faulted} faulted of {last.checked} in {last.seconds} s, findings {last.findings or 'none'}")
        if options.output is not None:
            save(options.output, summary(done), method=METHOD, details=details(done))

    for first in FIRST:
        add(first)
    while (part := next_part(done, options.requests)) is not None:
        add(part)
    finish(options, summary(done), method=METHOD, details=details(done))
    exit_unless_met(unmet(summary(done), demands(options.requests)))


if __name__ == "__main__":
    main()
