"""Ledgers in some state, workers' events, and looking into actions, for unit tests."""

from collections.abc import Sequence

from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Granted,
    HandoverDone,
    PrefillDone,
)
from tandem.router.actions import Action, Ended, Requeue, SendCommand, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.ledger import RequestLedger
from tandem.router.phases import PhaseClock
from tandem.router.recovery import RecoveryPolicy, RetryBudget
from tandem.router.suspects import blame
from tests.unit.router.builders import REQUEST, D, P, make_task


def make_ledger(*, n: int = 1, deadline_s: float | None = None, budget: RetryBudget | None = None) -> RequestLedger:
    ledger = RequestLedger(
        make_task(n=n),
        deadline_s=deadline_s,
        policy=RecoveryPolicy(),
        budget=budget or RetryBudget(),
        clock=PhaseClock(arrived_s=0.0, tokenize_ms=1.0),
    )
    ledger.admitted()
    return ledger


def running(*, n: int = 1, deadline_s: float | None = None) -> RequestLedger:
    ledger = make_ledger(n=n, deadline_s=deadline_s)
    ledger.dispatched(prefill=P, decode=D, now_s=1.0)
    return ledger


def crash(ledger: RequestLedger, worker: WorkerKey, now_s: float) -> Sequence[Action]:
    """The worker dies while this is the only request it runs."""
    if ledger.runs_on(worker):
        blame(worker, [ledger.suspicion])
    return ledger.on_worker_lost(worker, now_s)


def prefill_done(attempt: int = 0) -> PrefillDone:
    return PrefillDone(request_id=REQUEST, attempt=attempt, wait_ms=2.0, compute_ms=30.0, num_cached_tokens=4)


def granted(attempt: int = 0) -> Granted:
    return Granted(request_id=REQUEST, attempt=attempt, grant=b"g")


def handed_over(attempt: int = 0) -> HandoverDone:
    return HandoverDone(
        request_id=REQUEST, attempt=attempt, num_bytes=9, transport="tcp", handover_ms=7.0, exposed_ms=1.0
    )


def failed(reason: str, *, attempt: int = 0, retryable: bool = True, child: int | None = None) -> AttemptFailed:
    return AttemptFailed(
        request_id=REQUEST, attempt=attempt, reason=reason, message="x", retryable=retryable, child=child
    )


def released(attempt: int = 0) -> AttemptReleased:
    return AttemptReleased(request_id=REQUEST, attempt=attempt)


def ended(actions: Sequence[Action]) -> Ended:
    (found,) = [action for action in actions if isinstance(action, Ended)]
    return found


def requeued(actions: Sequence[Action]) -> Requeue:
    (found,) = [action for action in actions if isinstance(action, Requeue)]
    return found


def stage_of(ledger: RequestLedger) -> Stage:
    return ledger.stage


def aborted(actions: Sequence[Action]) -> list[WorkerKey]:
    return [a.worker for a in actions if isinstance(a, SendCommand) and isinstance(a.command, Abort)]
