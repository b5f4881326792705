"""The bounds of recovery under any history, and every planted defect found."""

from dataclasses import replace
from typing import Any

import pytest

from tandem.core import reasons
from tandem.router.recovery import GiveUp, PlaceAgain, RetryBudget, decide
from tests.stateful.recovery_machine import RecoveryMachine
from tests.stateful.running import hunt, walk


def _tries_for_ever(failure: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: what can't be tried again is tried again."""
    return decide(replace(failure, retryable=True), **known)


def _risks_a_third(failure: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: nobody is condemned."""
    return decide(failure, **(known | {"condemned": False}))


def _free_retries(failure: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: retries cost nothing."""
    return decide(failure, **(known | {"budget": RetryBudget()}))


def _forgets(field: str) -> Any:
    """Mutant: one of the counts begins anew each time."""

    def mutant(failure: Any, *, history: Any, **known: Any) -> PlaceAgain | GiveUp:
        setattr(history, field, 0)
        return decide(failure, history=history, **known)

    return mutant


def _moved_on_by_one_token(failure: Any, *, policy: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: a single token counts as progress."""
    return decide(failure, policy=replace(policy, moved_on_tokens=1), **known)


def _pause_without_bound(failure: Any, *, policy: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: the pause doubles for ever."""
    return decide(failure, policy=replace(policy, max_pause_s=1e9), **known)


def _lost_is_always_free(failure: Any, **known: Any) -> PlaceAgain | GiveUp:
    """Mutant: a failed hand-over is charged as little as a death."""
    return decide(replace(failure, lost=failure.reason != reasons.KV_INTEGRITY), **known)


def test_recovery_survives() -> None:
    walk(RecoveryMachine, num_examples=40, num_steps=25)


@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        pytest.param(_tries_for_ever, "can't be tried again", id="retryable"),
        pytest.param(_risks_a_third, "can't be tried again|another name", id="condemned"),
        pytest.param(_free_retries, "can storm", id="budget"),
        pytest.param(_lost_is_always_free, "can storm", id="charge"),
        pytest.param(_forgets("num_refusals"), "refused without end", id="refusals"),
        pytest.param(_forgets("num_integrity_failures"), "does not verify", id="integrity"),
        pytest.param(_forgets("num_retries"), "tried again without end", id="retries"),
        pytest.param(_forgets("num_continuations"), "continued without end", id="continuations"),
        pytest.param(_moved_on_by_one_token, "continued without end", id="progress"),
        pytest.param(_pause_without_bound, "grows without bound", id="pause"),
    ],
)
def test_mutant_is_found(mutant: Any, problem: str) -> None:
    hunt(type("Recovery", (RecoveryMachine,), {"decide": staticmethod(mutant)}), problem)
