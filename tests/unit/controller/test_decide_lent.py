"""One round of the controller: what is borrowed, what is no reason to move, and how long it rests after a move."""

from dataclasses import replace

import pytest

from tandem.controller.deciding.decide import decide, describe
from tandem.controller.deciding.values import (
    AddWorkers,
    ControllerState,
    ExchangeWorker,
    RemoveWorkers,
    SwitchRoles,
)
from tandem.core.ids import WorkerId
from tandem.core.types import PriorityClass, Role
from tests.unit.controller.worlds import (
    ALONE,
    ANSWERS,
    MODEL,
    PINNED,
    PROMPTS,
    STANDARD,
    first_move,
    now,
    policy,
    prompt_heavy,
    rounds,
    seen,
    traffic,
)


def test_a_changed_predictor_holds_from_the_next_round_on() -> None:
    quick, slow = policy(predictor={"window": "1s"}), policy(predictor={"window": "24h"})
    state = decide(prompt_heavy(rate=1.0), slow, ControllerState(), now()).state
    kept = decide(prompt_heavy(rate=8.0, at_s=1005.0), slow, state, now(1005.0))
    assert kept.record.numbers["standard.rate_per_s"] == pytest.approx(1.0, abs=0.1)
    changed = decide(prompt_heavy(rate=8.0, at_s=1005.0), quick, state, now(1005.0))
    assert changed.record.numbers["standard.rate_per_s"] == pytest.approx(8.0, abs=0.1)


# --- borrowing, and learning from what was measured ---------------------------------------------------------------


def test_borrowing_is_immediate_and_only_as_much_as_needed() -> None:
    decision = decide(prompt_heavy(rate=8.0), policy(), ControllerState(), now())
    assert 0.0 < decision.borrow.share <= 0.3
    assert "borrowed" in decision.borrow.reason
    assert decide(seen(4, 4), policy(), ControllerState(), now()).borrow.share == pytest.approx(0.0)
    never = policy(**PINNED)
    assert decide(prompt_heavy(), never, ControllerState(), now()).borrow.share == pytest.approx(0.0)


def test_busy_decode_workers_lend_nothing() -> None:
    both = seen(4, 4, traffic={STANDARD: traffic(12.0, ANSWERS, PROMPTS, ANSWERS)})
    decision = decide(both, policy(), ControllerState(), now())
    assert decision.borrow.share == pytest.approx(0.0)


def test_measured_misses_count_even_where_the_model_is_content() -> None:
    well = seen(4, 4, traffic={STANDARD: traffic(5.0, PROMPTS, kept={"ttft": 0.96})})
    assert all(not isinstance(each.move, AddWorkers) for each in rounds(well, policy(), seconds=60))
    ill = seen(4, 4, traffic={STANDARD: traffic(5.0, PROMPTS, kept={"ttft": 0.7})})
    move = first_move(ill, policy(), seconds=60).move
    assert isinstance(move, AddWorkers)
    assert move.prefill >= 1
    few = replace(traffic(5.0, PROMPTS, kept={"ttft": 0.7}), num_ended=10)
    assert all(each.move is None for each in rounds(seen(4, 4, traffic={STANDARD: few}), policy(), seconds=60))


def test_missed_attainment_blames_the_tightest_promise() -> None:
    """Each promise is kept by 96 %, but only 80 % of the requests get both."""
    asked = replace(traffic(5.0, PROMPTS, kept={"ttft": 0.96, "itl": 0.96}), attainment=0.8)
    move = first_move(seen(4, 4, traffic={STANDARD: asked}), policy(**ALONE), seconds=60).move
    assert isinstance(move, SwitchRoles)  # decode workers are idle: no need to grow
    assert move.to is Role.PREFILL
    content = replace(asked, attainment=0.94)  # of 500 requests that may be chance
    assert first_move(seen(4, 4, traffic={STANDARD: content}), policy(), seconds=60).move is None


def test_moves_are_told_in_words() -> None:
    assert describe(AddWorkers(prefill=1, decode=2)) == "add 1 prefill and 2 decode"
    assert describe(RemoveWorkers(workers=(WorkerId("a"), WorkerId("b")), role=Role.DECODE)) == "remove a, b (decode)"
    assert describe(ExchangeWorker(remove=WorkerId("a"), add=Role.PREFILL)) == "exchange a for a new prefill worker"


