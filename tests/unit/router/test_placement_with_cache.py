"""What is cached where changes who computes a prompt, within bounds, and never by more than it saves."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import Role
from tandem.router.actions import WorkerKey
from tandem.router.placement import (
    CachedPrefix,
    Demand,
    Placement,
    PlacementMode,
    PlacementPolicy,
    WorkerView,
    num_cached_for,
    place,
)
from tandem.router.placement_costs import predict_handover_s
from tests.unit.router.builders import P2, D, P, make_view

MODEL = LatencyModel(coefficients=LatencyCoefficients(prefill=(0.0, 1e-3, 0.0), step=(0.01, 0.001, 0.0)))
SPLIT = PlacementPolicy(mode=PlacementMode.SPLIT, look_ahead_s=1e9)


def worker(name: str, role: Role, **kwargs: Any) -> WorkerView:
    return replace(make_view(name, role), model=MODEL, total_blocks=100_000, free_blocks=100_000, **kwargs)


def prefill(number: int = 0, *, queued_s: float = 0.0) -> WorkerView:
    return worker(f"prefill-{number}", Role.PREFILL, queued_prefill_s=queued_s)


def demand(cached: dict[WorkerKey, CachedPrefix] | None = None, *, tokens: int = 1000, waiting: int = 0) -> Demand:
    return Demand(num_prompt_tokens=tokens, num_sequences=1, growth_tokens=16, cached=cached or {}, num_waiting=waiting)


def choose(
    asked: Demand, prefills: list[WorkerView], policy: PlacementPolicy = SPLIT, decodes: list[WorkerView] | None = None
) -> Placement:
    choice = place(asked, prefills=prefills, decodes=decodes or [worker("decode-0", Role.DECODE)], policy=policy)
    assert isinstance(choice, Placement), choice
    return choice


def held(tokens: int, fetch_s: float = 0.0) -> CachedPrefix:
    return CachedPrefix(num_tokens=tokens, fetch_s=fetch_s)


def test_who_holds_the_prefix_computes_the_rest() -> None:
    choice = choose(demand({P2: held(800)}), [prefill(0), prefill(1)])
    assert choice.prefill == P2
    assert choice.predicted_prefill_s == pytest.approx(0.2)
    assert choice.predicted_ttft_s == pytest.approx(0.2)


def test_a_long_queue_outweighs_a_cached_prefix() -> None:
    workers = [prefill(0), prefill(1, queued_s=5.0)]
    assert choose(demand({P2: held(999)}), workers).prefill == P


def test_who_waits_makes_saved_work_worth_more() -> None:
    """Idle pool: 1.5 s of queue are too much for 0.8 s saved (twice). With ten waiting they are not."""
    workers = [prefill(0), prefill(1, queued_s=1.8)]
    cached = {P2: held(800)}
    assert choose(demand(cached), workers).prefill == P
    assert choose(demand(cached, waiting=10), workers).prefill == P2


@given(st.integers(1, 20_000), st.integers(0, 20_000), st.floats(0.0, 100.0), st.integers(0, 1000))
def test_affinity_costs_at_most_the_bound(tokens: int, cached: int, queued_s: float, waiting: int) -> None:
    """Predicted TTFT is never worse than the best worker's by more than the policy says."""
    workers = [prefill(0), prefill(1, queued_s=queued_s)]
    asked = demand({P2: held(cached)}, tokens=tokens, waiting=waiting)
    best_s = min(choose(asked, [one]).predicted_ttft_s for one in workers)
    assert (
        choose(asked, workers).predicted_ttft_s <= best_s * (1 + SPLIT.max_affinity_share) + SPLIT.max_affinity_s + 1e-9
    )


@given(st.integers(2, 5000), st.integers(0, 5000), st.integers(0, 5000), st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_more_overlap_never_loses_a_request(
    tokens: int, cached: int, more: int, queued_s: float, other_s: float
) -> None:
    """Monotone: whoever is chosen is still chosen when it holds more."""
    workers = [prefill(0, queued_s=other_s), prefill(1, queued_s=queued_s)]
    if choose(demand({P2: held(cached)}, tokens=tokens), workers).prefill == P2:
        assert choose(demand({P2: held(cached + more)}, tokens=tokens), workers).prefill == P2


@given(st.integers(2, 5000), st.integers(0, 5000), st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_more_load_never_wins_a_request(tokens: int, cached: int, queued_s: float, more_s: float) -> None:
    """Monotone: whoever is not chosen is not chosen when it is busier."""
    asked = demand({P2: held(cached)}, tokens=tokens)
    if choose(asked, [prefill(0), prefill(1, queued_s=queued_s)]).prefill == P:
        assert choose(asked, [prefill(0), prefill(1, queued_s=queued_s + more_s)]).prefill == P


def test_a_slow_fetch_is_not_made() -> None:
    asked = demand({P: held(800, fetch_s=0.9)})
    assert num_cached_for(asked, prefill()) == 0
    assert choose(asked, [prefill()]).predicted_prefill_s == pytest.approx(1.0)
    assert num_cached_for(demand({P: held(800, fetch_s=0.7)}), prefill()) == 800


@given(st.integers(1, 100), st.integers(0, 200))
def test_one_token_is_always_computed(tokens: int, cached: int) -> None:
    assert num_cached_for(demand({P: held(cached)}, tokens=tokens), prefill()) <= max(tokens - 1, 0)


def test_decode_that_holds_the_prefix_takes_it_locally() -> None:
    """Ten turns later D has everything but the last question: no hand-over is worth it."""
    decode = worker("decode-0", Role.DECODE, kv_bytes_per_token=1.0)
    policy = PlacementPolicy(look_ahead_s=1e9)
    assert choose(demand({D: held(990)}), [prefill()], policy, [decode]).prefill is None
    assert choose(demand(), [prefill()], policy, [decode]).prefill == P


def test_only_what_decode_lacks_is_charged_for_the_hand_over() -> None:
    slow_link = LatencyModel(
        coefficients=LatencyCoefficients(prefill=(0.0, 1e-3, 0.0), step=(0.01, 0.001, 0.0), transfer=(0.0, 1e-6))
    )
    decode = replace(worker("decode-0", Role.DECODE, kv_bytes_per_token=1e4, num_sequences=4), model=slow_link)
    policy = PlacementPolicy(look_ahead_s=1e9, itl_weight=10.0)
    # 1000 tokens at 10 ms each to move: local is better. 900 of them are there, and computing locally would hurt.
    assert choose(demand(), [prefill()], policy, [replace(decode, num_sequences=0)]).prefill is None
    busy = choose(demand({D: held(900), P: held(999)}), [prefill()], policy, [decode])
    assert busy.prefill == P


@pytest.mark.parametrize(("num_slow", "num_moved"), [(0, 200), (300, 500), (800, 1000)])
def test_what_a_decode_worker_holds_in_a_slower_tier_is_handed_over_all_the_same(num_slow: int, num_moved: int) -> None:
    slow = CachedPrefix(num_tokens=800, fetch_s=1e-6, num_slow_tokens=num_slow)
    decode = worker("decode-0", Role.DECODE, kv_bytes_per_token=10.0)
    assert predict_handover_s(demand({D: slow}), decode) == MODEL.transfer_s(num_bytes=10 * num_moved)
