"""The prefix cache in numbers, and flushes: worker, admin and public form."""

from tandem.admin.v1 import cache_pb2 as admin_pb
from tandem.core.cache import (
    CacheStatus,
    Flushed,
    IndexStatus,
    TenantBlocks,
    TenantUsage,
    TierStats,
    WatchedCache,
    WorkerCacheStats,
    WorkerFlushed,
)
from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant, WorkerId
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2
from tandem.rpc.codec.kv_events import TIER
from tandem.worker.v1 import cache_pb2 as worker_pb


def encode_stats(stats: WorkerCacheStats) -> worker_pb.GetCacheStatsResponse:
    """Core to protobuf."""
    return worker_pb.GetCacheStatsResponse(
        num_blocks=stats.num_blocks,
        num_idle=stats.num_idle,
        num_kept=stats.num_kept,
        num_prompts=stats.num_prompts,
        num_asked_tokens=stats.num_asked_tokens,
        num_cached_tokens=stats.num_cached_tokens,
        num_evicted=stats.num_evicted,
        num_unpinned=stats.num_unpinned,
        tiers=[
            worker_pb.KvTierStats(
                tier=TIER.encode(tier.tier),
                num_blocks=tier.num_blocks,
                num_hit_tokens=tier.num_hit_tokens,
                num_bytes=tier.num_bytes,
                num_demoted=tier.num_demoted,
                num_promoted=tier.num_promoted,
                num_rejected=tier.num_rejected,
                num_skipped=tier.num_skipped,
            )
            for tier in stats.tiers
        ],
        tenants=[worker_pb.TenantCacheStats(tenant=use.tenant, num_blocks=use.num_blocks) for use in stats.tenants],
    )


def decode_stats(message: worker_pb.GetCacheStatsResponse) -> WorkerCacheStats:
    """Protobuf to core. Raises InvalidArgument for a tier without a meaning."""
    return WorkerCacheStats(
        num_blocks=message.num_blocks,
        num_idle=message.num_idle,
        num_kept=message.num_kept,
        num_prompts=message.num_prompts,
        num_asked_tokens=message.num_asked_tokens,
        num_cached_tokens=message.num_cached_tokens,
        num_evicted=message.num_evicted,
        num_unpinned=message.num_unpinned,
        tiers=tuple(
            TierStats(
                tier=TIER.decode(tier.tier, field="tier"),
                num_blocks=tier.num_blocks,
                num_hit_tokens=tier.num_hit_tokens,
                num_bytes=tier.num_bytes,
                num_demoted=tier.num_demoted,
                num_promoted=tier.num_promoted,
                num_rejected=tier.num_rejected,
                num_skipped=tier.num_skipped,
            )
            for tier in message.tiers
        ),
        tenants=tuple(TenantBlocks(tenant=Tenant(use.tenant), num_blocks=use.num_blocks) for use in message.tenants),
    )


def encode_cache_status(status: CacheStatus) -> admin_pb.GetCacheStatusResponse:
    """Core to protobuf."""
    index = status.index
    return admin_pb.GetCacheStatusResponse(
        enabled=status.enabled,
        index=admin_pb.IndexStatus(
            num_blocks=index.num_blocks,
            max_blocks=index.max_blocks,
            num_overflowed=index.num_overflowed,
            num_expected=index.num_expected,
        ),
        workers=[_encode_watched(watched) for watched in status.workers],
        tenants=[
            admin_pb.TenantUsage(
                tenant=usage.tenant,
                num_requests=usage.num_requests,
                cached_tokens=usage.cached_tokens,
                uncached_tokens=usage.uncached_tokens,
            )
            for usage in status.tenants
        ],
    )


def decode_cache_status(message: admin_pb.GetCacheStatusResponse) -> CacheStatus:
    """Protobuf to core. Raises InvalidArgument for a role or tier without a meaning."""
    index = message.index
    return CacheStatus(
        enabled=message.enabled,
        index=IndexStatus(
            num_blocks=index.num_blocks,
            max_blocks=index.max_blocks,
            num_overflowed=index.num_overflowed,
            num_expected=index.num_expected,
        ),
        workers=tuple(_decode_watched(watched) for watched in message.workers),
        tenants=tuple(
            TenantUsage(
                tenant=Tenant(usage.tenant),
                num_requests=usage.num_requests,
                cached_tokens=usage.cached_tokens,
                uncached_tokens=usage.uncached_tokens,
            )
            for usage in message.tenants
        ),
    )


def decode_flush(message: admin_pb.FlushPrefixCacheRequest | worker_pb.FlushCacheRequest) -> Tenant | None:
    """Protobuf to core: whose prefixes; None = everybody's. Raises InvalidArgument for an empty name."""
    if not message.HasField("tenant"):
        return None
    if not message.tenant:
        raise InvalidArgument("tenant", "is empty", remedy="name a tenant, or leave it out to flush all of them")
    return Tenant(message.tenant)


def encode_flushed(flushed: Flushed) -> admin_pb.FlushPrefixCacheResponse:
    """Core to an operator's protobuf."""
    return admin_pb.FlushPrefixCacheResponse(
        num_blocks=flushed.num_blocks,
        num_workers=flushed.num_workers,
        num_missed=flushed.num_missed,
        num_pending=flushed.num_pending,
    )


def encode_own_flushed(flushed: Flushed) -> inference_pb2.FlushPrefixCacheResponse:
    """Core to a caller's protobuf."""
    return inference_pb2.FlushPrefixCacheResponse(
        num_blocks=flushed.num_blocks,
        num_workers=flushed.num_workers,
        num_missed=flushed.num_missed,
        num_pending=flushed.num_pending,
    )


def decode_flushed(message: admin_pb.FlushPrefixCacheResponse | inference_pb2.FlushPrefixCacheResponse) -> Flushed:
    """Protobuf to core."""
    return Flushed(
        num_blocks=message.num_blocks,
        num_workers=message.num_workers,
        num_missed=message.num_missed,
        num_pending=message.num_pending,
    )


def encode_worker_flushed(flushed: WorkerFlushed) -> worker_pb.FlushCacheResponse:
    """Core to a worker's protobuf."""
    return worker_pb.FlushCacheResponse(num_blocks=flushed.num_blocks, redis_pending=flushed.redis_pending)


def decode_worker_flushed(message: worker_pb.FlushCacheResponse) -> WorkerFlushed:
    """Protobuf to core."""
    return WorkerFlushed(num_blocks=message.num_blocks, redis_pending=message.redis_pending)


def _encode_watched(watched: WatchedCache) -> admin_pb.WatchedCache:
    return admin_pb.WatchedCache(
        worker_id=watched.worker_id,
        role=watched.role.value,
        watching=watched.watching,
        stale_ms=None if watched.stale_s is None else 1e3 * watched.stale_s,
        num_behind=watched.num_behind,
        num_gaps=watched.num_gaps,
        num_snapshots=watched.num_snapshots,
        stats=None if watched.stats is None else encode_stats(watched.stats),
    )


def _decode_watched(message: admin_pb.WatchedCache) -> WatchedCache:
    try:
        role = Role(message.role)
    except ValueError:
        raise InvalidArgument("role", f"is {message.role[:32]!r}", remedy="use one release on both sides") from None
    return WatchedCache(
        worker_id=WorkerId(message.worker_id),
        role=role,
        watching=message.watching,
        stale_s=message.stale_ms / 1e3 if message.HasField("stale_ms") else None,
        num_behind=message.num_behind,
        num_gaps=message.num_gaps,
        num_snapshots=message.num_snapshots,
        stats=decode_stats(message.stats) if message.HasField("stats") else None,
    )
