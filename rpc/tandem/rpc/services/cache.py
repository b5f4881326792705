"""The services of the prefix cache: a worker's towards its routers, a router's towards operators."""

from collections.abc import AsyncIterator
from typing import Protocol

from tandem.admin.v1 import cache_pb2 as admin_pb
from tandem.core.cache import CacheStatus, Flushed, WorkerCacheStats, WorkerFlushed
from tandem.core.ids import Tenant
from tandem.core.kv_events import KvUpdate, WatchFrom
from tandem.rpc.codec import cache, kv_events
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, streaming, unary
from tandem.worker.v1 import cache_pb2 as worker_pb

CACHE_SERVICE = "tandem.worker.v1.CacheService"
CACHE_ADMIN_SERVICE = "tandem.admin.v1.CacheAdminService"


class WorkerCacheHandler(Protocol):
    """A worker's prefix cache as routers see it."""

    def watch_kv_events(self, start: WatchFrom, call: CallContext) -> AsyncIterator[KvUpdate]:
        """Yield what is held and what changes; the iterator is closed when the router leaves."""
        ...

    async def flush_cache(self, tenant: Tenant | None, call: CallContext) -> WorkerFlushed:
        """Forget one tenant's blocks, or all."""
        ...

    async def get_cache_stats(self, call: CallContext) -> WorkerCacheStats:
        """Return the numbers."""
        ...


class CacheAdminHandler(Protocol):
    """The cluster's prefix cache as operators see it."""

    async def get_cache_status(self, call: CallContext) -> CacheStatus:
        """Return the numbers of all workers and of this router."""
        ...

    async def flush_prefix_cache(self, tenant: Tenant | None, call: CallContext) -> Flushed:
        """Forget one tenant's prefixes, or all, everywhere."""
        ...


def worker_cache_service(handler: WorkerCacheHandler) -> Service:
    """Return a worker's cache service over ``handler``."""

    async def get_cache_stats(_: None, call: CallContext) -> WorkerCacheStats:
        return await handler.get_cache_stats(call)

    path = f"/{CACHE_SERVICE}/"
    return Service(
        name=CACHE_SERVICE,
        methods={
            "WatchKvEvents": streaming(
                path + "WatchKvEvents",
                worker_pb.WatchKvEventsRequest,
                kv_events.decode_watch,
                handler.watch_kv_events,
                kv_events.encode_update,
            ),
            "FlushCache": unary(
                path + "FlushCache",
                worker_pb.FlushCacheRequest,
                cache.decode_flush,
                handler.flush_cache,
                cache.encode_worker_flushed,
            ),
            "GetCacheStats": unary(
                path + "GetCacheStats",
                worker_pb.GetCacheStatsRequest,
                lambda _: None,
                get_cache_stats,
                cache.encode_stats,
            ),
        },
    )


def cache_admin_service(handler: CacheAdminHandler) -> Service:
    """Return a router's cache service for operators over ``handler``."""

    async def get_cache_status(_: None, call: CallContext) -> CacheStatus:
        return await handler.get_cache_status(call)

    path = f"/{CACHE_ADMIN_SERVICE}/"
    return Service(
        name=CACHE_ADMIN_SERVICE,
        methods={
            "GetCacheStatus": unary(
                path + "GetCacheStatus",
                admin_pb.GetCacheStatusRequest,
                lambda _: None,
                get_cache_status,
                cache.encode_cache_status,
            ),
            "FlushPrefixCache": unary(
                path + "FlushPrefixCache",
                admin_pb.FlushPrefixCacheRequest,
                cache.decode_flush,
                handler.flush_prefix_cache,
                cache.encode_flushed,
            ),
        },
    )
