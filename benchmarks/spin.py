"""One exhaustive search of a Promela model: spin makes the verifier, gcc compiles it, its report is read strictly.

A search that was cut off (depth, memory, time) is neither a proof nor a counterexample: it is ``CUT_OFF``.
"""

import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

MAX_DEPTH = 200_000
MAX_MEMORY_MB = 8000


class Verdict(StrEnum):
    """How a search ended."""

    CLEAN = "clean"
    VIOLATION = "violation"
    CUT_OFF = "cut off"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Result of one search; ``what`` is the violated assertion, or why there is no verdict."""

    verdict: Verdict
    what: str = ""
    num_states: int = 0
    depth: int = 0
    seconds: float = 0.0


def missing_tools() -> list[str]:
    """Return the names of the programs that are not installed."""
    return [name for name in ("spin", "gcc") if shutil.which(name) is None]


def search(model: Path, flags: tuple[str, ...], *, reduce: bool, timeout_s: float) -> Search:
    """Search all states of ``model`` under the ``-D`` flags (names without ``-D``)."""
    began_s = time.monotonic()
    defines = [f"-D{flag}" for flag in flags]
    with tempfile.TemporaryDirectory(prefix="spec-") as folder:
        options = ["-O2", "-w", "-DSAFETY", f"-DMEMLIM={MAX_MEMORY_MB}"]
        options += [] if reduce else ["-DNOREDUCE"]
        for command in (["spin", "-a", *defines, str(model.resolve())], ["gcc", *options, "-o", "pan", "pan.c"]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode or not (Path(folder) / "pan.c").exists():
                problem = (done.stdout + done.stderr).strip()
                return Search(verdict=Verdict.BROKEN, what=f"{command[0]}: {problem[-300:]}")
        try:
            run = subprocess.run(
                ["./pan", f"-m{MAX_DEPTH}", "-n"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return Search(verdict=Verdict.CUT_OFF, what=f"not over after {timeout_s:.0f} s", seconds=timeout_s)
    return read_report(run.stdout + run.stderr, seconds=time.monotonic() - began_s)


def read_report(report: str, *, seconds: float) -> Search:
    """Return what a verifier's report says. Only a complete search without errors is clean."""
    states = re.search(r"^\s*(\d+) states, stored", report, re.MULTILINE)
    depth = re.search(r"depth reached (\d+), errors: (\d+)", report)
    if states is None or depth is None:
        return Search(verdict=Verdict.BROKEN, what=report.strip()[-300:], seconds=seconds)
    num_states, reached, num_errors = int(states[1]), int(depth[1]), int(depth[2])
    violation = re.search(r"^pan:\d+: (assertion violated .*?|invalid end state.*?) \(at depth (\d+)\)", report, re.M)
    if violation is not None and num_errors:
        verdict, what, reached = Verdict.VIOLATION, violation[1], int(violation[2])
    elif any(sign in report for sign in ("Search not completed", "too small", "reached -DMEMLIM", "out of memory")):
        verdict, what = Verdict.CUT_OFF, "a limit of depth or memory was reached"
    elif num_errors:
        verdict, what = Verdict.BROKEN, report.strip()[-300:]
    else:
        verdict, what = Verdict.CLEAN, ""
    return Search(verdict=verdict, what=what, num_states=num_states, depth=reached, seconds=seconds)
