"""The replay of traces: its queue leaves no worker idle, its windows miss nothing, its verdict knows chance."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cache_evictions import clairvoyant_hit_blocks, evictions_summary, jittered, mean_and_error
from benchmarks.cache_router import AtArrival, InQueue, LeastLoad, PrefixAffinity, RoundRobin
from benchmarks.cache_traces import SERVING_POLICY
from benchmarks.cache_windows import judge, windows
from benchmarks.cache_world import PrefillWorld, Trace, TraceRequest, WorldConfig, WorldRouter
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.eviction.choice import EvictionName
from tandem.prefix_cache.eviction.lru import Lru
from tandem.prefix_cache.keys import BlockKey
from tandem.router.live import OvertakingPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy

MODEL = LatencyModel(coefficients=LatencyCoefficients(prefill=(0.0, 1e-3, 0.0)))
SPLIT = PlacementPolicy(mode=PlacementMode.SPLIT)
BLOCK = 100
ROUTERS: dict[str, Callable[[], WorldRouter]] = {
    "ours": lambda: InQueue(SPLIT, OvertakingPolicy()),
    "round_robin": lambda: AtArrival(RoundRobin()),
    "least_load": lambda: AtArrival(LeastLoad()),
    "prefix_affinity": lambda: AtArrival(PrefixAffinity()),
}


def request(number: int, arrived_s: float, num_blocks: int, family: int) -> TraceRequest:
    """A prompt of one of several families; those of a family begin alike."""
    keys = tuple(BlockKey(f"{family}/{index}".encode()) for index in range(num_blocks))
    return TraceRequest(number, arrived_s, num_blocks * BLOCK + 1, keys)


def trace_of(*requests: TraceRequest) -> Trace:
    return Trace("made", BLOCK, requests)


def world(router: WorldRouter, *, num_workers: int = 2, capacity_blocks: int = 1000) -> PrefillWorld:
    config = WorldConfig(
        num_workers=num_workers, capacity_blocks=capacity_blocks, block_tokens=BLOCK, model=MODEL, make_policy=Lru
    )
    return PrefillWorld(config, router)


def made_traces() -> st.SearchStrategy[Trace]:
    one = st.tuples(st.floats(0.0, 2.0), st.integers(1, 12), st.integers(0, 3))

    def build(parts: list[tuple[float, int, int]]) -> Trace:
        times = itertools.accumulate(gap_s for gap_s, _, _ in parts)
        return trace_of(*(request(n, at_s, *part[1:]) for n, (at_s, part) in enumerate(zip(times, parts, strict=True))))

    return st.lists(one, min_size=1, max_size=40).map(build)


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=40)
@given(trace=made_traces())
def test_every_request_is_served_once_and_never_faster_than_its_work(name: str, trace: Trace) -> None:
    result = world(ROUTERS[name]()).replay(trace)
    assert len(result.ttft_s) == len(trace.requests)
    assert min(result.ttft_s) >= MODEL.prefill_s(num_new_tokens=1) - 1e-9
    assert result.hit_blocks <= sum(len(one.keys) for one in trace.requests)
    whole_s = sum(MODEL.prefill_s(num_new_tokens=one.num_tokens) for one in trace.requests)
    assert sum(result.busy_s) + result.hit_blocks * BLOCK * 1e-3 == pytest.approx(whole_s)


@settings(max_examples=60)
@given(trace=made_traces())
def test_one_worker_in_our_queue_is_a_line_in_order_of_arrival(trace: Trace) -> None:
    """With one worker nothing is chosen: the queue must add no second of idleness to the plain line."""
    ours = world(ROUTERS["ours"](), num_workers=1).replay(trace)
    line = world(ROUTERS["round_robin"](), num_workers=1).replay(trace)
    assert ours.ttft_s == pytest.approx(line.ttft_s)


def test_who_passes_a_waiting_head_does_not_stand_before_an_idle_worker() -> None:
    """Family 0 is on one worker, which is busy with it; its next waits for that. Others take the second worker."""
    others = [request(2 + n, 1.1 + n * 1e-3, 1, 100 + n) for n in range(20)]
    trace = trace_of(request(0, 0.0, 10, 0), request(1, 1.05, 19, 0), request(2000, 1.06, 19, 0), *others)
    passed = world(InQueue(SPLIT, OvertakingPolicy())).replay(trace)
    stuck = world(InQueue(SPLIT, OvertakingPolicy(max_look=0))).replay(trace)
    assert passed.percentile(0.5) < stuck.percentile(0.5)


def test_who_comes_right_after_a_look_is_looked_at_soon_and_not_at_the_next_event() -> None:
    """Looks beyond the head are paced; the second worker is idle meanwhile, and the next event is 0.6 s away."""
    late = request(3, 1.061, 1, 7)
    trace = trace_of(request(0, 0.0, 10, 0), request(1, 1.05, 19, 0), request(2, 1.06, 19, 0), late)
    result = world(InQueue(SPLIT, OvertakingPolicy())).replay(trace)
    assert result.ttft_s[0] < MODEL.prefill_s(num_new_tokens=late.num_tokens) + 0.006


@given(st.integers(2, 12), st.integers(12, 60))
def test_windows_are_disjoint_and_miss_nothing(num_windows: int, num_requests: int) -> None:
    whole = trace_of(*(request(n, float(n), 1, n) for n in range(num_requests)))
    cut = windows(whole, num_windows)
    assert tuple(one for window in cut for one in window.requests) == whole.requests
    sizes = [len(window.requests) for window in cut]
    assert len(sizes) == num_windows
    assert max(sizes) - min(sizes) <= 1


def test_the_verdict_allows_for_chance_and_for_no_more() -> None:
    other = [10.0, 20.0, 30.0, 40.0]
    assert judge({"ours": [9.0, 19.0, 29.0, 39.0], "other": other}, "ours").is_best_or_equal
    assert judge({"ours": list(other), "other": other}, "ours").is_best_or_equal, "equal is equal"
    assert not judge({"ours": [11.0, 21.0, 31.0, 41.0], "other": other}, "ours").is_best_or_equal, "always worse"
    noisy = judge({"ours": [16.0, 15.0, 35.0, 36.0], "other": other}, "ours")
    assert noisy.mean_difference == pytest.approx(0.5)
    assert noisy.difference_error > 0.5
    assert noisy.is_best_or_equal


def test_the_rival_is_the_one_with_the_lowest_mean() -> None:
    verdict = judge({"ours": [2.0, 2.0], "near": [1.0, 4.0], "far": [9.0, 0.5]}, "ours")
    assert verdict.best_other == "near"
    assert verdict.mean_ratio == pytest.approx((2.0 + 0.5) / 2)


def test_what_is_replayed_evicts_as_what_serves() -> None:
    assert PrefixCacheConfig().eviction is SERVING_POLICY


@settings(max_examples=60)
@given(trace=made_traces(), capacity=st.integers(4, 30))
def test_nobody_hits_more_than_who_knows_what_comes(trace: Trace, capacity: int) -> None:
    result = world(ROUTERS["round_robin"](), num_workers=1, capacity_blocks=capacity).replay(trace)
    assert result.served == (trace.requests,)
    best = clairvoyant_hit_blocks(trace.requests, capacity, BLOCK)
    assert result.hit_blocks <= best <= trace.ideal_hit_blocks()


def test_who_knows_what_comes_keeps_it() -> None:
    """Three prompts in a room for two: LRU loses each just before it is asked for again."""
    trace = trace_of(*(request(n, float(n), 2, n % 3) for n in range(9)))
    assert world(ROUTERS["round_robin"](), num_workers=1, capacity_blocks=4).replay(trace).hit_blocks == 0
    assert clairvoyant_hit_blocks(trace.requests, 4, BLOCK) >= 6
    assert clairvoyant_hit_blocks(trace.requests, 6, BLOCK) == trace.ideal_hit_blocks() == 12


@given(trace=made_traces(), seed=st.integers(1, 9))
def test_a_jittered_copy_is_the_same_requests_a_little_later(trace: Trace, seed: int) -> None:
    copy = jittered(trace, seed)
    assert copy == jittered(trace, seed)
    later = {one.number: one.arrived_s for one in copy.requests}
    assert len(later) == len(trace.requests)
    assert all(0.0 <= later[one.number] - one.arrived_s <= 0.010 for one in trace.requests)
    assert [one.arrived_s for one in copy.requests] == sorted(later.values())


def test_ratios_have_an_error_and_a_summary() -> None:
    mean, error = mean_and_error([1.0, 1.2])
    assert mean == pytest.approx(1.1)
    assert error == pytest.approx(0.1)
    row = {"hits": "more", "hit_ratio": 2.0, "miss_ratio": 0.5, "ttft_p90_ratio": 1.0, "busy_ratio": 0.9}
    other = row | {"hits": "fewer", "hit_ratio": 0.5, "ttft_p90_ratio": 0.25}
    found = evictions_summary([row, other, row | {"hits": "equal"}], EvictionName.LRU)
    assert (found["settings_hit_more"], found["settings_hit_equal"], found["settings_hit_fewer"]) == (1, 1, 1)
    assert found["hit_ratio"] == pytest.approx(2 ** (1 / 3), abs=1e-4)
    assert found["ttft_p90_ratio"] == pytest.approx(0.25 ** (1 / 3), abs=1e-4)
