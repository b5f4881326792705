"""The ledger of one request: every attempt, every child's position, and exactly one terminal outcome. Zero I/O.

::

    NEW → ADMITTED → PREFILLING → SEALED → HANDING → DECODING → ENDED(ok)
             │  ▲        └────────────┴────────┴─────────┤
             │  └── Requeue: attempt + 1, after a failure┘
             └──────────── any → ENDED(cancelled | deadline | shed | failed)

``(state, event, now) → actions``: methods take one event and return what must be done. Guarantees:

- ``Ended`` is returned once and nothing after it; whatever ends an attempt, every worker that may still hold something
  of it is told (Abort), on both sides.
- Messages of another attempt, or of another life of a worker, have no effect but a count (``num_stale``).
- Tokens are forwarded in order, without gap or repeat, across attempts (see ``positions``).
"""

from collections.abc import Sequence
from dataclasses import replace

from tandem.core import reasons
from tandem.core.errors import Cancelled, DeadlineExceeded, InternalError, TandemError
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Granted,
    HandoverDone,
    PrefillDone,
    RequestEvent,
)
from tandem.core.types import GenerationTask, Outcome, TokenDelta, Usage
from tandem.router.actions import (
    Action,
    AttemptEnded,
    Ended,
    PromptComputed,
    Requeue,
    SendCommand,
    Started,
    WorkerKey,
)
from tandem.router.attempt import Attempt, Stage
from tandem.router.phases import PhaseClock
from tandem.router.positions import ChildStream
from tandem.router.recovery import (
    GAP,
    Failure,
    GiveUp,
    RecoveryHistory,
    RecoveryPolicy,
    RetryBudget,
    decide,
)

MAX_HELD_DELTAS = 1024


