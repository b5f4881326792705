"""What the placements come to, and that equals are drawn fairly."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.cluster import ServingMode
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import Role
from tandem.router.placement import (
    CachedPrefix,
    Demand,
    Placement,
    PlacementCause,
    PlacementMode,
    PlacementPolicy,
    place,
)
from tandem.router.serving import ServingWatch
from tests.unit.router.builders import make_view

PAIR, FASTER = PlacementCause.PAIR, PlacementCause.LOCAL_IS_FASTER


def test_splitting_collapses_when_it_does_not_pay_and_comes_back() -> None:
    watch = ServingWatch()
    assert watch.status(5.0).cause == ""
    changes = [watch.note(cause, float(at)) for at, cause in enumerate([PAIR] * 64 + [FASTER] * 64)]
    assert [mode for mode in changes if mode] == [ServingMode.MIXED, ServingMode.AGGREGATED]
    status = watch.status(200.0)
    assert (status.mode, status.cause) == (ServingMode.AGGREGATED, "local_is_faster")
    assert status.num_placed == {"local_is_faster": 64, "pair": 64}
    assert 0.0 < status.since_s < 100.0
    # 20 of 64 split again: no flicker; then more than half of them.
    assert [watch.note(PAIR, 300.0) for _ in range(20)] == [None] * 20
    back = [watch.note(PAIR, 300.0) for _ in range(44)]
    assert [mode for mode in back if mode] == [ServingMode.MIXED, ServingMode.SPLIT]


@given(st.lists(st.sampled_from(list(PlacementCause)), min_size=1, max_size=200))
def test_the_mode_follows_the_window(causes: list[PlacementCause]) -> None:
    watch = ServingWatch()
    for cause in causes:
        watch.note(cause, 1.0)
    share = sum(not cause.is_split for cause in causes[-64:]) / len(causes[-64:])
    if watch.mode is ServingMode.SPLIT:
        assert share <= 0.1 + 1e-9
    if watch.mode is ServingMode.AGGREGATED:
        assert share >= 0.5
    assert sum(watch.status(1.0).num_placed.values()) == len(causes)


def test_every_placement_says_why() -> None:
    prefill, decode = make_view("prefill-0", Role.PREFILL), make_view("decode-0", Role.DECODE)
    demand = Demand(num_prompt_tokens=64, num_sequences=1, growth_tokens=32)

    def cause(asked: Demand = demand, **policy: object) -> PlacementCause:
        prefills = [] if policy.pop("alone", False) else [prefill]
        choice = place(asked, prefills=prefills, decodes=[decode], policy=PlacementPolicy(**policy))  # type: ignore[arg-type]
        assert isinstance(choice, Placement)
        assert choice.cause.is_split is (choice.prefill is not None)
        return choice.cause

    assert cause() is PlacementCause.PAIR
    assert cause(mode=PlacementMode.AGGREGATED) is PlacementCause.MODE
    assert cause(replace(demand, only_local=True)) is PlacementCause.SEVERAL_SEQUENCES
    assert cause(min_split_tokens=65) is PlacementCause.SHORT_PROMPT
    assert cause(alone=True) is PlacementCause.NO_PREFILL_WORKER


def spread(num_workers: int, num_draws: int = 600, **changed: float) -> Counter[str]:
    """Who is drawn, of idle prefill workers of which the first is changed."""
    prefills = [make_view(f"prefill-{n}", Role.PREFILL) for n in range(num_workers)]
    prefills[0] = replace(prefills[0], **changed)  # type: ignore[arg-type]
    decode = make_view("decode-0", Role.DECODE)
    policy = PlacementPolicy(mode=PlacementMode.SPLIT)
    counts: Counter[str] = Counter()
    for draw in range(num_draws):
        demand = Demand(num_prompt_tokens=64, num_sequences=1, growth_tokens=32, draw=draw * 7919)
        choice = place(demand, prefills=prefills, decodes=[decode], policy=policy)
        assert isinstance(choice, Placement)
        assert choice.prefill is not None
        counts[choice.prefill.worker_id] += 1
    return counts


def test_equals_are_drawn_evenly() -> None:
    counts = spread(4)
    assert len(counts) == 4
    assert min(counts.values()) > 0.7 * 600 / 4


def test_of_two_drawn_the_less_busy_wins() -> None:
    counts = spread(4, queued_prefill_s=0.0005)  # a tie, but busier: it wins only against nobody
    assert counts["prefill-0"] == 0


def test_who_is_worse_by_more_than_a_tie_is_not_drawn() -> None:
    assert spread(3, queued_prefill_s=0.1)["prefill-0"] == 0


def test_without_a_draw_the_name_decides() -> None:
    demand = Demand(num_prompt_tokens=64, num_sequences=1, growth_tokens=32)
    prefills = [make_view(f"prefill-{n}", Role.PREFILL) for n in (2, 0, 1)]
    choice = place(demand, prefills=prefills, decodes=[make_view("decode-0", Role.DECODE)], policy=PlacementPolicy())
    assert isinstance(choice, Placement)
    assert choice.prefill is not None
    assert choice.prefill.worker_id == "prefill-0"


def test_a_decode_worker_that_lacks_less_is_better() -> None:
    decodes = [replace(make_view(f"decode-{n}", Role.DECODE), kv_bytes_per_token=1e6) for n in (0, 1)]
    prefills = [make_view("prefill-0", Role.PREFILL)]
    model = LatencyModel(
        coefficients=LatencyCoefficients(prefill=(0.01, 1e-3, 0.0), step=(0.02, 1e-3, 1e-6), transfer=(0.001, 1e-9))
    )
    decodes = [replace(view, model=model) for view in decodes]
    cached = {decodes[1].key: CachedPrefix(num_tokens=960)}
    demand = Demand(num_prompt_tokens=1000, num_sequences=1, growth_tokens=32, cached=cached)
    choice = place(demand, prefills=prefills, decodes=decodes, policy=PlacementPolicy(mode=PlacementMode.SPLIT))
    assert isinstance(choice, Placement)
    assert choice.decode == decodes[1].key
