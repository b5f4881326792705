"""A worker that is told to leave (SIGTERM) in the middle of its work: it drains, hands over, and ends by itself."""

import asyncio
import os
import signal
import time
from typing import Final

from benchmarks.fault_matrix.cell import MakeFault, RoleName
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.processes import process_state
from tandem.core.event_log.events import LogClosed, RoleChanged

_HELD_S: Final = 0.5  # less than the drain may take, more than one takes that has nothing to wait for
_GONE_S: Final = 25.0  # drain, hand over, close; most of it for a busy machine
_POLL_S: Final = 0.02


class _Leaving:
    def __init__(self, scene: Scene, role: RoleName) -> None:
        self._scene, self._role = scene, role
        self._name = ""
        self._pid = 0
        self._began_s = 0.0
        self._gone_s: float | None = None
        self._waited = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._name = await self._scene.victim(self._role)
        self._pid, self._began_s = self._scene.pid(self._name), time.monotonic()
        started = process_state(self._pid).started_ticks
        os.kill(self._pid, signal.SIGTERM)
        if self._scene.cell.used_gate.point:  # what the gate holds is not done yet: nobody may go
            await asyncio.sleep(_HELD_S)
            self._waited = process_state(self._pid).started_ticks == started
        self._task = asyncio.create_task(self._watch(started), name="wait for its end")

    async def _watch(self, started_ticks: int) -> None:
        while True:
            now = process_state(self._pid)
            if now.state in ("", "Z", "X") or now.started_ticks != started_ticks:
                self._gone_s = time.monotonic() - self._began_s
                return
            await asyncio.sleep(_POLL_S)

    async def end(self) -> None:
        """It is not undone; the process has to go by itself."""
        if self._task is not None:
            await asyncio.wait_for(self._task, _GONE_S)

    def verify(self) -> Evidence:
        said: dict[int, list[str]] = {}  # by life: the next one of this name writes too
        for record in self._scene.events(self._name):
            if isinstance(record.event, RoleChanged | LogClosed):
                said.setdefault(record.epoch, []).append(getattr(record.event, "state", "closed"))
        in_order = ["draining", "stopped", "closed"] in said.values()
        must_wait = bool(self._scene.cell.used_gate.point)
        gone = "not gone" if self._gone_s is None else f"gone by itself after {self._gone_s:.1f} s"
        return Evidence(
            took_effect=self._gone_s is not None and in_order and self._waited >= must_wait,
            facts=f"SIGTERM to {self._name}: {list(said.values())}; {gone}; waited at the gate: {self._waited}",
        )


def leave(role: RoleName) -> MakeFault:
    """Tell the worker that serves the probe in ``role`` to leave. Nobody kills it: its log must have an end."""
    return lambda scene: _Leaving(scene, role)