class RequestLedger:
    """Everything the router knows about one request."""

    __slots__ = (
        "_avoid",
        "_budget",
        "_deaths",
        "_history",
        "_policy",
        "_started",
        "attempt",
        "children",
        "clock",
        "deadline_s",
        "num_cached_tokens",
        "num_stale",
        "stage",
        "task",
    )

    def __init__(
        self,
        task: GenerationTask,
        *,
        deadline_s: float | None,
        policy: RecoveryPolicy,
        budget: RetryBudget,
        clock: PhaseClock,
    ) -> None:
        self.task = task
        self.stage = Stage.NEW
        self.deadline_s = deadline_s
        self.attempt: Attempt | None = None
        self.children = [ChildStream() for _ in range(task.num_sequences)]
        self.clock = clock
        self.num_cached_tokens = 0
        self.num_stale = 0
        self._policy = policy
        self._budget = budget
        self._history = RecoveryHistory()
        self._deaths: set[WorkerKey] = set()
        self._avoid: set[WorkerKey] = set()
        self._started = False

    @property
    def num_emitted(self) -> int:
        """Output tokens forwarded to the client so far, over all children."""
        return sum(len(child.tokens) for child in self.children)

    @property
    def needs_watching(self) -> bool:
        """Whether something is overdue that no message may ever tell about (see ``check_progress``)."""
        attempt = self.attempt
        if attempt is None:
            return False
        return attempt.released_at_s is not None or any(child.held_since_s is not None for child in self.children)

    # --- life ------------------------------------------------------------------------------------------------------

    def admitted(self) -> None:
        """The request was accepted into the queue."""
        self.stage = Stage.ADMITTED
        self._budget.earn()

    def dispatched(self, *, prefill: WorkerKey | None, decode: WorkerKey, now_s: float) -> Sequence[Action]:
        """Begin the attempt of ``self.task`` on P and D, or on D alone."""
        if self.stage is not Stage.ADMITTED:
            return ()
        left_s = None if self.deadline_s is None else self.deadline_s - now_s
        if left_s is not None and left_s <= 0.0:
            return self.deadline_passed(now_s)
        self.task = replace(self.task, deadline_left_s=left_s)
        self.attempt = Attempt(self.task, prefill=prefill, decode=decode)
        self.stage = Stage.PREFILLING
        self.clock.dispatched(now_s)
        return self.attempt.start_commands()

    def cancelled(self, now_s: float, *, reason: str = reasons.CLIENT_CANCELLED) -> Sequence[Action]:
        """The caller went away, or reads too slowly."""
        return self._end(Outcome.CANCELLED, Cancelled("the caller cancelled", reason=reason), reason, now_s)

    def deadline_passed(self, now_s: float) -> Sequence[Action]:
        """The caller's deadline is over."""
        error = DeadlineExceeded(f"the deadline passed while the request was {self.stage}", stage=self.stage)
        return self._end(Outcome.DEADLINE, error, reasons.DEADLINE, now_s)

    def shed(self, error: TandemError, now_s: float) -> Sequence[Action]:
        """The router gives the request up before a worker got it."""
        return self._end(Outcome.SHED, error, error.reason, now_s)

    def failed(self, error: TandemError, now_s: float) -> Sequence[Action]:
        """The request can't be served."""
        return self._end(Outcome.FAILED, error, error.reason, now_s)

    # --- what workers say ------------------------------------------------------------------------------------------

    def on_delta(self, source: WorkerKey, delta: TokenDelta, now_s: float) -> Sequence[Action]:
        """Take tokens; the hot path: most calls return the delta itself and nothing else."""
        attempt = self.attempt
        if (
            attempt is None
            or delta.attempt != attempt.number
            or not attempt.names(source)
            or not 0 <= delta.child < len(self.children)
        ):
            self.num_stale += 1
            return ()
        child = self.children[delta.child]
        try:
            ready = child.accept(delta, now_s)
        except InternalError as error:
            return self._attempt_failed(Failure(reason=error.reason, retryable=True), source, now_s)
        if not ready:
            if child.num_held > MAX_HELD_DELTAS:
                return self._attempt_failed(Failure(reason=GAP, retryable=True), source, now_s)
            return ()
        clock = self.clock
        if clock.is_waiting:
            clock.token(now_s, from_decode=source == attempt.decode)
        if not self._started:
            return [*self._start(), *ready, *self._complete_if_all_finished(now_s)]
        if child.finished:
            return [*ready, *self._complete_if_all_finished(now_s)]
        return ready

    def on_event(self, source: WorkerKey, event: RequestEvent, now_s: float) -> Sequence[Action]:
        """Take a worker's event about one attempt."""
        attempt = self.attempt
        if attempt is None or event.attempt != attempt.number or not attempt.names(source):
            self.num_stale += 1
            return ()
        match event:
            case Granted():
                return self._granted(attempt, source, event)
            case PrefillDone():
                return self._prefill_done(attempt, source, event, now_s)
            case HandoverDone():
                self.stage = Stage.DECODING
                self.clock.handed_over(event, now_s)
                return ()
            case AttemptFailed():
                if event.child is None:
                    attempt.open_sides.discard(source)
                if self.stage is Stage.DECODING and source != attempt.decode:
                    return ()  # P did not hear that D has all: waste on P's side, no harm to the answer
                return self._attempt_failed(Failure(reason=event.reason, retryable=event.retryable), source, now_s)
            case AttemptReleased():
                attempt.open_sides.discard(source)
                if source == attempt.decode:
                    attempt.released_at_s = now_s
                return ()

    def on_worker_lost(self, worker: WorkerKey, now_s: float) -> Sequence[Action]:
        """A worker died or its stream broke: what it held of this request is gone."""
        attempt = self.attempt
        if attempt is None or worker not in attempt.open_sides:
            return ()  # P that has handed over and released is no part of the request any more
        attempt.open_sides.discard(worker)
        if self.stage is Stage.DECODING and worker != attempt.decode:
            return ()  # D has the KV; should P's first token be lost with it, check_progress finds the gap
        self._deaths.add(worker)
        return self._attempt_failed(Failure(reason=reasons.WORKER_LOST, retryable=True, lost=True), worker, now_s)

    def on_worker_survived(self, worker: WorkerKey) -> None:
        """That life of the worker is attached again: only the stream had broken, which is no death."""
        self._deaths.discard(worker)

    def check_progress(self, now_s: float, *, gap_timeout_s: float) -> Sequence[Action]:
        """Notice what no message will tell: a missing token, or a decode worker that let go before the end."""
        attempt = self.attempt
        if attempt is None:
            return ()
        oldest_s = min((c.held_since_s for c in self.children if c.held_since_s is not None), default=now_s)
        if attempt.released_at_s is not None:
            oldest_s = min(oldest_s, attempt.released_at_s)
        if now_s - oldest_s < gap_timeout_s:
            return ()
        return self._attempt_failed(Failure(reason=GAP, retryable=True), attempt.decode, now_s)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _granted(self, attempt: Attempt, source: WorkerKey, event: Granted) -> Sequence[Action]:
        if source != attempt.decode:
            self.num_stale += 1
            return ()
        commands = attempt.take_grant(event.grant)
        if commands and self.stage is Stage.SEALED:
            self.stage = Stage.HANDING
        return commands

    def _prefill_done(self, attempt: Attempt, source: WorkerKey, event: PrefillDone, now_s: float) -> Sequence[Action]:
        if attempt.prompt_computed:
            return ()
        attempt.prompt_computed = True
        self.num_cached_tokens = event.num_cached_tokens
        self.clock.prefilled(event, now_s)
        if self.stage is Stage.PREFILLING:
            if attempt.prefill is None:
                self.stage = Stage.DECODING
            else:
                self.stage = Stage.SEALED if attempt.grant is None else Stage.HANDING
        return [PromptComputed(worker=source, attempt=attempt.number), *self._start()]

    def _start(self) -> Sequence[Action]:
        if self._started:
            return ()
        self._started = True
        return (Started(num_prompt_tokens=len(self.task.prompt_token_ids), num_cached_tokens=self.num_cached_tokens),)

    def _complete_if_all_finished(self, now_s: float) -> Sequence[Action]:
        if all(child.finished for child in self.children):
            return self._end(Outcome.OK, None, reasons.FINISHED, now_s)
        return ()

    def _attempt_failed(self, failure: Failure, worker: WorkerKey, now_s: float) -> Sequence[Action]:
        # A missing token does not tell whose fault it is.
        attempt = self.attempt
        blamed = attempt.workers if attempt is not None and failure.reason == GAP else (worker,)
        closing = self._close_attempt(failure.reason)
        is_late = self.deadline_s is not None and now_s >= self.deadline_s
        if is_late or failure.reason == reasons.DEADLINE:
            return [*closing, *self.deadline_passed(now_s)]
        choice = decide(
            failure,
            history=self._history,
            num_deaths=len(self._deaths),
            num_emitted=self.num_emitted,
            policy=self._policy,
            budget=self._budget,
        )
        if isinstance(choice, GiveUp):
            return [*closing, *self.failed(choice.error, now_s)]
        for child in self.children:
            child.drop_held()
        self._avoid.update(blamed)
        self.task = replace(
            self.task,
            attempt=self.task.attempt + 1,
            emitted=tuple(tuple(child.tokens) for child in self.children) if self.num_emitted else (),
            done_children=frozenset(index for index, child in enumerate(self.children) if child.finished),
        )
        self.stage = Stage.ADMITTED
        return [
            *closing,
            Requeue(task=self.task, reason=failure.reason, avoid=frozenset(self._avoid), delay_s=choice.delay_s),
        ]

    def _close_attempt(self, reason: str) -> Sequence[Action]:
        """Leave the running attempt: tell every side that may hold something of it."""
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            return ()
        abort = Abort(request_id=self.task.request_id, attempt=attempt.number, reason=reason)
        aborts = [
            SendCommand(worker=worker, command=abort) for worker in attempt.workers if worker in attempt.open_sides
        ]
        return [*aborts, AttemptEnded(workers=attempt.workers, attempt=attempt.number)]

    def _end(self, outcome: Outcome, error: TandemError | None, reason: str, now_s: float) -> Sequence[Action]:
        if self.stage is Stage.ENDED:
            return ()
        attempt = self.attempt
        closing = self._close_attempt(reason)
        self.stage = Stage.ENDED
        if error is not None:
            error.metadata.setdefault("request_id", self.task.request_id)
            error.metadata.setdefault("tokens_emitted", str(self.num_emitted))
        decode = attempt.decode.worker_id if attempt is not None else ""
        prefill = attempt.prefill.worker_id if attempt is not None and attempt.prefill is not None else decode
        usage = Usage(
            prompt_tokens=len(self.task.prompt_token_ids),
            cached_tokens=self.num_cached_tokens,
            output_tokens=self.num_emitted,
        )
        ended = Ended(
            outcome=outcome,
            error=error,
            usage=usage,
            timings=self.clock.timings(now_s),
            prefill_worker_id=prefill,
            decode_worker_id=decode,
            num_attempts=self.task.attempt + 1,
        )
        return [*closing, ended]
