"""Cache events, numbers and flushes survive the way over the wire; cut names and unknown kinds are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    hit_rates,
)
from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant
from tandem.core.kv_events import (
    BlockKey,
    Cleared,
    KvUpdate,
    NumberedEvent,
    Removed,
    SnapshotPart,
    Stored,
    Tier,
    TierCost,
    WatchFrom,
)
from tandem.inference.v1 import inference_pb2
from tandem.rpc.codec import cache, kv_events
from tandem.worker.v1 import cache_pb2 as worker_pb
from tests.unit.rpc.strategies import epoch, flag, maybe, role, text, u32, u63, worker_id

count = u63
seconds = st.integers(0, 10**6).map(float)  # a thousandth of a thousand times as much is the same again
tier = st.sampled_from(Tier)
keys = st.lists(st.binary(min_size=32, max_size=32).map(BlockKey), max_size=4).map(tuple)
stored = st.builds(Stored, keys=keys, tier=tier)
kv_event = stored | st.builds(Removed, keys=keys, tier=tier) | st.just(Cleared())
update = st.builds(
    KvUpdate,
    epoch=epoch,
    last_sequence=count,
    waited_s=seconds,
    snapshot=maybe(
        st.builds(SnapshotPart, sequence=count, held=st.lists(stored, max_size=2).map(tuple), first=flag, last=flag)
    ),
    events=st.lists(st.builds(NumberedEvent, sequence=count, event=kv_event), max_size=3).map(tuple),
    costs=st.lists(st.builds(TierCost, tier=tier, fixed_s=seconds, s_per_byte=seconds), max_size=2).map(tuple),
)
stats = st.builds(
    WorkerCacheStats,
    num_blocks=count,
    num_idle=count,
    num_kept=count,
    num_prompts=count,
    num_asked_tokens=count,
    num_cached_tokens=count,
    num_evicted=count,
    num_unpinned=count,
    tiers=st.lists(
        st.builds(
            TierStats,
            tier=tier,
            num_blocks=count,
            num_hit_tokens=count,
            num_bytes=count,
            num_demoted=count,
            num_promoted=count,
            num_rejected=count,
            num_skipped=count,
        ),
        max_size=2,
    ).map(tuple),
    tenants=st.lists(st.builds(TenantBlocks, tenant=text.map(Tenant), num_blocks=count), max_size=2).map(tuple),
)
watched = st.builds(
    WatchedCache,
    worker_id=worker_id,
    role=role,
    watching=flag,
    stale_s=maybe(seconds),
    num_behind=count,
    num_gaps=count,
    num_snapshots=count,
    stats=maybe(stats),
)
status = st.builds(
    CacheStatus,
    enabled=flag,
    index=st.builds(IndexStatus, num_blocks=count, max_blocks=count, num_overflowed=count, num_expected=count),
    workers=st.lists(watched, max_size=2).map(tuple),
    tenants=st.lists(
        st.builds(TenantUsage, tenant=text.map(Tenant), num_requests=count, cached_tokens=count, uncached_tokens=count),
        max_size=2,
    ).map(tuple),
)
flushed = st.builds(Flushed, num_blocks=count, num_workers=u32, num_missed=u32)
watch = st.builds(WatchFrom, epoch=maybe(epoch), start_sequence=count)

PAIRS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any], Any, Callable[[Any], Any]]] = {
    "watch": (watch, kv_events.encode_watch, worker_pb.WatchKvEventsRequest, kv_events.decode_watch),
    "update": (update, kv_events.encode_update, worker_pb.WatchKvEventsResponse, kv_events.decode_update),
    "stats": (stats, cache.encode_stats, worker_pb.GetCacheStatsResponse, cache.decode_stats),
    "status": (status, cache.encode_cache_status, admin_pb.GetCacheStatusResponse, cache.decode_cache_status),
    "flushed": (flushed, cache.encode_flushed, admin_pb.FlushPrefixCacheResponse, cache.decode_flushed),
    "own flushed": (
        flushed,
        cache.encode_own_flushed,
        inference_pb2.FlushPrefixCacheResponse,
        cache.decode_flushed,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    strategy, encode, wire, decode = PAIRS[name]
    value = data.draw(strategy)
    assert decode(wire.FromString(encode(value).SerializeToString())) == value


def test_names_that_are_cut_are_refused() -> None:
    blocks = worker_pb.KvBlocks(keys=b"x" * 33, tier=worker_pb.KV_TIER_DEVICE)
    message = worker_pb.WatchKvEventsResponse(events=[worker_pb.KvEvent(sequence=1, stored=blocks)])
    with pytest.raises(InvalidArgument, match="whole names of 32 bytes"):
        kv_events.decode_update(message)


def test_an_event_of_no_kind_is_refused() -> None:
    message = worker_pb.WatchKvEventsResponse(events=[worker_pb.KvEvent(sequence=1)])
    with pytest.raises(InvalidArgument, match="one release on both sides"):
        kv_events.decode_update(message)


def test_a_flush_names_a_tenant_or_nobody_and_never_the_empty_one() -> None:
    """An empty name that meant everybody would make a caller's slip delete the caches of all customers."""
    assert cache.decode_flush(admin_pb.FlushPrefixCacheRequest()) is None
    assert cache.decode_flush(admin_pb.FlushPrefixCacheRequest(tenant="acme")) == "acme"
    with pytest.raises(InvalidArgument, match="tenant: is empty"):
        cache.decode_flush(admin_pb.FlushPrefixCacheRequest(tenant=""))


def test_hit_rates_are_shares_of_all_tokens_asked_for() -> None:
    device = TierStats(tier=Tier.DEVICE, num_blocks=1, num_hit_tokens=30)
    host = TierStats(tier=Tier.HOST, num_blocks=1, num_hit_tokens=10)
    of_one = WorkerCacheStats(num_asked_tokens=60, tiers=(device, host))
    of_two = WorkerCacheStats(num_asked_tokens=40, tiers=(device,))
    assert hit_rates((of_one, of_two)) == {Tier.DEVICE: 0.6, Tier.HOST: 0.1}
    assert hit_rates((WorkerCacheStats(tiers=(TierStats(tier=Tier.DEVICE, num_blocks=0, num_hit_tokens=0),)),)) == {
        Tier.DEVICE: 0.0
    }


@pytest.mark.parametrize("cost", [{"fixed_ms": -1.0}, {"ns_per_byte": float("nan")}, {"fixed_ms": float("inf")}])
def test_a_cost_that_is_no_time_is_refused(cost: dict[str, float]) -> None:
    message = worker_pb.WatchKvEventsResponse(costs=[worker_pb.KvTierCost(tier=worker_pb.KV_TIER_HOST, **cost)])
    with pytest.raises(InvalidArgument, match=f"costs.{next(iter(cost))}"):
        kv_events.decode_update(message)