def test_a_class_nobody_uses_any_more_does_not_hold_workers() -> None:
    idle = seen(4, 4, traffic={PriorityClass.BATCH: replace(traffic(0.0), shapes=())}, decode_model=MODEL)
    decision = decide(idle, policy(), ControllerState(), now())
    assert decision.record.numbers["stress"] == pytest.approx(0.0)


# --- what is no reason to move ------------------------------------------------------------------------------------


def test_what_borrowing_mends_is_no_reason_to_move() -> None:
    """The slower speeds wait until the fastest one does not do."""
    lends = policy(budget={"min": 8, "max": 8})
    made = rounds(prompt_heavy(), lends, seconds=200)
    assert all(each.move is None for each in made)
    assert made[-1].borrow.share > 0.0
    assert "4:4 keeps every promise with " in made[-1].record.reason
    assert isinstance(first_move(prompt_heavy(), policy(**PINNED)).move, SwitchRoles), "alone it would be one"
    little = policy(budget={"min": 8, "max": 8}, borrow={"maxShare": 0.1})
    assert isinstance(first_move(prompt_heavy(), little).move, SwitchRoles)


def test_a_rate_that_chance_may_have_raised_is_no_reason_to_move_but_missed_promises_are() -> None:
    few = replace(traffic(9.0, PROMPTS), rate_error_per_s=3.0)
    made = rounds(seen(4, 4, traffic={STANDARD: few}), policy(**PINNED), seconds=200)
    assert all(each.move is None for each in made)
    assert "chance may be what makes it look short" in made[-1].record.reason
    many = replace(few, rate_error_per_s=0.3)
    assert isinstance(first_move(seen(4, 4, traffic={STANDARD: many}), policy(**PINNED)).move, SwitchRoles)
    missing = replace(few, missed_now=0.3, num_latest=60)
    assert isinstance(first_move(seen(4, 4, traffic={STANDARD: missing}), policy(**PINNED)).move, SwitchRoles)


def test_answers_that_are_still_to_be_written_are_a_backlog() -> None:
    """Decode workers that hold more than they can write in time need help, although nothing more than before comes."""
    calm = replace(traffic(6.0, ANSWERS), num_open=200, left_tokens=50_000.0)
    assert first_move(seen(4, 4, traffic={STANDARD: calm}), policy(**PINNED), seconds=60).move is None
    piled = replace(calm, num_open=600, left_tokens=150_000.0)
    move = first_move(seen(4, 4, traffic={STANDARD: piled}), policy(**PINNED), seconds=60).move
    assert isinstance(move, SwitchRoles)
    assert move.to is Role.DECODE


# --- the rest after a move ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "due_s"),
    [(0.0, 1060.0), (0.3, 1040.0)],  # from the end of the last move at 1000, from its beginning at 980
)
def test_the_cool_down_counts_from_the_beginning_of_the_last_move_when_promises_are_missed(
    missed: float, due_s: float
) -> None:
    asked = replace(traffic(9.0, PROMPTS), missed_now=missed, num_latest=60)
    state = ControllerState(last_move_begun_s=980.0, last_move_ended_s=1000.0, last_switch_to=Role.PREFILL)
    made = rounds(seen(4, 4, traffic={STANDARD: asked}), policy(**PINNED), seconds=100, state=state)
    moved_s = next(1000.0 + 5.0 * index for index, each in enumerate(made) if each.move is not None)
    assert moved_s == due_s


@pytest.mark.parametrize(("missed", "dwell_s"), [(0.0, 90.0), (0.3, 20.0)])
def test_undoing_the_last_switch_takes_longer_unless_promises_are_missed(missed: float, dwell_s: float) -> None:
    asked = replace(traffic(9.0, PROMPTS), missed_now=missed, num_latest=60)
    state = ControllerState(last_move_begun_s=900.0, last_move_ended_s=910.0, last_switch_to=Role.DECODE)
    made = rounds(seen(4, 4, traffic={STANDARD: asked}), policy(**PINNED), seconds=120, state=state)
    moved_s = next(5.0 * index for index, each in enumerate(made) if each.move is not None)
    assert moved_s == dwell_s
