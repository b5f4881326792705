"""The test's side of failpoints: says what a process's points do, and reads what they did."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tandem.chaos.faults.evidence import Evidence
from tandem.core.failpoints import POINTS, VARIABLE, FailpointSpec

_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One line of a hits file."""

    pid: int
    point: str
    action: str
    phase: str  # begin, or end of a pause
    at_s: float  # CLOCK_MONOTONIC


class FailpointDesk:
    """The failpoints of all processes that were started with ``variables()``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._num_files = 0

    def variables(self) -> dict[str, str]:
        """Environment variables for the processes."""
        return {VARIABLE: str(self._folder)}

    def arm(self, process: str, point: str, **fields: Any) -> "ArmedFailpoint":
        """Let ``point`` of ``process`` do what ``fields`` (of `FailpointSpec`) say. Its other points are switched off.

        A pause without ``while_exists`` ends with ``release`` as well. Raises ValueError for a point that is none.
        """
        if point not in POINTS:
            raise ValueError(f"{point!r} is no failpoint; there are {', '.join(sorted(POINTS))}")
        held: Path | None = None
        if fields.get("action") == "pause" and "while_exists" not in fields:
            self._num_files += 1
            held = self._folder / f"{process}.{self._num_files}.held"
            held.touch()
            fields["while_exists"] = held
        spec = FailpointSpec.model_validate(fields)
        already = len(self.hits(process))
        self._write(process, {point: spec.model_dump(mode="json")})
        return ArmedFailpoint(self, process=process, point=point, already=already, held=held)

    def disarm(self, process: str) -> None:
        """Switch every point of ``process`` off; what waits at one goes on only when it is released."""
        self._write(process, {})

    def hits(self, process: str) -> list[Hit]:
        """Everything the points of ``process`` did, in order, over all its lives."""
        try:
            lines = (self._folder / f"{process}.hits").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Hit(**json.loads(line)) for line in lines]

    def _write(self, process: str, specs: dict[str, Any]) -> None:
        fresh = self._folder / f"{process}.{os.getpid()}.new"
        fresh.write_text(json.dumps(specs), encoding="utf-8")
        fresh.rename(self._folder / f"{process}.json")


class ArmedFailpoint:
    """One point that will do something, or has."""

    def __init__(self, desk: FailpointDesk, *, process: str, point: str, already: int, held: Path | None) -> None:
        self._desk = desk
        self._process = process
        self._point = point
        self._already = already
        self._held = held

    def hits(self) -> list[Hit]:
        """What it did since it was armed."""
        return [hit for hit in self._desk.hits(self._process)[self._already :] if hit.point == self._point]

    def wait_hit(self, timeout_s: float) -> Hit | None:
        """Wait until it acts for the first time; None when it does not."""
        until_s = time.monotonic() + timeout_s
        while True:
            if hits := self.hits():
                return hits[0]
            if time.monotonic() >= until_s:
                return None
            time.sleep(_POLL_S)

    def release(self) -> None:
        """End its pause."""
        if self._held is not None:
            self._held.unlink(missing_ok=True)

    def disarm(self) -> None:
        """Switch it off and end its pause."""
        self._desk.disarm(self._process)
        self.release()

    def verify(self) -> Evidence:
        """The process itself wrote that it acted."""
        hits = self.hits()
        shown = ", ".join(f"{hit.action} {hit.phase} in {hit.pid}" for hit in hits[:3])
        return Evidence(took_effect=bool(hits), facts=f"{self._point} of {self._process}: {shown or 'never passed'}")
