"""Beside the workers of a cluster: the controller's process, kept up, and the follower of its scale orders."""

import asyncio
import time

import structlog

from tandem.cluster.control.scale_follower import ScaleFollower
from tandem.cluster.processes.service import Service
from tandem.cluster.runtime.backoff import Backoff
from tandem.controller.live.scaling import SCALE_RECORD, ScaleOrders
from tandem.core.errors import SetupError, TandemError
from tandem.core.records import RecordStore, overwrite

_log = structlog.get_logger(__name__)
_START_S = 60.0


class ControllerKeeper:
    """Owns both. Use `start`, then always `stop`. The cluster serves on while neither runs.

    ``service`` is None where the runtime runs the controller.
    """

    def __init__(self, service: Service | None, store: RecordStore, follower: ScaleFollower) -> None:
        self._service = service
        self._store = store
        self._follower = follower
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        """The controller's process; None while there is none."""
        child = None if self._service is None else self._service.child
        return child.pid if child is not None and child.returncode is None else None

    async def start(self) -> None:
        """Start the controller. Raises SetupError, as for a policy file that is wrong."""
        try:
            # Orders of a cluster that has ended are not this one's.
            await overwrite(self._store, SCALE_RECORD, ScaleOrders().encode())
        except TandemError as error:
            _log.warning("scale_orders_not_cleared", reason=error.reason)
        self._tasks = [asyncio.create_task(self._follower.run(), name="follow scale orders")]
        if self._service is not None:
            await self._service.start(_START_S)
            self._tasks.append(asyncio.create_task(self._keep_up(self._service), name="keep the controller"))

    async def stop(self) -> None:
        """End both, the controller first: it must not order what is ending. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._service is not None:
            await self._service.stop(grace_s=5.0)
        await self._store.close()

    def kill(self) -> None:
        """End the controller now."""
        if self._service is not None:
            self._service.kill()

    async def _keep_up(self, service: Service) -> None:
        backoff = Backoff()
        while True:
            began_s = time.monotonic()
            error = await service.wait()
            pause_s = backoff.after(lived_s=time.monotonic() - began_s)
            _log.warning("controller_died", problem=error.problem, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)
            try:
                await service.start(_START_S)
            except SetupError as problem:
                _log.warning("controller_restart_failed", problem=problem.problem)
