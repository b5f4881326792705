"""Which files the house rules speak of."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked(pattern: str) -> list[Path]:
    """Return tracked and new files that match a git pathspec, generated protobuf code left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [ROOT / name for name in sorted(set(names)) if "_pb2" not in name and (ROOT / name).is_file()]


def is_test(path: Path) -> bool:
    """Tell test code from product code."""
    return path.relative_to(ROOT).parts[0] == "tests"


def is_product(path: Path) -> bool:
    """Tell product code from tests and benchmarks."""
    return path.relative_to(ROOT).parts[0] not in {"tests", "benchmarks"}
