"""The ledger's state machine with an adversary of its own: impostors, drives to where the races are, a small budget.

The walk below it (`tests.unit.router.test_ledger_machine`) plays honest workers in any interleaving. Here workers also
speak of attempts and from lives that are not theirs, with tokens that would show in the answer at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tandem.core import reasons
from tandem.core.ids import Epoch
from tandem.core.messages import AttemptFailed
from tandem.core.types import TokenDelta
from tandem.router.actions import Action, Requeue, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.ledger import RequestLedger
from tandem.router.phases import PhaseClock
from tandem.router.recovery import RecoveryPolicy, RetryBudget
from tests.stateful.running import Violation, require
from tests.unit.router.builders import REQUEST, make_task
from tests.unit.router.test_ledger_machine import MAX_TOKENS, NUM_CHILDREN, LedgerMachine

WRONG_TOKEN = 777_777
BUDGETED = frozenset({reasons.KV_TIMEOUT, reasons.KV_LEASE})
ENDS = ["lose D", "lose P", "D drains", "P's lease ends", "nothing"]


@contextmanager
def _named(problem: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise Violation(problem) from error


class HostileLedgerMachine(LedgerMachine):
    """Subclasses choose the ledger and the budget: production or a mutant."""

    ledger_class: type[RequestLedger] = RequestLedger
    budget_class: type[RetryBudget] = RetryBudget

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.ledger_class(
            make_task(n=NUM_CHILDREN, max_tokens=MAX_TOKENS),
            deadline_s=None,
            policy=RecoveryPolicy(max_retries=5, max_continuations=5),
            budget=self.budget_class(share=0.0, reserve=1.0),
            clock=PhaseClock(arrived_s=0.0),
        )
        self.ledger.admitted()
        self.num_budgeted = 0

    def carry_out(self, actions: Sequence[Action]) -> None:
        super().carry_out(actions)
        for action in actions:
            if isinstance(action, Requeue):
                self._check_requeue(action)

    def _check_requeue(self, action: Requeue) -> None:
        """The next attempt goes on after what the client has; one that reuses P's work repeats what P has sampled."""
        said = [tuple(t for delta in deltas for t in delta.token_ids) for deltas in self.forwarded]
        if self.ledger.held is None:
            require(list(action.task.emitted or ((),) * NUM_CHILDREN) == said, "goes on from somewhere else")
        if action.reason in BUDGETED and not any(said):
            self.num_budgeted += 1
            require(self.num_budgeted <= 1, "more retries than the budget has")

    def _spoken(self, attempt: int, child: int) -> TokenDelta:
        position = len([t for delta in self.forwarded[child] for t in delta.token_ids])
        return replace(self.token(child, position, attempt), token_ids=(WRONG_TOKEN,), finish_reason=None)

    # What the walk below checks, under names that a hunt can ask for.

    @invariant()
    def output_is_exact(self) -> None:
        with _named("the answer is not exact"):
            super().output_is_exact()

    @invariant()
    def nobody_is_left_working_on_a_past_attempt(self) -> None:
        with _named("somebody was not told"):
            super().nobody_is_left_working_on_a_past_attempt()

    @precondition(lambda self: self.ledger.attempt is not None)
    @rule(child=st.integers(0, NUM_CHILDREN - 1), is_decode=st.booleans(), ends=st.booleans())
    def speak_from_another_life(self, child: int, is_decode: bool, ends: bool) -> None:
        """A worker that came back under its name knows nothing of this attempt."""
        attempt = self.ledger.attempt
        assert attempt is not None
        named = attempt.workers[-1] if is_decode else attempt.workers[0]
        stranger = WorkerKey(worker_id=named.worker_id, epoch=Epoch(named.epoch + 7))
        self._speak(stranger, attempt.number, child, ends=ends)

    @precondition(lambda self: self.ledger.attempt is not None and self.ledger.attempt.number > 0)
    @rule(child=st.integers(0, NUM_CHILDREN - 1), back=st.integers(1, 2), ends=st.booleans())
    def speak_of_a_past_attempt(self, child: int, back: int, ends: bool) -> None:
        """The right worker, in words that come late."""
        attempt, held = self.ledger.attempt, self.ledger.held
        if attempt is None:
            return
        past = max(0, attempt.number - back)
        if held is None or held.attempt != past:  # of that one it may say that it is gone
            self._speak(attempt.decode, past, child, ends=ends)

    def _speak(self, worker: WorkerKey, number: int, child: int, *, ends: bool) -> None:
        before = self.ledger.attempt
        if ends:
            failed = AttemptFailed(
                request_id=REQUEST, attempt=number, reason=reasons.NUMERICS, message="", retryable=False
            )
            self.carry_out(self.ledger.on_event(worker, failed, self.now_s))
        else:
            self.carry_out(self.ledger.on_delta(worker, self._spoken(number, child), self.now_s))
        require(self.ledger.attempt is before, "an impostor ended the attempt")

    @rule(local=st.booleans(), of_p=st.integers(0, 4), of_d=st.integers(0, 9), end=st.sampled_from(ENDS))
    def drive(self, local: bool, of_p: int, of_d: int, end: str) -> None:
        """An attempt gets so far on either side, and then something ends it."""
        if self.ledger.stage is not Stage.ADMITTED:
            return
        self.dispatch(local, False)
        attempt = self.ledger.attempt
        if attempt is None:
            return
        for worker, count in ((attempt.workers[0], of_p), (attempt.decode, of_d)):
            for _ in range(count):
                if self.inboxes.get(worker) and self.ledger.attempt is attempt:
                    message = self.inboxes[worker].pop(0)
                    self.sent.append((worker, message))
                    self.give(worker, message)
        if self.ledger.attempt is not attempt:
            return
        match end:
            case "lose D":
                self._lose(attempt.decode)
            case "lose P" if attempt.prefill is not None:
                self._lose(attempt.prefill)
            case "D drains":
                self._fail(attempt.decode, attempt.number, reasons.DRAINING)
            case "P's lease ends" if attempt.prefill is not None:
                self._fail(attempt.prefill, attempt.number, reasons.KV_LEASE)

    @rule(count=st.integers(1, 3), child=st.integers(0, NUM_CHILDREN - 1), ends=st.booleans())
    def drive_failures(self, count: int, child: int, ends: bool) -> None:
        """Attempts fail before any token; then comes a late word about one of them."""
        for _ in range(count):
            self.drive(False, 0, 0, "P's lease ends")
        if self.ledger.stage is Stage.ADMITTED:
            self.dispatch(True, False)
            self.speak_of_a_past_attempt(child, 1, ends)

    def _lose(self, worker: WorkerKey) -> None:
        self.lost.add(worker)
        self.carry_out(self.ledger.on_worker_lost(worker, self.now_s))

    def _fail(self, worker: WorkerKey, number: int, reason: str) -> None:
        self.give(worker, AttemptFailed(request_id=REQUEST, attempt=number, reason=reason, message="", retryable=True))
