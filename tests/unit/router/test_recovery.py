"""What recovery decides."""

import pytest

from tandem.core import reasons
from tandem.core.errors import FailedPrecondition, InternalError, InvalidArgument, KvIntegrity, Overloaded, Unavailable
from tandem.router.recovery import (
    POISON,
    REFUSALS,
    Failure,
    GiveUp,
    PlaceAgain,
    RecoveryHistory,
    RecoveryPolicy,
    RetryBudget,
    decide,
    error_for,
)


def choose(
    failure: Failure,
    history: RecoveryHistory | None = None,
    *,
    condemned: bool = False,
    num_emitted: int = 0,
    budget: RetryBudget | None = None,
) -> PlaceAgain | GiveUp:
    return decide(
        failure,
        history=history or RecoveryHistory(),
        condemned=condemned,
        num_emitted=num_emitted,
        policy=RecoveryPolicy(),
        budget=budget or RetryBudget(),
    )


ENGINE = Failure(reason=reasons.ENGINE, retryable=True)
TIMED_OUT = Failure(reason=reasons.KV_TIMEOUT, retryable=True)
LOST = Failure(reason=reasons.WORKER_LOST, retryable=True, lost=True)


def empty_budget() -> RetryBudget:
    budget = RetryBudget(reserve=1.0)
    assert budget.spend()
    return budget


def test_two_silent_retries() -> None:
    history = RecoveryHistory()
    assert [type(choose(ENGINE, history)) for _ in range(3)] == [PlaceAgain, PlaceAgain, GiveUp]


def test_the_budget_bounds_retries_but_not_those_after_a_death() -> None:
    assert isinstance(choose(TIMED_OUT, budget=empty_budget()), GiveUp)
    assert isinstance(choose(ENGINE, budget=empty_budget()), PlaceAgain)
    assert isinstance(choose(LOST, budget=empty_budget()), PlaceAgain)


def test_a_budget_is_earned_by_admitted_requests_up_to_its_reserve() -> None:
    budget = empty_budget()
    for _ in range(9):
        budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    for _ in range(100):
        budget.earn()
    assert budget.left == 1.0


def test_continuations_have_their_own_bound_and_cost_no_budget() -> None:
    history = RecoveryHistory()
    choices = [choose(ENGINE, history, num_emitted=3, budget=empty_budget()) for _ in range(5)]
    assert [type(c) for c in choices] == [PlaceAgain] * 4 + [GiveUp]


def test_a_stream_that_has_moved_on_has_its_continuations_anew() -> None:
    history = RecoveryHistory()
    moved_on = [choose(LOST, history, num_emitted=16 * (1 + count)) for count in range(10)]
    assert {type(choice) for choice in moved_on} == {PlaceAgain}
    stuck = [choose(LOST, history, num_emitted=16 * 10 + 15) for _ in range(4)]
    assert [type(choice) for choice in stuck] == [PlaceAgain] * 3 + [GiveUp]


def test_two_deaths_are_poison_whatever_else() -> None:
    choice = choose(LOST, condemned=True, num_emitted=5)
    assert isinstance(choice, GiveUp)
    assert isinstance(choice.error, InternalError)
    assert choice.error.reason == POISON


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_refusals_pause_longer_each_time_and_end_overloaded(reason: str) -> None:
    history = RecoveryHistory()
    refusal = Failure(reason=reason, retryable=True)
    pauses = []
    choice = choose(refusal, history, budget=empty_budget())
    while isinstance(choice, PlaceAgain):
        pauses.append(choice.delay_s)
        choice = choose(refusal, history, budget=empty_budget())
    assert pauses == sorted(pauses)
    assert (len(pauses), pauses[0], pauses[-1]) == (12, 0.02, 1.0)
    assert isinstance(choice.error, Overloaded)
    assert choice.error.retry_after_s is not None


def test_integrity_is_retried_once_even_after_the_first_token() -> None:
    history = RecoveryHistory()
    bad = Failure(reason=reasons.KV_INTEGRITY, retryable=True)
    assert isinstance(choose(bad, history, num_emitted=1), PlaceAgain)
    choice = choose(bad, history, num_emitted=1)
    assert isinstance(choice, GiveUp)
    assert isinstance(choice.error, KvIntegrity)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (reasons.KV_INTEGRITY, KvIntegrity),
        (reasons.TOO_LARGE, InvalidArgument),
        (reasons.NUMERICS, InternalError),
        (reasons.WORKER_LOST, Unavailable),
        (reasons.KV_PEER_LOST, Unavailable),
        (reasons.KV_TIMEOUT, Unavailable),
        (reasons.KV_LAYOUT, FailedPrecondition),
        (reasons.NO_BLOCKS, Overloaded),
        ("SOMETHING_NEW", InternalError),
    ],
)
def test_errors_by_reason(reason: str, kind: type[Exception]) -> None:
    assert isinstance(error_for(reason), kind)
