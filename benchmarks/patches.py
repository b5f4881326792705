"""Unified diffs, read and applied strictly: each hunk must fit the file at exactly one place."""

import re
from dataclasses import dataclass
from pathlib import Path

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@")


class PatchFailed(Exception):
    """A patch does not fit the file: the code has changed, so the patch must be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """Lines that must be there, and what takes their place."""

    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What one diff does to one file."""

    name: str
    path: str
    hunks: tuple[Hunk, ...]


def read_patch(file: Path) -> Patch:
    """Read a diff of one file; raises PatchFailed if it is anything else."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    targets = [line[6:].strip() for line in lines if line.startswith("+++ b/")]
    if len(targets) != 1:
        raise PatchFailed(f"{file.name}: changes {len(targets)} files, not 1")
    starts = [index for index, line in enumerate(lines) if _HUNK.match(line)]
    if not starts:
        raise PatchFailed(f"{file.name}: has no hunk")
    ends = [*starts[1:], len(lines)]
    bodies = [lines[start + 1 : end] for start, end in zip(starts, ends, strict=True)]
    hunks = tuple(Hunk(before=_side(body, " -"), after=_side(body, " +")) for body in bodies)
    return Patch(name=file.stem, path=targets[0], hunks=hunks)


def apply_patch(patch: Patch, root: Path) -> str:
    """Return the patched text of the file under ``root``; raises PatchFailed unless every hunk fits at one place."""
    file = root / patch.path
    if not file.is_file():
        raise PatchFailed(f"{patch.name}: there is no {patch.path}; make the patch again")
    text = file.read_text(encoding="utf-8")
    for hunk in patch.hunks:
        found = text.count(hunk.before)
        if found != 1:
            raise PatchFailed(f"{patch.name}: a hunk fits {patch.path} at {found} places; make the patch again")
        text = text.replace(hunk.before, hunk.after)
    return text


def _side(body: list[str], signs: str) -> str:
    return "".join(line[1:] for line in body if line[0] in signs)
