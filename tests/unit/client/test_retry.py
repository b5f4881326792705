"""When a call is tried again: the policy alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.client import (
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    KvIntegrity,
    Overloaded,
    QuotaExceeded,
    TandemError,
    Unavailable,
)
from tandem.client.attempts import Attempts
from tandem.client.metadata import call_metadata
from tandem.client.retry import Retry, RetryBudget, next_retry
from tandem.client.settings import Settings


def _next(
    error: TandemError, *, done: int = 0, most: int = 2, left_s: float = 60.0, jitter: float = 0.0
) -> Retry | None:
    return next_retry(
        error, num_retries_done=done, max_retries=most, left_s=left_s, budget=RetryBudget(), jitter=jitter
    )


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("n", "is 9"),
        QuotaExceeded("yours", retry_after_s=0.1),
        DeadlineExceeded("late", stage="queue"),
        InternalError("defect"),
        KvIntegrity("torn"),
        Unavailable("lost", metadata={"tokens_emitted": "3"}),
        Overloaded("stay away", metadata={"pushback": "-1"}),
    ],
)
def test_not_retried(error: TandemError) -> None:
    assert _next(error) is None


@pytest.mark.parametrize(
    "error", [Overloaded("o"), Unavailable("u"), Unavailable("", metadata={"tokens_emitted": "0"})]
)
def test_retried_until_the_number_is_reached(error: TandemError) -> None:
    assert [_next(error, done=done) is not None for done in range(4)] == [True, True, False, False]
    assert _next(error, most=0) is None


@given(jitter=st.floats(0, 1, exclude_max=True), wish_s=st.floats(0.001, 10))
def test_the_servers_wish_is_a_lower_bound(jitter: float, wish_s: float) -> None:
    retry = _next(Overloaded("o", retry_after_s=wish_s), jitter=jitter)
    assert retry is not None
    assert wish_s <= retry.delay_s <= wish_s * 1.25


@given(jitter=st.floats(0, 1, exclude_max=True), done=st.integers(0, 20))
def test_delays_grow_and_are_bounded(jitter: float, done: int) -> None:
    retry = _next(Unavailable("u"), done=done, most=100, jitter=jitter)
    assert retry is not None
    full_s = min(0.1 * 2**done, 2.0)
    assert full_s / 2 <= retry.delay_s <= full_s


def test_no_retry_that_the_deadline_would_cut_off() -> None:
    assert _next(Overloaded("o", retry_after_s=5.0), left_s=4.9) is None
    assert _next(Overloaded("o", retry_after_s=5.0), left_s=5.1) is not None


def test_the_budget_runs_out_and_comes_back() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(9):
        budget.note_success()
    assert not budget.take()
    budget.note_success()
    budget.note_success()
    assert budget.take()
    for _ in range(1000):
        budget.note_success()
    assert sum(budget.take() for _ in range(100)) == 10


def test_no_retry_on_an_empty_budget() -> None:
    budget = RetryBudget()

    def retry() -> Retry | None:
        return next_retry(Unavailable("lost"), num_retries_done=0, max_retries=99, left_s=9, budget=budget, jitter=0)

    assert [retry() is not None for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_refused_retry_costs_no_budget() -> None:
    budget = RetryBudget()
    for _ in range(50):
        assert (
            next_retry(InvalidArgument("n", "x"), num_retries_done=0, max_retries=2, left_s=9, budget=budget, jitter=0)
            is None
        )
    assert budget.take()


def test_attempts_share_one_deadline_and_count() -> None:
    attempts = Attempts(Settings(address="127.0.0.1:1", timeout_s=50.0, retries=1), RetryBudget())
    assert 49 < attempts.timeout_s() <= 50
    lost = Unavailable("lost")
    assert attempts.pause_after(lost) > 0
    with pytest.raises(Unavailable) as caught:
        attempts.pause_after(lost)
    assert caught.value is lost


def test_a_spent_deadline_is_named() -> None:
    attempts = Attempts(Settings(address="127.0.0.1:1", timeout_s=1e-9), RetryBudget())
    with pytest.raises(DeadlineExceeded) as caught:
        attempts.timeout_s()
    assert caught.value.stage == "client"


def test_a_further_attempt_says_so() -> None:
    settings = Settings(address="localhost:1")
    assert "tandem-attempt" not in dict(call_metadata(settings))
    assert dict(call_metadata(settings, attempt=2))["tandem-attempt"] == "2"
