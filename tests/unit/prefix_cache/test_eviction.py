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
from tandem.prefix_cache.eviction.weighted_lru import WeightedLru
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
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "insert", "touch", "remove", "evict", "forget"]), st.integers(0, 9))
    )
)
def test_the_victims_are_exactly_the_evictable_blocks(which: EvictionName, steps: list[tuple[str, int]]) -> None:
    policy = make_policy(which)
    cached: set[int] = set()
    evictable: set[int] = set()
    for action, number in steps:
        if action == "insert":
            policy.insert(name(number), CHEAP)
            cached.add(number)
            evictable.add(number)
        elif action == "add" and number not in cached:
            policy.add(name(number), CHEAP)
            cached.add(number)
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


@pytest.mark.parametrize("which", [EvictionName.LRU, EvictionName.WEIGHTED_LRU])
def test_what_becomes_evictable_because_another_went_is_not_new(which: EvictionName) -> None:
    """1 is followed by 2, and was last used before 3: when 2 goes, 1 goes next. Giving up an end renews nothing."""
    policy = make_policy(which)
    for number in (1, 2, 3):
        policy.add(name(number), CHEAP)
        policy.release(name(number))
    policy.insert(name(2), CHEAP)
    policy.insert(name(3), CHEAP)
    assert policy.victim() == name(2)
    policy.forget(name(2))
    policy.insert(name(1), CHEAP)
    assert drain(policy) == [1, 3]


@pytest.mark.parametrize("which", [EvictionName.LRU, EvictionName.WEIGHTED_LRU])
def test_the_end_of_a_use_counts_as_a_use(which: EvictionName) -> None:
    policy = make_policy(which)
    for number in (1, 2, 3):
        policy.add(name(number), CHEAP)
    for number in (2, 3, 1):  # 1 was in use longest
        policy.release(name(number))
        policy.insert(name(number), CHEAP)
        policy.add(name(100 + number), CHEAP)
    assert drain(policy) == [2, 3, 1]


def aged(policy: EvictionPolicy, num_blocks: int, first: int = 100) -> None:
    """So many other blocks are cached meanwhile, and stay in use."""
    for number in range(first, first + num_blocks):
        policy.add(name(number), CHEAP)


@pytest.mark.parametrize(("num_before", "stays"), [(0, False), (14, False), (15, True), (255, True), (10**9, True)])
def test_a_deep_block_outlives_a_shallow_one_of_half_its_age(num_before: int, stays: bool) -> None:
    """Sixteen times the depth is two steps, twice the weight."""
    policy = WeightedLru()
    policy.insert(name(1), BlockValue(recompute_s=1.0, num_blocks_before=num_before))
    aged(policy, 20)
    policy.insert(name(2), CHEAP)
    aged(policy, 22, first=150)
    assert policy.victim() == name(2 if stays else 1)  # ages 43 and 22


@pytest.mark.parametrize("num_uses", [1, 2, 9])
def test_a_block_found_again_outlives_one_that_never_was_until_it_is_that_much_older(num_uses: int) -> None:
    for num_between, expected in ((3, 2), (5, 1)):  # ages 14 and 10, 16 and 10; the weight is 1.41
        policy = WeightedLru()
        policy.add(name(1), CHEAP)
        for _ in range(num_uses):
            policy.touch(name(1))
        policy.release(name(1))
        policy.insert(name(1), CHEAP)
        aged(policy, num_between)
        policy.insert(name(2), CHEAP)
        aged(policy, 10, first=150)
        assert policy.victim() == name(expected), num_between


@given(
    steps=st.lists(st.tuples(st.sampled_from(["ask", "ask", "release", "evict"]), st.integers(0, 70)), max_size=120),
    weight=st.sampled_from([1.0, 1.5, 2.0]),
)
def test_weighted_lru_equals_its_formula(steps: list[tuple[str, int]], weight: float) -> None:
    """Against a model that looks at every block: none older for its weight than the victim."""
    policy = WeightedLru(step_weight=weight)
    clock, last, found, evictable = 0, dict[int, int](), set[int](), set[int]()

    def age(number: int) -> float:
        depth_steps = sum(number + 1 >= bound for bound in (4, 16, 64))
        return (clock - last[number]) / weight ** (depth_steps + (number in found))

    for action, number in steps:
        value = BlockValue(recompute_s=1.0, num_blocks_before=number)
        if action == "ask" and number in last:
            policy.touch(name(number))
            policy.remove(name(number))
            last[number] = clock
            found.add(number)
            evictable.discard(number)
        elif action == "ask":
            policy.add(name(number), value)
            clock += 1
            last[number] = clock
        elif action == "release" and number in last and number not in evictable:
            policy.release(name(number))
            policy.insert(name(number), value)
            last[number] = clock
            evictable.add(number)
        elif action == "evict":
            victim = policy.victim()
            assert (victim is None) == (not evictable)
            if victim is not None:
                assert victim[0] in evictable
                assert age(victim[0]) == max(age(each) for each in evictable)
                policy.forget(victim)
                del last[victim[0]]
                found.discard(victim[0])
                evictable.discard(victim[0])


def test_weighted_lru_forgets_what_is_gone() -> None:
    policy = WeightedLru()
    for number in range(200):
        policy.insert(name(number), BlockValue(recompute_s=1.0, num_blocks_before=number))
        policy.touch(name(number))
        if number >= 8:
            victim = policy.victim()
            assert victim is not None
            policy.forget(victim)
    assert len(policy._blocks) == 8


def test_weighted_lru_without_weights_is_lru() -> None:
    draw = random.Random(3)
    plain, weighted = Lru(), WeightedLru(step_weight=1.0)
    cached: set[int] = set()
    for _ in range(3000):
        number = draw.randrange(60)
        for policy in (plain, weighted):
            if number in cached:
                policy.touch(name(number))
            else:
                policy.insert(name(number), BlockValue(recompute_s=1.0, num_blocks_before=number))
        cached.add(number)
        aged(weighted, 1, first=200)  # time goes on between the uses, so that no two are equally old
        if len(cached) > 20:
            victim = plain.victim()
            assert victim is not None
            assert victim == weighted.victim()
            plain.forget(victim)
            weighted.forget(victim)
            cached.discard(victim[0])


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
