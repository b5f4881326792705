"""A worker's prefix cache behind gRPC: its events, a flush, its numbers."""

import asyncio
import time
from collections.abc import AsyncIterator

from tandem.core.cache import TenantBlocks, WorkerCacheStats, WorkerFlushed
from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.core.kv_events import KvUpdate, WatchFrom
from tandem.engine.kv.block_cache import BlockCache
from tandem.rpc.context import CallContext
from tandem.worker_host.engine_calls import EngineCalls
from tandem.worker_host.kv_watch import KvWatches

_MAX_TENANTS = 100
_TIMEOUT_S = 5.0
_REDIS_S = 1.0  # for Redis to hear of a flush; what it did not hear by then is told as pending
_POLL_S = 0.01


class WorkerCacheServiceHandler:
    """The `WorkerCacheHandler` of `tandem.rpc` over the engine's cache."""

    def __init__(self, cache: BlockCache, calls: EngineCalls, *, clock: Clock) -> None:
        self._cache = cache
        self._calls = calls
        self.watches = KvWatches(cache.events, clock=clock, costs=cache.tier_costs)

    def watch_kv_events(self, start: WatchFrom, call: CallContext) -> AsyncIterator[KvUpdate]:
        """Yield what is held and what changes."""
        return self.watches.follow(start)

    async def flush_cache(self, tenant: Tenant | None, call: CallContext) -> WorkerFlushed:
        """Forget one tenant's blocks, or all. Raises Unavailable when the engine does not come to it in time."""
        num_blocks = await self._calls.run(lambda: self._cache.flush(tenant), timeout_s=_TIMEOUT_S)
        until_s = time.monotonic() + _REDIS_S
        while self._cache.is_flush_pending and time.monotonic() < until_s:  # noqa: ASYNC110  # set by another thread
            await asyncio.sleep(_POLL_S)
        return WorkerFlushed(num_blocks=num_blocks, redis_pending=self._cache.is_flush_pending)

    async def get_cache_stats(self, call: CallContext) -> WorkerCacheStats:
        """Return the numbers. Raises Unavailable as for a flush."""
        stats = await self._calls.run(self._cache.stats, timeout_s=_TIMEOUT_S)
        tenants = sorted(stats.tenants, key=lambda use: (-use.num_blocks, use.tenant))[:_MAX_TENANTS]
        return WorkerCacheStats(
            num_blocks=stats.num_blocks,
            num_idle=stats.num_idle,
            num_kept=stats.num_kept,
            num_prompts=stats.num_prompts,
            num_asked_tokens=stats.num_asked_tokens,
            num_cached_tokens=stats.num_cached_tokens,
            num_evicted=stats.num_evicted,
            num_unpinned=stats.num_unpinned,
            tiers=stats.tiers,
            tenants=tuple(TenantBlocks(tenant=use.tenant, num_blocks=use.num_blocks) for use in tenants),
        )
