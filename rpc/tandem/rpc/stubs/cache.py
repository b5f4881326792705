"""A worker's prefix cache, as a router sees it."""

from collections.abc import AsyncGenerator

import grpc.aio

from tandem.core.cache import WorkerCacheStats, WorkerFlushed
from tandem.core.ids import Tenant
from tandem.core.kv_events import KvUpdate, WatchFrom
from tandem.rpc.codec import cache, kv_events
from tandem.rpc.errors import rpc_errors
from tandem.rpc.services.cache import CACHE_SERVICE
from tandem.rpc.stubs.calls import call_unary
from tandem.rpc.wire import read_message
from tandem.worker.v1 import cache_pb2 as pb


class WorkerCacheStub:
    """Calls to one worker over an open channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def watch_kv_events(self, start: WatchFrom) -> AsyncGenerator[KvUpdate, None]:
        """Yield what the worker holds and what changes, until it ends the stream; close the iterator to leave.

        Raises the Tandem error that the stream ended with; its reason is UNIMPLEMENTED for a worker without a cache.
        """
        method = self._channel.unary_stream(
            f"/{CACHE_SERVICE}/WatchKvEvents", request_serializer=None, response_deserializer=None
        )
        call = method(kv_events.encode_watch(start).SerializeToString())
        try:
            with rpc_errors():
                async for data in call:
                    yield read_message(pb.WatchKvEventsResponse, data, kv_events.decode_update)
        finally:
            call.cancel()

    async def flush_cache(self, tenant: Tenant | None, *, timeout_s: float) -> WorkerFlushed:
        """Forget one tenant's blocks, or all."""
        return await call_unary(
            self._channel,
            f"/{CACHE_SERVICE}/FlushCache",
            pb.FlushCacheRequest(tenant=tenant),
            pb.FlushCacheResponse,
            cache.decode_worker_flushed,
            timeout_s=timeout_s,
        )

    async def get_cache_stats(self, *, timeout_s: float) -> WorkerCacheStats:
        """Return the worker's numbers."""
        return await call_unary(
            self._channel,
            f"/{CACHE_SERVICE}/GetCacheStats",
            pb.GetCacheStatsRequest(),
            pb.GetCacheStatsResponse,
            cache.decode_stats,
            timeout_s=timeout_s,
        )
