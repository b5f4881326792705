"""Where a request runs, and why."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core import reasons
from tandem.core.types import Role
from tandem.router.actions import Pair
from tandem.router.placement import (
    Demand,
    NoCapacity,
    Placement,
    PlacementMode,
    PlacementPolicy,
    WorkerView,
    num_blocks_for,
    place,
    place_held,
)
from tests.unit.router.builders import D2, P2, D, P, make_view

AUTO = PlacementPolicy()
SPLIT = PlacementPolicy(mode=PlacementMode.SPLIT)
AGGREGATED = PlacementPolicy(mode=PlacementMode.AGGREGATED)


def demand(prompt: int = 64, n: int = 1, growth: int = 32) -> Demand:
    return Demand(num_prompt_tokens=prompt, num_sequences=n, growth_tokens=growth)


def prefill(name: str = "prefill-0", **kwargs: Any) -> WorkerView:
    return replace(make_view(name, Role.PREFILL), **kwargs)


def decode(name: str = "decode-0", **kwargs: Any) -> WorkerView:
    return replace(make_view(name, Role.DECODE), **kwargs)


def placed(choice: Placement | NoCapacity) -> Placement:
    assert isinstance(choice, Placement), choice
    return choice


def refused(choice: Placement | NoCapacity) -> NoCapacity:
    assert isinstance(choice, NoCapacity), choice
    return choice


def test_an_idle_pair_is_split() -> None:
    choice = placed(place(demand(), prefills=[prefill()], decodes=[decode()], policy=AUTO))
    assert (choice.prefill, choice.decode) == (P, D)
    assert choice.predicted_ttft_s == pytest.approx(0.01 + 0.064)
    assert choice.num_blocks == 6


def test_the_less_loaded_of_each_is_chosen() -> None:
    choice = placed(
        place(
            demand(),
            prefills=[prefill(queued_prefill_s=0.2), prefill("prefill-1")],
            decodes=[decode(num_sequences=3), decode("decode-1")],
            policy=AUTO,
        )
    )
    assert (choice.prefill, choice.decode) == (P2, D2)


def test_without_a_prefill_worker_the_prompt_is_computed_locally() -> None:
    choice = placed(place(demand(), prefills=[], decodes=[decode()], policy=AUTO))
    assert choice.prefill is None
    assert "no prefill worker" in choice.reason


def test_split_mode_waits_for_a_prefill_worker() -> None:
    assert "split" in refused(place(demand(), prefills=[], decodes=[decode()], policy=SPLIT)).reason


def test_aggregated_mode_never_splits() -> None:
    choice = placed(place(demand(), prefills=[prefill()], decodes=[decode()], policy=AGGREGATED))
    assert choice.prefill is None


def test_a_busy_prefill_pool_makes_local_prefill_pay() -> None:
    choice = placed(place(demand(), prefills=[prefill(queued_prefill_s=1.0)], decodes=[decode()], policy=AUTO))
    assert choice.prefill is None
    assert "predicted" in choice.reason


def test_harm_to_running_sequences_speaks_against_local_prefill() -> None:
    busy_d = decode(num_sequences=6)
    choice = place(demand(prompt=512), prefills=[prefill(queued_prefill_s=0.2)], decodes=[busy_d], policy=AUTO)
    assert placed(choice).prefill == P
    idle_d = decode()
    choice = place(demand(prompt=512), prefills=[prefill(queued_prefill_s=0.2)], decodes=[idle_d], policy=AUTO)
    assert placed(choice).prefill is None


def test_late_binding_waits_for_credit() -> None:
    busy = [prefill(queued_prefill_s=0.3), prefill("prefill-1", queued_prefill_s=0.26)]
    choice = refused(place(demand(), prefills=busy, decodes=[decode()], policy=SPLIT))
    assert "look-ahead" in choice.reason
    assert not choice.never


@pytest.mark.parametrize("full", [decode(num_sequences=8), decode(free_blocks=5)])
def test_d_needs_a_slot_and_blocks(full: WorkerView) -> None:
    assert not refused(place(demand(), prefills=[prefill()], decodes=[full], policy=AUTO)).never


def test_what_no_worker_could_ever_hold_is_told_apart() -> None:
    small = decode(free_blocks=5, total_blocks=5)
    assert refused(place(demand(), prefills=[prefill()], decodes=[small], policy=AUTO)).never
    assert refused(place(demand(n=4), prefills=[], decodes=[decode(max_sequences=3)], policy=AUTO)).never


def test_no_decode_worker_is_not_for_ever() -> None:
    assert not refused(place(demand(), prefills=[prefill()], decodes=[], policy=AUTO)).never


def test_avoided_workers_are_taken_only_when_nobody_else_can() -> None:
    avoiding = replace(demand(), avoid=frozenset({P, D}))
    workers = [prefill(), prefill("prefill-1", queued_prefill_s=0.1)]
    choice = placed(
        place(avoiding, prefills=workers, decodes=[decode(), decode("decode-1", num_sequences=5)], policy=AUTO)
    )
    assert (choice.prefill, choice.decode) == (P2, D2)
    alone = placed(place(avoiding, prefills=[prefill()], decodes=[decode()], policy=AUTO))
    assert (alone.prefill, alone.decode) == (P, D)


@pytest.mark.parametrize("policy", [AUTO, SPLIT])
def test_several_continued_sequences_stay_on_one_worker(policy: PlacementPolicy) -> None:
    choice = placed(
        place(replace(demand(n=3), only_local=True), prefills=[prefill()], decodes=[decode()], policy=policy)
    )
    assert choice.prefill is None


def test_pairs_have_one_layout() -> None:
    other = replace(prefill(), layout_fingerprint="other")
    assert placed(place(demand(), prefills=[other], decodes=[decode()], policy=AUTO)).prefill is None
    assert refused(place(demand(), prefills=[other], decodes=[decode()], policy=SPLIT))


def test_short_prompts_may_be_kept_local() -> None:
    policy = PlacementPolicy(min_split_tokens=100)
    assert placed(place(demand(prompt=99), prefills=[prefill()], decodes=[decode()], policy=policy)).prefill is None
    assert placed(place(demand(prompt=100), prefills=[prefill()], decodes=[decode()], policy=policy)).prefill == P


@pytest.mark.parametrize(
    ("prompt", "n", "growth", "blocks"),
    [(1, 1, 1, 1), (16, 1, 1, 2), (15, 1, 1, 1), (16, 3, 16, 1 + 3), (20, 2, 1, 2 + 1), (32, 2, 0, 2)],
)
def test_blocks_share_the_full_prompt_blocks(prompt: int, n: int, growth: int, blocks: int) -> None:
    assert num_blocks_for(demand(prompt=prompt, n=n, growth=growth), 16) == blocks


loads = st.builds(
    lambda index, sequences, context, blocks: decode(
        f"decode-{index}", num_sequences=sequences, context_tokens=context, free_blocks=blocks
    ),
    st.integers(0, 99),
    st.integers(0, 7),
    st.integers(0, 4000),
    st.integers(50, 1000),
)
queues = st.builds(
    lambda index, queued: prefill(f"prefill-{index}", queued_prefill_s=queued), st.integers(0, 99), st.floats(0.0, 0.24)
)
fleets = st.tuples(
    st.lists(queues, min_size=1, max_size=5, unique_by=lambda view: view.key),
    st.lists(loads, min_size=1, max_size=5, unique_by=lambda view: view.key),
)


@given(fleets, st.integers(1, 500), st.integers(1, 7), st.floats(0.0, 2.0))
def test_more_load_never_attracts(
    fleet: tuple[list[WorkerView], list[WorkerView]], prompt: int, extra: int, extra_s: float
) -> None:
    """A worker that is not chosen is not chosen either after its own load has grown."""
    prefills, decodes = fleet
    asked = demand(prompt=prompt)
    before = place(asked, prefills=prefills, decodes=decodes, policy=SPLIT)
    if isinstance(before, NoCapacity):
        return
    for view in decodes:
        if view.key != before.decode:
            heavier = [
                replace(d, num_sequences=d.num_sequences + extra, context_tokens=d.context_tokens + 10 * extra)
                if d is view
                else d
                for d in decodes
            ]
            after = placed(place(asked, prefills=prefills, decodes=heavier, policy=SPLIT))
            assert after.decode != view.key
    for view in prefills:
        if view.key != before.prefill:
            slower = [replace(p, queued_prefill_s=p.queued_prefill_s + extra_s) if p is view else p for p in prefills]
            assert placed(place(asked, prefills=slower, decodes=decodes, policy=SPLIT)).prefill != view.key


@given(fleets, st.integers(1, 500), st.floats(0.0, 0.2))
def test_predicted_ttft_never_falls_with_load(
    fleet: tuple[list[WorkerView], list[WorkerView]], prompt: int, extra_s: float
) -> None:
    prefills, decodes = fleet
    before = place(demand(prompt=prompt), prefills=prefills, decodes=decodes, policy=SPLIT)
    slower = [replace(p, queued_prefill_s=p.queued_prefill_s + extra_s) for p in prefills]
    after = place(demand(prompt=prompt), prefills=slower, decodes=decodes, policy=SPLIT)
    if isinstance(after, Placement):
        assert after.predicted_ttft_s >= placed(before).predicted_ttft_s - 1e-12


@given(fleets, st.integers(1, 500))
def test_a_placement_always_fits(fleet: tuple[list[WorkerView], list[WorkerView]], prompt: int) -> None:
    prefills, decodes = fleet
    choice = place(demand(prompt=prompt), prefills=prefills, decodes=decodes, policy=AUTO)
    if isinstance(choice, Placement):
        (chosen,) = [d for d in decodes if d.key == choice.decode]
        assert chosen.num_sequences < chosen.max_sequences
        assert choice.num_blocks <= chosen.free_blocks


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_a_blocked_pair_is_left_out_and_both_workers_are_used() -> None:
    prefills, decodes = [prefill(), prefill("prefill-1")], [decode(), decode("decode-1")]
    blocked = frozenset({Pair(prefill=P, decode=D)})
    choice = placed(place(demand(), prefills=prefills, decodes=decodes, policy=AUTO, blocked=blocked))
    assert (choice.prefill, choice.decode) in {(P, D2), (P2, D)}


@pytest.mark.parametrize("policy", [AUTO, SPLIT])
def test_when_only_failing_pairs_are_left_decode_computes(policy: PlacementPolicy) -> None:
    blocked = frozenset({Pair(prefill=P, decode=D)})
    choice = placed(place(demand(), prefills=[prefill()], decodes=[decode()], policy=policy, blocked=blocked))
    assert (choice.prefill, choice.decode) == (None, D)
    assert "hand-overs" in choice.reason
    asked = replace(demand(), avoid_pairs=blocked)
    assert placed(place(asked, prefills=[prefill()], decodes=[decode()], policy=policy)).prefill is None


def test_layouts_that_never_fit_are_refused_by_name_where_a_pair_is_demanded() -> None:
    unequal = [prefill(layout_fingerprint="other")]
    choice = refused(place(demand(), prefills=unequal, decodes=[decode()], policy=SPLIT))
    assert choice.never == reasons.KV_LAYOUT
    assert placed(place(demand(), prefills=unequal, decodes=[decode()], policy=AUTO)).prefill is None
    busy = decode("decode-1", layout_fingerprint="other", free_blocks=0)
    waiting = refused(place(demand(), prefills=unequal, decodes=[decode(), busy], policy=SPLIT))
    assert not waiting.never, "a decode worker that fits is only busy"


def test_held_kv_goes_to_the_fastest_decode_worker_its_holder_can_reach() -> None:
    prefills = [prefill(queued_prefill_s=9.0), prefill("prefill-1")]
    decodes = [decode(), decode("decode-1", num_sequences=4)]
    choice = place_held(demand(), holder=P, prefills=prefills, decodes=decodes)
    assert isinstance(choice, Placement)
    assert (choice.prefill, choice.decode, choice.predicted_prefill_s) == (P, D, 0.0)
    blocked = frozenset({Pair(prefill=P, decode=D)})
    choice = place_held(demand(), holder=P, prefills=prefills, decodes=decodes, blocked=blocked)
    assert isinstance(choice, Placement)
    assert choice.decode == D2
    full = [decode(free_blocks=0)]
    assert isinstance(place_held(demand(), holder=P, prefills=prefills, decodes=full), NoCapacity)
    assert place_held(demand(), holder=P, prefills=prefills, decodes=[decode()], blocked=blocked) is None
    assert place_held(demand(), holder=P, prefills=prefills[1:], decodes=decodes) is None


@given(
    blocked=st.frozensets(st.tuples(st.integers(0, 2), st.integers(0, 2))),
    loads=st.lists(st.floats(0.0, 0.2), min_size=6, max_size=6),
)
def test_no_blocked_pair_is_ever_chosen_and_a_usable_one_is_the_cheapest(
    blocked: frozenset[tuple[int, int]], loads: list[float]
) -> None:
    prefills = [prefill(f"prefill-{i}", queued_prefill_s=loads[i]) for i in range(3)]
    decodes = [decode(f"decode-{i}", context_tokens=round(1e5 * loads[3 + i])) for i in range(3)]
    pairs = frozenset(Pair(prefill=prefills[p].key, decode=decodes[d].key) for p, d in blocked)
    choice = placed(place(demand(), prefills=prefills, decodes=decodes, policy=SPLIT, blocked=pairs))
    if len(blocked) == 9:
        assert choice.prefill is None
        return
    assert choice.prefill is not None
    assert Pair(prefill=choice.prefill, decode=choice.decode) not in pairs
    costs = {
        (p.key, d.key): p.queued_prefill_s + d.model.step_s(num_sequences=1, num_context_tokens=d.context_tokens + 64)
        for p in prefills
        for d in decodes
        if Pair(prefill=p.key, decode=d.key) not in pairs
    }
    assert costs[choice.prefill, choice.decode] == pytest.approx(min(costs.values()))
