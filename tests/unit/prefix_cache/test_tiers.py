"""Blocks in host memory, and when they are worth fetching."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant
from tandem.core.latency import LatencyModel
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import OVERHEAD_BYTES, BlockEnvelope, Refusal
from tandem.prefix_cache.tiers.host import HostBlocks, HostEntry
from tandem.prefix_cache.tiers.promotion import NO_PROMOTION, FetchCost, TierRun, choose_promotion

LAYOUT = hashlib.sha256(b"layout").hexdigest()
ANN, BOB = Tenant("ann"), Tenant("bob")
PAYLOAD = b"p" * 100


def name(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def blocks(capacity: int = 3) -> HostBlocks:
    envelope = BlockEnvelope(b"s" * 32, layout_fingerprint=LAYOUT)
    return HostBlocks(envelope, capacity_bytes=capacity * (len(PAYLOAD) + OVERHEAD_BYTES))


def put(host: HostBlocks, number: int, tenant: Tenant = ANN) -> tuple[BlockKey, ...]:
    return tuple(gone.key for gone in host.put(name(number), tenant, PAYLOAD, host.fence(tenant)) or ())


def test_the_least_recently_used_goes_and_bytes_stay_bounded() -> None:
    host = blocks()
    for number in range(3):
        assert put(host, number) == ()
    assert bytes(host.get(name(0)) or b"") == PAYLOAD
    assert put(host, 3) == (name(1),)
    assert host.num_held([name(0), name(2), name(3)]) == 3
    assert host.get(name(1)) is None
    put(host, 3)  # again: replaces, takes no more room
    stats = host.stats()
    assert (stats.num_blocks, stats.num_bytes) == (3, 3 * (100 + OVERHEAD_BYTES))
    assert (stats.num_hits, stats.num_misses, stats.num_evicted, stats.num_rejected) == (1, 1, 1, 0)


def test_a_block_larger_than_all_room_is_not_kept() -> None:
    host = blocks(1)
    put(host, 0)
    assert host.put(name(1), ANN, PAYLOAD * 2, host.fence(ANN)) is None
    assert host.num_held([name(0)]) == 1
    assert host.num_held([name(1)]) == 0


def test_a_flood_evicts_the_flooder() -> None:
    host = blocks(8)
    for number in range(3):
        put(host, number, BOB)
    for number in range(10, 60):
        put(host, number)
    assert host.num_held([name(0), name(1), name(2)]) == 3
    assert host.stats().num_blocks == 8


@pytest.mark.parametrize("where", range(0, 100 + OVERHEAD_BYTES, 7))
def test_a_changed_byte_is_a_miss_once_and_gone(where: int) -> None:
    host = blocks()
    put(host, 0)
    entry = host._entries.get(name(0))
    assert entry is not None
    value = bytearray(entry.value)
    value[where] ^= 1
    host._entries.put(name(0), ANN, len(value), HostEntry(name(0), ANN, bytes(value)))
    assert host.get(name(0)) is None
    assert host.stats().num_rejected == 1
    assert (host.stats().num_blocks, host.stats().num_bytes) == (0, 0)


def test_a_genuine_value_under_another_name_is_a_miss() -> None:
    host = blocks()
    put(host, 0)
    put(host, 1)
    entry = host._entries.get(name(0))
    assert entry is not None
    host._entries.put(name(1), ANN, len(entry.value), entry)
    assert host.get(name(1)) is None
    assert host.refused == {Refusal.OTHER_KEY: 1}


def test_a_flush_takes_one_tenants_blocks_and_those_on_their_way() -> None:
    host = blocks()
    put(host, 0)
    put(host, 1, BOB)
    of_ann, of_bob = host.fence(ANN), host.fence(BOB)
    assert host.flush(ANN) == (name(0),)
    host.put(name(2), ANN, PAYLOAD, of_ann)
    host.put(name(3), BOB, PAYLOAD, of_bob)
    assert host.num_held([name(2)]) == 0
    assert host.num_held([name(1), name(3)]) == 2
    of_bob = host.fence(BOB)
    assert set(host.flush(None)) == {name(1), name(3)}
    host.put(name(4), BOB, PAYLOAD, of_bob)
    assert host.stats().num_blocks == host.stats().num_bytes == 0


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="memory_bytes"):
        blocks(0)


def prefill_s(num_new: int, num_cached: int) -> float:
    return 1e-3 * num_new + 1e-7 * num_new * num_cached


def run(prompt: int = 101, device: int = 0, tier: int = 10) -> TierRun:
    return TierRun(
        num_prompt_tokens=prompt, num_device_blocks=device, num_tier_blocks=tier, block_size=10, block_bytes=1000
    )


FAST = FetchCost(fixed_s=1e-3, s_per_byte=1e-7)


def test_a_fast_tier_is_read_and_tells_what_it_saves() -> None:
    choice = choose_promotion(run(), FAST, prefill_s, deadline_s=1.0)
    assert choice.num_blocks == 10
    assert choice.saved_s == pytest.approx(prefill_s(101, 0) - (2e-3 + prefill_s(1, 100)))


@pytest.mark.parametrize("cost", [FetchCost(fixed_s=0.2, s_per_byte=0.0), FetchCost(fixed_s=0.0, s_per_byte=2e-5)])
def test_a_tier_slower_than_computing_is_left_alone(cost: FetchCost) -> None:
    assert choose_promotion(run(), cost, prefill_s, deadline_s=10.0) == NO_PROMOTION


def test_the_last_token_is_computed_and_the_device_part_counts() -> None:
    assert choose_promotion(run(prompt=100), FAST, prefill_s, deadline_s=1.0).num_blocks == 9
    assert choose_promotion(run(device=4), FAST, prefill_s, deadline_s=1.0).num_blocks == 6
    assert choose_promotion(run(device=10), FAST, prefill_s, deadline_s=1.0) == NO_PROMOTION


def test_a_deadline_shortens_the_run_or_forbids_it() -> None:
    assert choose_promotion(run(), FAST, prefill_s, deadline_s=1.55e-3).num_blocks == 5
    assert choose_promotion(run(), FAST, prefill_s, deadline_s=0.5e-3) == NO_PROMOTION
    free = FetchCost(fixed_s=1.0, s_per_byte=0.0)
    assert choose_promotion(run(prompt=100001), free, prefill_s, deadline_s=0.5) == NO_PROMOTION


@settings(max_examples=200, deadline=None)
@given(
    st.builds(run, prompt=st.integers(121, 400), device=st.integers(0, 12), tier=st.integers(0, 40)),
    st.builds(FetchCost, fixed_s=st.floats(0.0, 0.05), s_per_byte=st.floats(0.0, 2e-5)),
    st.floats(0.0, 0.1),
)
def test_no_other_length_within_the_deadline_saves_more(run: TierRun, cost: FetchCost, deadline_s: float) -> None:
    def model_s(num_new: int, num_cached: int) -> float:
        return LatencyModel().prefill_s(num_new_tokens=num_new, num_cached_tokens=num_cached)

    choice = choose_promotion(run, cost, model_s, deadline_s=deadline_s)
    prompt, device = run.num_prompt_tokens, run.num_device_blocks
    best = 0.0
    for num_blocks in range(1, min(run.num_tier_blocks, (prompt - 1) // 10 - device) + 1):
        fetch_s = cost.fixed_s + 1000 * num_blocks * cost.s_per_byte
        if fetch_s <= deadline_s - 1e-12:
            after = 10 * (device + num_blocks)
            best = max(best, model_s(prompt - 10 * device, 10 * device) - fetch_s - model_s(prompt - after, after))
    assert choice.saved_s >= best - 1e-9
    assert cost.fixed_s + 1000 * choice.num_blocks * cost.s_per_byte <= deadline_s + 1e-9 or not choice.num_blocks
