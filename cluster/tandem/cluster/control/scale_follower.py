"""Makes the running workers those that the controller ordered: starts what was added, ends what was removed.

Runs beside whoever owns the processes. Orders are differences from the cluster's plan; while they can't be read, or
were lost, nothing changes.
"""

import asyncio
from collections.abc import Callable

import structlog

from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.cluster.runtime.base import WorkerRuntime
from tandem.controller.live.scaling import SCALE_RECORD, ScaleOrders, read_orders
from tandem.core.errors import SetupError, TandemError
from tandem.core.records import RecordStore
from tandem.core.types import Role

_log = structlog.get_logger(__name__)
_POLL_S = 0.5
_FIRST_PAUSE_S = 5.0  # after a start that failed

PlanWorker = Callable[[str, Role], WorkerProgramConfig]


class ScaleFollower:
    """Follows the orders of the highest term. ``run`` until it is cancelled; tests call ``step``."""

    def __init__(
        self,
        store: RecordStore,
        runtime: WorkerRuntime,
        *,
        plan: PlanWorker,
        planned: tuple[WorkerProgramConfig, ...],
        start_timeout_s: float,
        grace_s: float,
    ) -> None:
        """``planned`` are the workers of the cluster's own plan, which run already."""
        self._store = store
        self._runtime = runtime
        self._plan = plan
        self._planned = {config.worker_id: config for config in planned}
        self._running = set(self._planned)
        self._start_timeout_s = start_timeout_s
        self._grace_s = grace_s
        self._term = 0
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow; ends only by cancellation."""
        try:
            while True:
                try:
                    await self.step()
                except TandemError as error:
                    _log.info("scale_orders_not_read", reason=error.reason)
                await asyncio.sleep(_POLL_S)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def step(self) -> None:
        """Read the orders and begin what they ask for."""
        record = await self._store.read(SCALE_RECORD)
        if record is None:
            return
        orders = read_orders(record)
        if orders.term < self._term:
            return
        self._term = orders.term
        self._busy = {name: task for name, task in self._busy.items() if not task.done()}
        wanted = self._wanted(orders)
        for name in sorted(wanted.keys() - self._running - self._busy.keys()):
            self._busy[name] = asyncio.create_task(self._start(wanted[name]), name=f"start {name}")
        for name in sorted(self._running - wanted.keys() - self._busy.keys()):
            self._busy[name] = asyncio.create_task(self._end(name), name=f"end {name}")

    def _wanted(self, orders: ScaleOrders) -> dict[str, WorkerProgramConfig]:
        wanted = {name: config for name, config in self._planned.items() if name not in orders.removed}
        for name, role in orders.added.items():
            if name not in wanted:
                wanted[name] = self._plan(name, role)
        return wanted

    async def _start(self, config: WorkerProgramConfig) -> None:
        _log.info("worker_added", worker=config.worker_id, role=config.role.value)
        try:
            await self._runtime.add(config, timeout_s=self._start_timeout_s)
        except SetupError as error:
            _log.warning("worker_not_added", worker=config.worker_id, problem=error.problem)
            await asyncio.sleep(_FIRST_PAUSE_S)
            return
        self._running.add(config.worker_id)

    async def _end(self, name: str) -> None:
        _log.info("worker_removed", worker=name)
        await self._runtime.remove(name, grace_s=self._grace_s)
        self._running.discard(name)
