"""Does some test fail when a guard is taken out of the code?

Each patch in tests/mutants removes one guard from a copy of the tree; the tests named for it in benchmarks/mutant_list
must pass on an unpatched copy and fail on the patched one. Before that, every component is shown to be imported from
the copy. A patch that no longer fits is an error. R8 (a tensor-parallel group decides together) and R9 (one-sided
writes) have nothing in the code to remove: R9 has its mutants in docs/spec/one_sided.pml.

Run: ``python -m benchmarks.mutants --json`` (``--only R2-`` for those whose names begin so).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutant_list import TESTS
from benchmarks.patches import Patch, PatchFailed, apply_patch, read_patch
from benchmarks.report import finish, parser, say

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "tests" / "mutants"
TIMEOUT_S = 1800.0  # against a hang; each test has its own time-out
_SKIPPED = shutil.ignore_patterns("__pycache__", ".*", "results", "*.pyc")
_PROBE = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1]).resolve()
for name in sys.argv[2:]:
    module = importlib.import_module(f"tandem.{name}")
    assert root in pathlib.Path(module.__file__).resolve().parents, f"{name} is imported from {module.__file__}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one patch."""

    name: str
    path: str
    killed: bool
    problem: str
    killer: str
    seconds: float


def components() -> list[str]:
    """Return the top-level folders that hold a part of ``tandem``."""
    return sorted(
        file.parent.name for file in ROOT.glob("*/tandem/*/__init__.py") if file.parent.name == file.parts[-4]
    )


class Copy:
    """A copy of the tree in a temporary folder, from which alone ``tandem`` is imported."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for name in (*components(), "tests", "benchmarks", "proto", "deploy", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=_SKIPPED)
        shutil.copy(ROOT / "pyproject.toml", folder)
        paths = [str(folder / name) for name in components()]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def prove_imports(self) -> None:
        """Raise RuntimeError unless every component comes from this copy."""
        done = self._python("-c", _PROBE, str(self.root), *components())
        if done.returncode:
            raise RuntimeError(f"the copy is not what is imported: {done.stderr[-500:]}")

    def run_tests(self, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Run these tests, stopping at the first failure."""
        return self._python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )


def judge(patch: Patch) -> Outcome:
    """Patch a copy of its own and run the patch's tests in it."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Copy(Path(folder) / "tree")
        try:
            text = apply_patch(patch, copy.root)
        except PatchFailed as error:
            return _outcome(patch, began_s, problem=str(error))
        (copy.root / patch.path).write_text(text, encoding="utf-8")
        try:
            copy.prove_imports()
            done = copy.run_tests(TESTS[patch.name])
        except RuntimeError as error:
            return _outcome(patch, began_s, problem=str(error))
        except subprocess.TimeoutExpired:
            return _outcome(patch, began_s, problem=f"tests not over after {TIMEOUT_S:.0f} s")
    if done.returncode > 1:  # not "tests failed": nothing collected, a broken import, an interrupt
        return _outcome(patch, began_s, problem=f"pytest ended with {done.returncode}: {done.stdout[-300:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    killer = failed[0].split(" ", 1)[1].split(" - ")[0] if failed else ""
    return _outcome(patch, began_s, killer=killer)


def _outcome(patch: Patch, began_s: float, *, problem: str = "", killer: str = "") -> Outcome:
    seconds = time.monotonic() - began_s
    outcome = Outcome(
        name=patch.name, path=patch.path, killed=bool(killer), problem=problem, killer=killer, seconds=seconds
    )
    state = "killed  " if killer else "ERROR   " if problem else "SURVIVED"
    say(f"{state} {patch.name:24} {seconds:5.1f} s  {killer or problem or ' '.join(TESTS[patch.name])}")
    return outcome


def unpatched_problem(names: list[str]) -> str:
    """Run every named test on an unpatched copy, in two halves at once; return what is wrong, empty if nothing."""
    tests = sorted({test for name in names for test in TESTS[name]})
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Copy(Path(folder) / "tree")
        copy.prove_imports()
        with ThreadPoolExecutor(max_workers=2) as pool:
            halves = [tuple(half) for half in (tests[::2], tests[1::2]) if half]
            runs = list(pool.map(copy.run_tests, halves))
    return "\n".join(run.stdout[-2000:] for run in runs if run.returncode)


def main() -> int:
    """Run, print the table and the result; 1 if a mutant survived or could not be judged."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", default="", help="how the names of the patches begin")
    options = arguments.parse_args()
    patches = [read_patch(file) for file in sorted(PATCHES.glob("*.patch"))]
    patches = [patch for patch in patches if patch.name.startswith(options.only)]
    began_s = time.monotonic()
    if problem := unpatched_problem([patch.name for patch in patches]):
        say(f"the tests fail on the code as it is:\n{problem}")
        return 1
    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = list(pool.map(judge, patches))
    result: dict[str, Any] = {
        "mutants": len(outcomes),
        "killed": sum(outcome.killed for outcome in outcomes),
        "survived": [outcome.name for outcome in outcomes if not outcome.killed and not outcome.problem],
        "errors": [outcome.name for outcome in outcomes if outcome.problem],
        "seconds": round(time.monotonic() - began_s, 1),
    }
    details = {
        "mutants": [
            {
                "name": o.name,
                "file": o.path,
                "killed_by": o.killer,
                "problem": o.problem,
                "seconds": round(o.seconds, 1),
            }
            for o in outcomes
        ]
    }
    finish(options, result, method=(__doc__ or "").strip(), details=details)
    return 1 if result["survived"] or result["errors"] or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
