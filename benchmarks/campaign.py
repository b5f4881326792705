"""The long run: recovery, KV race, cancel fuzz until enough requests were faulted, and the fault matrix.

    python -m benchmarks.campaign --json [--requests 100000] [--output FILE]

Counted is every request that was sent to a cluster whose fault was on: all requests of the matrix's cells, of the KV
race, of the recovery rounds, and of the cancel fuzz (in which 60 % of the callers leave). Each part is the program of
its own name, with its own checks; this one adds up what they found and goes on with further cancel fuzz, on new
clusters and seeds, until the sum is reached without the matrix, which comes last. A part that fails or finds anything
makes the exit status 1. What is done so far is saved after each part.
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

from benchmarks.report import finish, parser, save, say

METHOD = (__doc__ or "").strip()
PART_TIMEOUT_S = 3600.0
FUZZ_REQUESTS = 10_000
FINDINGS = (
    "wrong_tokens",
    "mismatches",
    "tag_mismatches",
    "hangs",
    "leaks",
    "errors",
    "worker_deaths",
    "trace_violations",
    "violations",
    "stall_aborts",
)
MUST_BE_TRUE = ("faults_verified", "caught_without_guard", "victims")


@dataclass(frozen=True, slots=True)
class Part:
    """One program and how to ask for it; ``counts`` are the paths of its request counts in what it saves."""

    name: str
    arguments: tuple[str, ...]
    counts: tuple[str, ...]


@dataclass(slots=True)
class Done:
    """What one part brought."""

    part: Part
    result: dict[str, Any]
    requests: int
    seconds: float
    findings: dict[str, int] = field(default_factory=dict)


FIRST = (
    Part("recovery", (), ("result.total_streams",)),
    Part("kv_race", (), ("result.requests",)),
)
LAST = Part("faults", (), ("details.requests",))


def fuzz(seed: int, num_requests: int) -> Part:
    """A further piece of cancel fuzz."""
    return Part("cancel_fuzz", ("--requests", str(num_requests), "--seed", str(seed)), ("result.requests",))


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
    if "passed" in result and result["passed"] != result["cells"]:
        findings["failed_cells"] = result["cells"] - result["passed"]
    if "completed" in result and result["completed"] != result["streams"]:
        findings["lost_streams"] = result["streams"] - result["completed"]
    requests = sum(_count(found, path) for path in part.counts)
    return Done(part, result, requests, round(time.monotonic() - began_s, 1), findings)


def _count(found: dict[str, Any], path: str) -> int:
    value: Any = found
    for name in path.split("."):
        value = value[name]
    return int(value)


def summary(done: Sequence[Done]) -> dict[str, Any]:
    """The last line."""
    return {
        "faulted_requests": sum(one.requests for one in done),
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
                "requests": one.requests,
                "seconds": one.seconds,
                "findings": one.findings,
                "result": one.result,
            }
            for one in done
        ]
    }


def main() -> None:
    """Run until the sum is reached."""
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=100_000, help="how many in all (default 100000)")
    options = arguments.parse_args()
    done: list[Done] = []

    def add(part: Part) -> None:
        say(f"{part.name} {' '.join(part.arguments)}")
        done.append(run_part(part))
        say(f"  {done[-1].requests} requests in {done[-1].seconds} s, findings {done[-1].findings or 'none'}")
        if options.output is not None:
            save(options.output, summary(done), method=METHOD, details=details(done))

    for part in FIRST:
        add(part)
    seed = 1000
    while (left := options.requests - sum(one.requests for one in done)) > 0:
        add(fuzz(seed, min(FUZZ_REQUESTS, left)))
        seed += 1000
    add(LAST)
    finish(options, summary(done), method=METHOD, details=details(done))
    if any(one.findings for one in done):
        sys.exit(1)


if __name__ == "__main__":
    main()
