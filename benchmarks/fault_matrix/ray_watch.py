"""Follows one request of a Ray cluster through the event logs of its processes, from now on."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.fault_matrix.cell import Phase
from benchmarks.fault_matrix.ray_cells import RayCell, Role
from benchmarks.fault_matrix.scene import decode_records
from tandem.chaos.cluster import Ending, RequestRecord
from tandem.chaos.faults.evidence import Evidence
from tandem.core.event_log.events import ChunkAccepted, Dispatched, GrantEnded, LogOpened, RequestEnded
from tandem.core.event_log.record import Record

_PHASE_S: Final = 60.0
_LEFT_S: Final = 5.0
_POLL_S: Final = 0.01


class RayWatch:
    """Who serves the request, and where it is."""

    def __init__(self, logs: Callable[[], Sequence[Path]]) -> None:
        self._logs = logs
        self._sizes = {path: path.stat().st_size for path in logs()}
        self._pair: Dispatched | None = None

    def victim(self, role: Role) -> str:
        """Who serves the request in ``role``; the first of them when there is none."""
        if self._pair is None:
            return f"{role}-0"
        return self._pair.prefill if role == "prefill" else self._pair.decode

    async def reach(self, cell: RayCell, records: Sequence[RequestRecord]) -> None:
        """Wait until the request is in the cell's phase. Raises TimeoutError."""
        async with asyncio.timeout(_PHASE_S):
            while not self._is_there(cell, records):  # noqa: ASYNC110  # files have no event
                await asyncio.sleep(_POLL_S)

    def _is_there(self, cell: RayCell, records: Sequence[RequestRecord]) -> bool:
        if self._pair is None:
            self._pair = next((r.event for r in self._records("router") if isinstance(r.event, Dispatched)), None)
            return False
        if cell.phase is Phase.DECODE:
            return bool(records) and records[0].num_tokens >= cell.tokens
        if cell.phase is Phase.TRANSFER:
            return any(isinstance(record.event, ChunkAccepted) for record in self._records(self._pair.decode))
        return True  # dispatched: a prompt of this length takes a second and more

    async def left(self, record: RequestRecord) -> Evidence:
        """Whether the caller left, and the router and the decode worker ended its request for that, uncommitted."""
        async with asyncio.timeout(_LEFT_S):
            while not (ends := [e for r in self._records("router") if isinstance(e := r.event, RequestEnded)]):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            while not (grants := [e for r in self._records("decode") if isinstance(e := r.event, GrantEnded)]):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
        outcome, grant = ends[-1].outcome, grants[-1].how
        return Evidence(
            took_effect=record.ending is Ending.CANCELLED and outcome == "cancelled" and grant != "committed",
            facts=f"the caller saw {record.ending.value}, the router {outcome}, the decode worker {grant}",
        )

    def opened_s(self, pid: int) -> float:
        """When a process began its log (CLOCK_MONOTONIC, as the callers' times); 0.0 if none did."""
        opened = [r.t for r in self._records("") if isinstance(r.event, LogOpened) and r.event.pid == pid]
        return max(opened, default=0.0)

    def _records(self, process: str) -> list[Record]:
        found: list[Record] = []
        for path in self._logs():
            if path.name.startswith(process):
                with path.open("rb") as file:
                    file.seek(self._sizes.get(path, 0))
                    found += decode_records(file.read())
        return found
