"""Each policy's order, and that none of them ever loses or invents a block."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.prefix_cache.eviction.choice import EvictionName, make_policy
from tandem.prefix_cache.eviction.cost_aware import CostAware
from tandem.prefix_cache.eviction.lfu_aged import LfuAged
from tandem.prefix_cache.eviction.lru import Lru
from tandem.prefix_cache.eviction.policy import BlockValue, EvictionPolicy
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.eviction.s3_fifo import S3Fifo
from tandem.prefix_cache.keys import BlockKey

CHEAP = BlockValue(recompute_s=1.0)


def name(number: int) -> BlockKey:
    return BlockKey(bytes([number]))


def drain(policy: EvictionPolicy) -> list[int]:
    """Give everything up, in the policy's order."""
    order = []
    while (key := policy.victim()) is not None:
        policy.forget(key)
        order.append(key[0])
    return order


def filled(policy: EvictionPolicy, *numbers: int) -> EvictionPolicy:
    for number in numbers:
        policy.insert(name(number), CHEAP)
    return policy


@pytest.mark.parametrize("which", EvictionName)
def test_without_uses_the_oldest_goes_first(which: EvictionName) -> None:
    assert drain(filled(make_policy(which), 1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("which", EvictionName)
def test_a_block_in_use_is_no_victim(which: EvictionName) -> None:
    policy = filled(make_policy(which), 1, 2)
    policy.remove(name(1))
    assert drain(policy) == [2]
    assert policy.victim() is None
    policy.insert(name(1), CHEAP)
    assert drain(policy) == [1]


@pytest.mark.parametrize("which", EvictionName)
def test_a_used_block_outlives_one_that_was_not(which: EvictionName) -> None:
    policy = filled(make_policy(which), 1, 2, 3)
    policy.touch(name(1))
    assert drain(policy)[-1] == 1


@pytest.mark.parametrize("which", EvictionName)
@given(steps=st.lists(st.tuples(st.sampled_from(["insert", "touch", "remove", "evict", "forget"]), st.integers(0, 9))))
def test_the_victims_are_exactly_the_evictable_blocks(which: EvictionName, steps: list[tuple[str, int]]) -> None:
    policy = make_policy(which)
    cached: set[int] = set()
    evictable: set[int] = set()
    for action, number in steps:
        if action == "insert":
            policy.insert(name(number), CHEAP)
            cached.add(number)
            evictable.add(number)
        elif action == "touch" and number in cached:
            policy.touch(name(number))
        elif action == "remove" and number in cached:
            policy.remove(name(number))
            evictable.discard(number)
        elif action == "forget":
            policy.forget(name(number))
            cached.discard(number)
            evictable.discard(number)
        elif action == "evict":
            victim = policy.victim()
            assert (victim is None) == (not evictable)
            if victim is not None:
                assert victim[0] in evictable
                policy.forget(victim)
                cached.discard(victim[0])
                evictable.discard(victim[0])
    assert sorted(drain(policy)) == sorted(evictable)


def test_lru_follows_the_last_use() -> None:
    policy = filled(Lru(), 1, 2, 3)
    policy.touch(name(1))
    policy.touch(name(2))
    assert drain(policy) == [3, 1, 2]


def test_lfu_keeps_the_popular_and_ages_them() -> None:
    policy = filled(LfuAged(), 1)
    for _ in range(20):
        policy.touch(name(1))
    # A stream of blocks that nobody uses twice ages the cache by one each time; popularity wears off in the end.
    survived = 0
    for number in range(2, 100):
        policy.insert(name(number), CHEAP)
        victim = policy.victim()
        assert victim is not None
        policy.forget(victim)
        if victim == name(1):
            break
        survived += 1
    assert 10 <= survived < 97


def test_cost_aware_keeps_what_is_dear() -> None:
    policy = CostAware()
    policy.insert(name(1), BlockValue(recompute_s=5.0))
    policy.insert(name(2), BlockValue(recompute_s=1.0))
    policy.insert(name(3), BlockValue(recompute_s=3.0))
    assert drain(policy) == [2, 3, 1]


def test_cost_aware_remembers_uses_of_what_comes_back() -> None:
    policy = filled(CostAware(), 1)
    for _ in range(3):
        policy.touch(name(1))
    policy.forget(name(1))
    assert drain(filled(policy, 1, 2)) == [2, 1]


def test_cost_aware_bounds_what_it_remembers() -> None:
    policy = CostAware(max_remembered=2)
    for number in range(10):
        policy.insert(name(number), CHEAP)
        policy.touch(name(number))
        policy.forget(name(number))
    assert len(policy._remembered) == 2


def test_s3_fifo_brings_ghosts_back_to_the_main_queue() -> None:
    policy = filled(S3Fifo(), 1)
    policy.forget(name(1))  # a ghost now
    filled(policy, 1, 2, 3)
    assert drain(policy) == [2, 3, 1]


def test_s3_fifo_is_not_flushed_by_a_scan() -> None:
    """Blocks used twice survive a flood of blocks used once: what plain FIFO and LRU lose."""
    policy = S3Fifo()
    for number in range(8):
        policy.insert(name(number), CHEAP)
        policy.touch(name(number))
    kept = set(range(8))
    for number in range(100, 200):
        policy.insert(name(number), CHEAP)
        victim = policy.victim()
        assert victim is not None
        policy.forget(victim)
        kept.discard(victim[0])
    assert kept == set(range(8))


def test_ranked_blocks_equal_sorting() -> None:
    draw = random.Random(1)
    ranked, plain = RankedBlocks(), dict[int, float]()
    for _ in range(5000):
        number = draw.randrange(50)
        if draw.random() < 0.7:
            rank = draw.random()
            ranked.put(name(number), rank)
            plain[number] = rank
        else:
            ranked.discard(name(number))
            plain.pop(number, None)
        expected = min(plain, key=plain.__getitem__) if plain else None
        lowest = ranked.lowest()
        assert (None if lowest is None else lowest[0]) == expected
    assert len(ranked) == len(plain)
    assert len(ranked._heap) <= 4 * len(plain) + 65  # outdated entries don't pile up


HIT_RATES: dict[str, Callable[[random.Random], int]] = {
    "skewed": lambda draw: min(int(draw.paretovariate(0.8)), 255),
    "scan with a hot set": lambda draw: draw.randrange(8) if draw.random() < 0.5 else draw.randrange(256),
}


@pytest.mark.parametrize("which", EvictionName)
@pytest.mark.parametrize("workload", HIT_RATES)
def test_every_policy_beats_giving_up_at_random(which: EvictionName, workload: str) -> None:
    def hits(evict: Callable[[EvictionPolicy, random.Random, set[int]], int]) -> int:
        draw, policy = random.Random(5), make_policy(which)
        cached: set[int] = set()
        num_hits = 0
        for _ in range(4000):
            number = HIT_RATES[workload](draw)
            if number in cached:
                num_hits += 1
                policy.touch(name(number))
                continue
            if len(cached) >= 16:
                victim = evict(policy, draw, cached)
                policy.forget(name(victim))
                cached.discard(victim)
            policy.insert(name(number), CHEAP)
            cached.add(number)
        return num_hits

    def chosen(policy: EvictionPolicy, draw: random.Random, cached: set[int]) -> int:
        victim = policy.victim()
        assert victim is not None
        return victim[0]

    assert hits(chosen) > hits(lambda policy, draw, cached: draw.choice(sorted(cached)))
