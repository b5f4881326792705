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
- When D is lost before it has the KV, P is not told to let go of it: the next attempt asks the same P to hand it over
  again (``held``). That attempt's task is the earlier one's, so the first tokens come once more and are dropped here.
"""

from collections.abc import Sequence
from dataclasses import replace

from tandem.core import reasons
from tandem.core.errors import Cancelled, DeadlineExceeded, InternalError, TandemError
from tandem.core.messages import Abort, AttemptFailed, AttemptReleased, Granted, HandoverDone, PrefillDone, RequestEvent
from tandem.core.types import GenerationTask, Outcome, TokenDelta, Usage
from tandem.router.actions import (
    Action,
    AttemptEnded,
    Ended,
    PairFailed,
    PairWorked,
    PromptComputed,
    SendCommand,
    Started,
    WorkerKey,
)
from tandem.router.attempt import Attempt, Held, Stage
from tandem.router.avoided import Avoided, served_by
from tandem.router.phases import PhaseClock
from tandem.router.positions import ChildStream, continued
from tandem.router.recovery import (
    GAP,
    Failure,
    GiveUp,
    RecoveryHistory,
    RecoveryPolicy,
    RetryBudget,
    decide,
    poison_error,
)
from tandem.router.suspects import Suspicion

MAX_HELD_DELTAS = 1024


class RequestLedger:
    """Everything the router knows about one request."""

    __slots__ = (
        "_avoided",
        "_budget",
        "_history",
        "_policy",
        "_started",
        "attempt",
        "children",
        "clock",
        "deadline_s",
        "held",
        "num_cached_tokens",
        "num_pinned_tokens",
        "num_stale",
        "stage",
        "suspicion",
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
        self.num_pinned_tokens = 0
        self.num_stale = 0
        self.held: Held | None = None
        self.suspicion = Suspicion(policy.suspicion, self.children)
        self._policy = policy
        self._budget = budget
        self._history = RecoveryHistory()
        self._avoided = Avoided()
        self._started = False

    @property
    def num_emitted(self) -> int:
        """Output tokens forwarded to the client so far, over all children."""
        return sum(len(child.tokens) for child in self.children)

    @property
    def overdue_since_s(self) -> float | None:
        """Since when something is missing that no message may ever tell about (see ``check_progress``)."""
        if self.attempt is None:
            return None
        times = [self.attempt.released_at_s, *(child.held_since_s for child in self.children)]
        return min((time_s for time_s in times if time_s is not None), default=None)

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
        dropped = self.drop_held() if self.held is not None and self.held.worker != prefill else ()
        reuse_attempt, self.held = None if self.held is None else self.held.attempt, None
        self.task = replace(self.task, deadline_left_s=left_s)
        self.attempt = Attempt(self.task, prefill=prefill, decode=decode, reuse_attempt=reuse_attempt)
        self.stage = Stage.PREFILLING
        self.clock.dispatched(now_s)
        return [*dropped, *self.attempt.start_commands()]

    def drop_held(self) -> Sequence[Action]:
        """What P still holds can't be used: tell it to let go, and go on from what the client has."""
        held, self.held = self.held, None
        if held is None:
            return ()
        self.task = continued(self.task, self.children)
        abort = Abort(request_id=self.task.request_id, attempt=held.attempt, reason=reasons.KV_NOT_HELD)
        return [SendCommand(worker=held.worker, command=abort)]

    def yielded(self) -> Sequence[Action]:
        """Leave the workers to a more urgent request; the next attempt goes on from what the caller has."""
        closing = self._close_attempt(reasons.YIELDED)
        self._begin_anew()
        return closing

    def cancelled(self, now_s: float, *, reason: str = reasons.CLIENT_CANCELLED) -> Sequence[Action]:
        """The caller went away, or reads too slowly."""
        return self._end(Outcome.CANCELLED, Cancelled("the caller cancelled", reason=reason), reason, now_s)

    def deadline_passed(self, now_s: float) -> Sequence[Action]:
        """The caller's deadline is over."""
        error = DeadlineExceeded(f"the deadline passed in the {self.stage.phase} phase", stage=self.stage.phase)
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
            self._note_past(source, event)
            return ()
        match event:
            case Granted():
                return self._granted(attempt, source, event)
            case PrefillDone():
                return self._prefill_done(attempt, source, event, now_s)
            case HandoverDone():
                self.stage = Stage.DECODING
                self.clock.handed_over(event, now_s)
                return () if attempt.pair is None else [PairWorked(pair=attempt.pair)]
            case AttemptFailed():
                return self._worker_failed(attempt, source, event, now_s)
            case AttemptReleased():
                attempt.open_sides.discard(source)
                if source == attempt.decode:
                    attempt.released_at_s = now_s
                return ()

    def on_worker_lost(self, worker: WorkerKey, now_s: float) -> Sequence[Action]:
        """A worker died or its stream broke: what it held of this request is gone."""
        if self.held is not None and self.held.worker == worker:
            self.drop_held()
        attempt = self.attempt
        if self.stage is Stage.ADMITTED:
            return self.check_condemned(now_s)
        if attempt is None or worker not in attempt.open_sides:
            return ()  # P that has handed over and released is no part of the request any more
        attempt.open_sides.discard(worker)
        if self.stage is Stage.DECODING and worker != attempt.decode:
            return ()  # D has the KV; should P's first token be lost with it, check_progress finds the gap
        return self._attempt_failed(Failure(reason=reasons.WORKER_LOST, retryable=True, lost=True), worker, now_s)

    def check_condemned(self, now_s: float) -> Sequence[Action]:
        """End the request if a death that has just become certain, or that a peer had told of, makes it the culprit."""
        if self.stage is Stage.ADMITTED and self.suspicion.is_condemned:
            return self.failed(poison_error(), now_s)
        return ()

    def runs_on(self, worker: WorkerKey) -> bool:
        """Whether the request may be part of the forward step that runs on ``worker`` now."""
        attempt = self.attempt
        if attempt is None or worker not in attempt.open_sides:
            return False
        return attempt.is_computed_by(worker, decoding=self.stage is Stage.DECODING)

    def check_progress(self, now_s: float, *, gap_timeout_s: float) -> Sequence[Action]:
        """Notice what no message will tell: a missing token, or a decode worker that let go before the end."""
        attempt, since_s = self.attempt, self.overdue_since_s
        if attempt is None or since_s is None or now_s - since_s < gap_timeout_s:
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
        if not self._started:  # what the caller was told holds: an attempt that is lost costs it nothing more
            self.num_cached_tokens = min(event.num_cached_tokens, len(self.task.prompt_token_ids))
        self.num_pinned_tokens = event.num_pinned_tokens
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

    def _note_past(self, source: WorkerKey, event: RequestEvent) -> None:
        """An event of a past attempt: without effect, unless P says that it no longer holds what it held."""
        held = self.held
        if held is None or source != held.worker or event.attempt != held.attempt:
            self.num_stale += 1
        elif isinstance(event, AttemptReleased) or (isinstance(event, AttemptFailed) and not event.held):
            self.drop_held()

    def _worker_failed(
        self, attempt: Attempt, source: WorkerKey, event: AttemptFailed, now_s: float
    ) -> Sequence[Action]:
        if event.child is None and not event.held:
            attempt.open_sides.discard(source)
        if self.stage is Stage.DECODING and source != attempt.decode:
            # P did not hear that D has all: waste on P's side, no harm to the answer.
            if source not in attempt.open_sides:
                return ()
            attempt.open_sides.discard(source)
            abort = Abort(request_id=self.task.request_id, attempt=attempt.number, reason=event.reason)
            return [SendCommand(worker=source, command=abort)]
        failure = Failure(reason=event.reason, retryable=event.retryable, held=event.held)
        return self._attempt_failed(failure, source, now_s)

    def _attempt_failed(self, failure: Failure, worker: WorkerKey, now_s: float) -> Sequence[Action]:
        closing = self._leave_attempt(failure, worker)
        if failure.reason == reasons.DEADLINE or (self.deadline_s is not None and now_s >= self.deadline_s):
            return [*closing, *self.deadline_passed(now_s)]
        choice = decide(
            failure,
            history=self._history,
            condemned=self.suspicion.is_condemned,
            num_emitted=self.num_emitted,
            policy=self._policy,
            budget=self._budget,
        )
        if isinstance(choice, GiveUp):
            return [*closing, *self.failed(choice.error, now_s)]
        self._begin_anew()
        keeps_kv = self.held is not None
        return [*closing, self._avoided.requeue(self.task, failure, worker, delay_s=choice.delay_s, keeps_kv=keeps_kv)]

    def _begin_anew(self) -> None:
        for child in self.children:
            child.drop_held()
        task = self.task if self.held is not None else continued(self.task, self.children)
        self.task = replace(task, attempt=task.attempt + 1)
        self.stage = Stage.ADMITTED

    def _leave_attempt(self, failure: Failure, worker: WorkerKey) -> Sequence[Action]:
        """Close the failed attempt; remember whom to avoid and what P still holds, and judge the pair."""
        attempt = self.attempt
        if attempt is None:
            return ()
        is_decoding = self.stage is Stage.DECODING
        pair = self._avoided.note(attempt, failure, worker, handed_over=is_decoding)
        if not is_decoding and attempt.prefill is not None and attempt.is_kept(failure, worker):
            self.held = Held(worker=attempt.prefill, attempt=attempt.number)
            attempt.open_sides.discard(attempt.prefill)
        closing = self._close_attempt(failure.reason)
        return closing if pair is None else [PairFailed(pair=pair, reason=failure.reason), *closing]

    def _close_attempt(self, reason: str) -> Sequence[Action]:
        """Leave the running attempt: tell every side that may hold something of it."""
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            return ()
        abort = Abort(request_id=self.task.request_id, attempt=attempt.number, reason=reason)
        open_sides = (worker for worker in attempt.workers if worker in attempt.open_sides)
        aborts = (SendCommand(worker=worker, command=abort) for worker in open_sides)
        return [*aborts, AttemptEnded(workers=attempt.workers, attempt=attempt.number)]

    def _end(self, outcome: Outcome, error: TandemError | None, reason: str, now_s: float) -> Sequence[Action]:
        if self.stage is Stage.ENDED:
            return ()
        attempt = self.attempt
        closing = [*self._close_attempt(reason), *self.drop_held()]
        self.stage = Stage.ENDED
        if error is not None:
            error.metadata.setdefault("request_id", self.task.request_id)
            error.metadata.setdefault("tokens_emitted", str(self.num_emitted))
        usage = Usage(
            prompt_tokens=len(self.task.prompt_token_ids),
            cached_tokens=self.num_cached_tokens,
            output_tokens=self.num_emitted,
            pinned_tokens=self.num_pinned_tokens,
            prompt_computed=self._started,
        )
        served = served_by(attempt)
        ended = Ended(
            outcome=outcome,
            error=error,
            usage=usage,
            timings=self.clock.timings(now_s),
            prefill_worker_id=served.prefill_worker,
            decode_worker_id=served.decode_worker,
            num_attempts=self.task.attempt + 1,
        )
        return [*closing, ended]
