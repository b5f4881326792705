"""What people ask of the prefix cache: its numbers, and to forget. It asks every worker and tells who kept silent."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict

import grpc.aio
import structlog

from tandem.core.cache import CacheStatus, Flushed, WatchedCache, WorkerCacheStats, WorkerFlushed, hit_rates
from tandem.core.clock import Clock
from tandem.core.errors import TandemError
from tandem.core.ids import Tenant
from tandem.core.types import WorkerInfo
from tandem.router.cache.flushes import UnfinishedFlushes
from tandem.router.cache.follower import CacheFollower
from tandem.router.cache.usage import CacheUsage
from tandem.router.cache.view import CacheView
from tandem.router.fleet import Fleet, WorkerRecord
from tandem.rpc.channels import open_channel
from tandem.rpc.context import CallContext
from tandem.rpc.stubs.cache import WorkerCacheStub
from tandem.rpc.tls import TlsMaterial

_log = structlog.get_logger(__name__)

_STATS_TIMEOUT_S = 2.0
_FLUSH_TIMEOUT_S = 8.0  # a worker answers between two forward steps
_REPEAT_S = 5.0


class CacheDesk:
    """Handler of CacheAdminService, and of a caller's own flush."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        view: CacheView,
        follower: CacheFollower,
        usage: CacheUsage,
        clock: Clock,
        tls: TlsMaterial | None,
        insecure: bool,
    ) -> None:
        self._fleet = fleet
        self._view = view
        self._follower = follower
        self._usage = usage
        self._clock = clock
        self._tls = tls
        self._insecure = insecure
        self._unfinished = UnfinishedFlushes()

    async def get_cache_status(self, call: CallContext) -> CacheStatus:
        """Return the numbers of all workers and of this router."""
        records = self._fleet.records()
        answers = await asyncio.gather(*(self._stats(record.info) for record in records))
        return CacheStatus(
            enabled=self._view.namer.is_on,
            index=self._view.index_status(),
            workers=tuple(self._watched(record, stats) for record, stats in zip(records, answers, strict=True)),
            tenants=self._usage.tenants(),
        )

    async def flush_prefix_cache(self, tenant: Tenant | None, call: CallContext) -> Flushed:
        """Forget one tenant's prefixes, or all, on every worker; the index hears of it from the workers."""
        records = self._fleet.records()
        self._view.forget_expected()
        answers = await asyncio.gather(*(self._flush(record.info, tenant) for record in records))
        self._view.forget_expected()  # of requests that were sent before their worker had forgotten
        done = [answer for answer in answers if answer is not None]
        flushed = Flushed(
            num_blocks=sum(answer.num_blocks for answer in done),
            num_workers=len(done),
            num_missed=len(answers) - len(done),
            num_pending=sum(answer.redis_pending for answer in done),
        )
        _log.info("cache_flushed", everybody=tenant is None, **asdict(flushed))
        return flushed

    async def repeat_flushes(self) -> None:
        """Ask again for what was not complete. Ends by cancellation."""
        while True:
            await asyncio.sleep(_REPEAT_S)
            infos = [record.info for record in self._fleet.records()]
            due = self._unfinished.due(infos, now_s=self._clock.now_s())
            await asyncio.gather(*(self._flush(info, tenant) for tenant, info in due))
            if due:
                self._view.forget_expected()

    async def hit_rates(self) -> Mapping[str, float]:
        """Share of all prompt tokens that came from each tier, over the workers that answer."""
        answers = await asyncio.gather(
            *(self._stats(record.info) for record in self._fleet.records() if record.can_take_work)
        )
        found = tuple(stats for stats in answers if stats is not None)
        return {tier.value: rate for tier, rate in hit_rates(found).items()}

    def _watched(self, record: WorkerRecord, stats: WorkerCacheStats | None) -> WatchedCache:
        state = self._view.follow_state(record.key, self._clock.now_s())
        watched = WatchedCache(
            worker_id=record.info.worker_id,
            role=record.role,
            watching=self._follower.is_watching(record.key),
            stats=stats,
        )
        if state is None:
            return watched
        return WatchedCache(
            worker_id=watched.worker_id,
            role=watched.role,
            watching=watched.watching,
            stats=stats,
            stale_s=state.stale_s,
            num_behind=state.num_behind,
            num_gaps=state.num_gaps,
            num_snapshots=state.num_snapshots,
        )

    async def _stats(self, info: WorkerInfo) -> WorkerCacheStats | None:
        try:
            async with self._stub(info) as stub:
                return await stub.get_cache_stats(timeout_s=_STATS_TIMEOUT_S)
        except (TandemError, grpc.aio.AioRpcError, OSError):
            return None  # the status says which worker gave no numbers

    async def _flush(self, info: WorkerInfo, tenant: Tenant | None) -> WorkerFlushed | None:
        """What it came to on one worker; None when it did not answer."""
        try:
            async with self._stub(info) as stub:
                answer = await stub.flush_cache(tenant, timeout_s=_FLUSH_TIMEOUT_S)
        except (TandemError, grpc.aio.AioRpcError, OSError) as error:
            if isinstance(error, TandemError) and error.reason == "UNIMPLEMENTED":
                return WorkerFlushed(num_blocks=0)  # it has no cache
            _log.warning("cache_not_flushed", worker_id=info.worker_id, problem=str(error))
            self._unfinished.missed(tenant, info, now_s=self._clock.now_s())
            return None
        self._unfinished.answered(tenant, info, pending=answer.redis_pending, now_s=self._clock.now_s())
        return answer

    @asynccontextmanager
    async def _stub(self, info: WorkerInfo) -> AsyncIterator[WorkerCacheStub]:
        async with open_channel(info.address, tls=self._tls, insecure=self._insecure) as channel:
            yield WorkerCacheStub(channel)
