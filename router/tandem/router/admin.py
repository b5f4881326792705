"""What an operator sees of the cluster and asks of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from tandem.core.clock import Clock
from tandem.core.cluster import ClusterStatus, PairState, PairStatus, WorkerState, WorkerStatus
from tandem.core.errors import InvalidArgument, NotFound
from tandem.core.ids import WorkerId
from tandem.core.types import Role, WorkerInfo
from tandem.router.cache.desk import CacheDesk
from tandem.router.dispatcher import Dispatcher
from tandem.router.fleet import WorkerRecord
from tandem.router.health import Health
from tandem.router.placement import PlacementMode
from tandem.rpc.context import CallContext

MAX_DRAIN_S = 3600.0
Drain = Callable[[WorkerInfo, float], Awaitable[int]]


class ClusterFront:
    """Handler of ClusterService; ``drain`` reaches out to a worker."""

    def __init__(
        self,
        *,
        model: str,
        router_id: str,
        dispatcher: Dispatcher,
        mode: PlacementMode,
        clock: Clock,
        drain: Drain,
        cache: CacheDesk,
    ) -> None:
        self._model = model
        self._router_id = router_id
        self._dispatcher = dispatcher
        self._mode = mode
        self._clock = clock
        self._drain = drain
        self._cache = cache
        self._started_s = clock.now_s()

    def why_not_ready(self) -> str:
        """Empty when requests can be served now."""
        fleet = self._dispatcher.fleet
        if self._dispatcher.draining:
            return "the router is shutting down"
        if not fleet.num_alive(Role.DECODE):
            return "no decode worker is ready"
        if self._mode is PlacementMode.SPLIT and not fleet.num_alive(Role.PREFILL):
            return "no prefill worker is ready, and the placement mode is split"
        return ""

    async def get_status(self, call: CallContext) -> ClusterStatus:
        """Summarise the cluster."""
        reason = self.why_not_ready()
        num_queued = len(self._dispatcher.queue)
        return ClusterStatus(
            model=self._model,
            ready=not reason,
            not_ready_reason=reason,
            router_id=self._router_id,
            uptime_s=self._clock.now_s() - self._started_s,
            num_queued=num_queued,
            num_running=self._dispatcher.num_live - num_queued,
            num_ended={outcome.value: count for outcome, count in self._dispatcher.num_ended.items()},
            workers=tuple(await self.list_workers(call)),
            pairs=self._pairs(),
            num_stale=self._dispatcher.num_stale,
            num_isolated=self._dispatcher.crashes.num_isolated,
            num_in_flight=sum(len(record.in_flight) for record in self._dispatcher.fleet.records()),
            num_tasks=len(asyncio.all_tasks()),
            serving=self._dispatcher.serving.status(self._clock.now_s()),
            cache_hit_rates=await self._cache.hit_rates(),
        )

    async def list_workers(self, call: CallContext) -> Sequence[WorkerStatus]:
        """The workers with their load."""
        return [self._status(record) for record in self._dispatcher.fleet.records()]

    async def drain_worker(self, worker_id: WorkerId, timeout_s: float, call: CallContext) -> int:
        """Drain one worker. Raises NotFound."""
        if not 0.0 < timeout_s <= MAX_DRAIN_S:
            raise InvalidArgument(
                "timeout_s", f"is {timeout_s}", remedy=f"use a value above 0 and up to {MAX_DRAIN_S:g}"
            )
        for record in self._dispatcher.fleet.records():
            if record.info.worker_id == worker_id:
                record.order_drain(self._clock.now_s() + timeout_s)
                try:
                    return await self._drain(record.info, timeout_s)
                except BaseException:
                    record.withdraw_drain()
                    raise
        raise NotFound(f"no worker is called {worker_id[:64]!r}", reason="WORKER_NOT_FOUND")

    def _pairs(self) -> tuple[PairStatus, ...]:
        """Pairs in trouble, and those that can never hand over: they store KV differently."""
        records = self._dispatcher.fleet.records()
        unequal = [
            PairStatus(prefill_worker=p.info.worker_id, decode_worker=d.info.worker_id, state=PairState.UNEQUAL)
            for p in records
            for d in records
            if (p.role, d.role) == (Role.PREFILL, Role.DECODE)
            and p.info.layout_fingerprint != d.info.layout_fingerprint
        ]
        return (*self._dispatcher.pairs.statuses(self._clock.now_s()), *unequal)

    def _status(self, record: WorkerRecord) -> WorkerStatus:
        heard_s = record.pulse.last_heard_s
        return WorkerStatus(
            info=replace(record.info, role=record.role),
            state=_state(record),
            load=record.load,
            silent_ms=None if heard_s is None else (self._clock.now_s() - heard_s) * 1e3,
        )


def _state(record: WorkerRecord) -> WorkerState:
    match record.pulse.health:
        case Health.CONNECTING:
            return WorkerState.CONNECTING
        case Health.DEAD:
            return WorkerState.LOST
        case Health.SUSPECT:
            return WorkerState.SUSPECT
        case Health.ALIVE:
            return WorkerState.DRAINING if record.draining else WorkerState.READY
