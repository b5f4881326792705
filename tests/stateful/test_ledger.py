"""The ledger, its positions and its recovery under impostors, losses and drains; each guard taken out is found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tandem.core.errors import TandemError
from tandem.core.messages import RequestEvent
from tandem.core.types import Outcome, TokenDelta
from tandem.router.actions import Action, Requeue, SendCommand, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.ledger import RequestLedger
from tandem.router.positions import ChildStream
from tandem.router.recovery import RetryBudget
from tests.stateful.ledger_machine import HostileLedgerMachine
from tests.stateful.running import hunt, walk


class NoAttemptCheck(RequestLedger):
    """Mutant: words about a past attempt count for the present one."""

    def on_delta(self, source: WorkerKey, delta: TokenDelta, now_s: float) -> Sequence[Action]:
        number = delta.attempt if self.attempt is None else self.attempt.number
        return super().on_delta(source, replace(delta, attempt=number), now_s)


class NoAttemptCheckOfEvents(RequestLedger):
    """Mutant: the end of a past attempt ends the present one."""

    def on_event(self, source: WorkerKey, event: RequestEvent, now_s: float) -> Sequence[Action]:
        number = event.attempt if self.attempt is None else self.attempt.number
        return super().on_event(source, replace(event, attempt=number), now_s)


class NoLifeCheck(RequestLedger):
    """Mutant: a worker is known by its name, whatever life it is in."""

    def on_delta(self, source: WorkerKey, delta: TokenDelta, now_s: float) -> Sequence[Action]:
        named = source if self.attempt is None else self.attempt.decode
        return super().on_delta(named, delta, now_s)


class EndsAgain(RequestLedger):
    """Mutant: an end after the end is an end."""

    def _end(self, outcome: Outcome, error: TandemError | None, reason: str, now_s: float) -> Sequence[Action]:
        if self.stage is Stage.ENDED:
            self.stage = Stage.DECODING
        return super()._end(outcome, error, reason, now_s)


class OneSideTold(RequestLedger):
    """Mutant (vLLM #41269, Dynamo #13855): only the decode worker hears of an end."""

    def _close_attempt(self, reason: str) -> Sequence[Action]:
        decode = None if self.attempt is None else self.attempt.decode
        return [a for a in super()._close_attempt(reason) if not isinstance(a, SendCommand) or a.worker == decode]


class ForgetsEmitted(RequestLedger):
    """Mutant: the next attempt begins again from the prompt."""

    def _attempt_failed(self, *args: Any) -> Sequence[Action]:
        actions = super()._attempt_failed(*args)
        return [replace(a, task=replace(a.task, emitted=())) if isinstance(a, Requeue) else a for a in actions]


class RepeatingStream(ChildStream):
    """Mutant: what was forwarded before is forwarded again."""

    __slots__ = ()

    def _trim(self, delta: TokenDelta) -> TokenDelta | None:
        return delta


class ImpatientStream(ChildStream):
    """Mutant: what comes ahead is not held back."""

    __slots__ = ()

    def accept(self, delta: TokenDelta, now_s: float) -> Sequence[TokenDelta]:
        return super().accept(replace(delta, position=min(delta.position, self.next_position)), now_s)


class Repeats(RequestLedger):
    """The ledger over such streams."""

    stream: type[ChildStream] = RepeatingStream

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.children = [self.stream() for _ in self.children]


class Impatient(Repeats):
    """The ledger over such streams."""

    stream = ImpatientStream


class FreeRetries(RetryBudget):
    """Mutant: retries cost nothing, so that they can storm."""

    def spend(self) -> bool:
        return True


def _machine(**classes: type) -> type[HostileLedgerMachine]:
    return type("Ledger", (HostileLedgerMachine,), classes)


def test_ledger_survives() -> None:
    walk(HostileLedgerMachine, num_examples=100)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        pytest.param({"ledger_class": NoAttemptCheck}, "not exact", id="attempt-of-tokens"),
        pytest.param({"ledger_class": NoAttemptCheckOfEvents}, "impostor ended", id="attempt-of-events"),
        pytest.param({"ledger_class": NoLifeCheck}, "not exact", id="life"),
        pytest.param({"ledger_class": EndsAgain}, "after the end", id="one-end"),
        pytest.param({"ledger_class": OneSideTold}, "was not told", id="both-sides"),
        pytest.param({"ledger_class": ForgetsEmitted}, "somewhere else", id="emitted"),
        pytest.param({"ledger_class": Repeats}, "not exact", id="repeats"),
        pytest.param({"ledger_class": Impatient}, "not exact", id="gaps"),
        pytest.param({"budget_class": FreeRetries}, "than the budget has", id="budget"),
    ],
)
def test_mutant_is_found(classes: dict[str, type], problem: str) -> None:
    hunt(_machine(**classes), problem, errors=AssertionError)
