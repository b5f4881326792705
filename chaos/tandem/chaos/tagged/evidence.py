"""What a tagged engine verified and what did not fit, on disk: it must survive the process being killed.

Per process life there is ``<worker>.<pid>.counters``, seven 64-bit numbers in a shared mapping, so that every step
costs no system call and no kill loses a count; and from the first mismatch on ``<worker>.<pid>.mismatches.jsonl``.
"""

import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

_SUFFIX = ".counters"
_MISMATCHES = ".mismatches.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Sums over process lives."""

    num_steps: int = 0
    num_rows: int = 0  # rows whose whole context was checked
    num_tokens: int = 0  # slots compared, byte by byte
    num_prefill_tokens: int = 0  # prompt tokens computed
    num_decode_rows: int = 0  # output tokens fed
    nan_rows: int = 0  # rows whose KV was NaN, which the engine was told of by NaN logits
    tag_mismatches: int = 0  # rows whose KV was somebody else's, old or torn: must be 0

    def __add__(self, other: "Verified") -> "Verified":
        """Return the sum of both."""
        return Verified(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Verified)})


_LAYOUT = struct.Struct(f"={len(fields(Verified))}Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One row whose context did not hold what it must."""

    request_id: str
    attempt: int
    child: int
    tenant: str
    position: int  # of the first wrong slot
    block_id: int
    num_wrong_slots: int
    num_tokens: int  # of the context
    found: str  # first wrong word, hexadecimal
    expected: str
    at_s: float  # CLOCK_MONOTONIC


class Evidence(Protocol):
    """Where an engine counts. Engine thread only."""

    def add(self, counted: Verified) -> None:
        """Count a step."""
        ...

    def mismatch(self, found: Mismatch) -> None:
        """Record a row that did not fit, at once."""
        ...


class MemoryEvidence:
    """In this process, for engines that no harness reads."""

    def __init__(self) -> None:
        self.verified = Verified()
        self.mismatches: list[Mismatch] = []

    def add(self, counted: Verified) -> None:
        """Count a step."""
        self.verified += counted

    def mismatch(self, found: Mismatch) -> None:
        """Record a row that did not fit."""
        self.mismatches.append(found)
        self.verified += Verified(tag_mismatches=1)


class FileEvidence:
    """In files of this process life, for the harness."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{worker_id}.{os.getpid()}"
        self._mismatches = stem.with_name(stem.name + _MISMATCHES)
        path = stem.with_name(stem.name + _SUFFIX)
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._sum = Verified()

    def add(self, counted: Verified) -> None:
        """Count a step."""
        self._sum += counted
        self._map[:] = _LAYOUT.pack(*astuple(self._sum))

    def mismatch(self, found: Mismatch) -> None:
        """Record a row that did not fit, at once."""
        with self._mismatches.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        self.add(Verified(tag_mismatches=1))


def read_verified(folder: Path) -> Mapping[str, Verified]:
    """Return what each process life, by ``<worker>.<pid>``, has counted so far."""
    return {
        path.name.removesuffix(_SUFFIX): Verified(
            **dict(zip((f.name for f in fields(Verified)), _LAYOUT.unpack(path.read_bytes()), strict=True))
        )
        for path in sorted(folder.glob(f"*{_SUFFIX}"))
        if path.stat().st_size == _LAYOUT.size
    }


def read_mismatches(folder: Path) -> list[dict[str, Any]]:
    """Return every recorded mismatch."""
    return [
        json.loads(line)
        for path in sorted(folder.glob(f"*{_MISMATCHES}"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
