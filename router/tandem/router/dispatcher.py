"""The router's core: admits requests, places them, feeds workers' reports through the ledgers, tells callers.

Runs in one thread (the event loop's) and never waits: it is called, it calls ``send`` and the sinks, it returns. It
only joins the parts that hold the policy: ledger, queue, placement, recovery, fleet.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.clock import Clock
from tandem.core.errors import TandemError, Unavailable
from tandem.core.event_log import EventSink
from tandem.core.ids import RequestId
from tandem.core.messages import AttemptReleased, Beat, Command, HandoverDone, PrefillDone, StepReport
from tandem.core.types import GenerationTask, Outcome, TokenDelta
from tandem.router.actions import (
    Action,
    AttemptEnded,
    Ended,
    PairFailed,
    PairWorked,
    PromptComputed,
    RareAction,
    Requeue,
    SendCommand,
    Started,
    WorkerKey,
)
from tandem.router.admitting import Admitting
from tandem.router.attempt import Stage
from tandem.router.cache.names import PromptNames
from tandem.router.cache.view import CacheView
from tandem.router.client_stream import Overflow, Sink
from tandem.router.crashes import CrashWatch
from tandem.router.event_trace import RecordingObserver, RecordingSink
from tandem.router.fleet import Fleet, FleetChange
from tandem.router.keep_alives import KeepAlives
from tandem.router.ledger import RequestLedger
from tandem.router.live import DispatcherPolicy, Live, open_live
from tandem.router.observer import Observer
from tandem.router.overdue import OverdueWatch
from tandem.router.overtaking import Overtaking
from tandem.router.pairs import PairBreakers
from tandem.router.phases import PhaseClock
from tandem.router.placer import Placer
from tandem.router.placing import Placing, PlacingParts
from tandem.router.queue import CentralQueue
from tandem.router.recovery import RetryBudget
from tandem.router.reserving import Reserving
from tandem.router.serving import ServingWatch
from tandem.router.sharing import Answer, Reserver, Ticket
from tandem.router.timers import Timer, TimerKind, Timers
from tandem.router.waiting import Waits, lost_while_waiting
from tandem.router.worker_losses import WorkerLosses

Send = Callable[[WorkerKey, Command], None]


class Dispatcher:
    """All requests of this router."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        queue: CentralQueue,
        policy: DispatcherPolicy,
        clock: Clock,
        send: Send,
        observer: Observer,
        event_log: EventSink | None = None,
        cache: CacheView | None = None,
        reserver: Reserver | None = None,
    ) -> None:
        """With a ``reserver`` this router and the others agree on prefill workers (see ``reserving``)."""
        self.fleet = fleet
        self.queue = queue
        self.num_ended: Counter[Outcome] = Counter()
        self.num_stale = 0
        self.draining = False
        self._policy = policy
        self._clock = clock
        self._send = send
        self._observer = observer if event_log is None else RecordingObserver(observer, event_log)
        self._event_log = event_log
        self._budget = RetryBudget()
        self.pairs = PairBreakers(policy.pairs)
        self.serving = ServingWatch()
        self._placer = Placer(fleet=fleet, pairs=self.pairs, policy=policy.placement, serving=self.serving, cache=cache)
        self._lives: dict[RequestId, Live] = {}
        self.admitting = Admitting(
            policy=policy.admission,
            queue=queue,
            fleet=fleet,
            placer=self._placer,
            lives=self._lives,
            observer=self._observer,
        )
        self.overtaking = Overtaking(queue=queue, placer=self._placer, lives=self._lives, policy=policy.overtaking)
        self.crashes = CrashWatch(lives=self._lives, queue=queue, policy=policy.recovery.suspicion)
        lives = self._lives
        self._losses = WorkerLosses(fleet=fleet, crashes=self.crashes, pairs=self.pairs, lives=lives, apply=self._apply)
        self._timers = Timers()
        self._waits = Waits(policy, self._timers)
        self.reserving = Reserving(
            reserver=reserver,
            policy=policy.sharing,
            queue=queue,
            fleet=fleet,
            num_routers=lambda: self.admitting.gate.buckets.num_routers,
            on_answer=self.on_reserved,
        )
        self._placer.asked_s = self.reserving.ahead_s
        parts = PlacingParts(
            fleet=fleet,
            queue=queue,
            lives=lives,
            placer=self._placer,
            admitting=self.admitting,
            overtaking=self.overtaking,
            crashes=self.crashes,
            reserving=self.reserving,
            waits=self._waits,
            timers=self._timers,
            observer=self._observer,
        )
        self._placing = Placing(parts, apply=self._apply, give_up=self._give_up)
        self._overdue = OverdueWatch(lives=self._lives, now_s=clock.now_s())
        self._keep_alives = KeepAlives(lives, queue, self._timers, self._observer, every_s=policy.keep_alive_s)

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return len(self._lives)

    @property
    def last_no_capacity(self) -> str:
        """Why the last head of the queue that did not fit had to wait."""
        return self._placing.last_no_capacity

    # --- callers ---------------------------------------------------------------------------------------------------

    def submit(
        self,
        task: GenerationTask,
        sink: Sink,
        *,
        deadline_s: float | None,
        arrived_s: float,
        tokenize_ms: float | None = None,
        names: PromptNames | None = None,
        caller_attempt: int = 0,
    ) -> None:
        """Take a request, or raise QuotaExceeded, Overloaded, or Unavailable when the router is draining.

        ``caller_attempt`` counts how often its caller has tried before.
        """
        if self.draining:
            raise Unavailable("this router is shutting down", reason=reasons.DRAINING, retry_after_s=1.0)
        now_s = self._clock.now_s()
        admitted = self.admitting.admit(
            task, names, deadline_s=deadline_s, arrived_s=arrived_s, now_s=now_s, caller_attempt=caller_attempt
        )
        task = admitted.task
        clock = PhaseClock(arrived_s=arrived_s, tokenize_ms=tokenize_ms)
        ledger = RequestLedger(
            task, deadline_s=deadline_s, policy=self._policy.recovery, budget=self._budget, clock=clock
        )
        sink = sink if self._event_log is None else RecordingSink(sink, task, self._event_log)
        ledger.admitted()
        live = open_live(ledger, sink, admitted, now_s=now_s, names=names)
        self._lives[task.request_id] = live
        if deadline_s is not None:
            self._timers.add(deadline_s, Timer(kind=TimerKind.DEADLINE, request_id=task.request_id))
        self._waits.begin(live, now_s)
        self.queue.push(admitted.entry)
        loser = self._lives.get(admitted.decision.displaces or RequestId(""))
        if loser is not None:
            self._give_up(loser, self.admitting.displaced(loser, now_s), now_s)
        self._placing.place(now_s)

    def cancel(self, request_id: RequestId, *, reason: str = reasons.CLIENT_CANCELLED) -> None:
        """The caller is gone; unknown and ended requests have no effect."""
        live = self._lives.get(request_id)
        if live is not None:
            now_s = self._clock.now_s()
            self._apply(live, live.ledger.cancelled(now_s, reason=reason), now_s)
            self._placing.place_if_room(now_s)

    def fail_all(self, error: TandemError) -> None:
        """End every request with ``error``: the router stops."""
        now_s = self._clock.now_s()
        for live in list(self._lives.values()):
            self._apply(live, live.ledger.failed(error, now_s), now_s)

    # --- workers ---------------------------------------------------------------------------------------------------

    def on_report(self, worker: WorkerKey, report: StepReport) -> None:
        """Take one step's events and tokens: the hot path."""
        now_s = self._clock.now_s()
        record = self.fleet.get(worker)
        if record is None or report.worker_epoch != worker.epoch:
            self.num_stale += len(report.tokens) + len(report.events)
            return
        record.pulse.heard(now_s)
        if report.load is not None:
            record.learn_step(report.load, now_s)
        lives = self._lives
        if report.events:
            self.crashes.report_came(worker, report, now_s)
        for event in report.events:
            live = lives.get(event.request_id)
            if live is None:
                self.num_stale += 1
                continue
            if isinstance(event, HandoverDone):
                record.note_transfer(event, live.ledger.task)
            if isinstance(event, PrefillDone):
                record.note_prefill(event, len(live.ledger.task.prompt_token_ids))
            self._apply(live, live.ledger.on_event(worker, event, now_s), now_s)
            if isinstance(event, AttemptReleased) and live.ledger.overdue_since_s is not None:
                self._overdue.add(event.request_id)
        for delta in report.tokens:
            live = lives.get(delta.request_id)
            if live is None:
                self.num_stale += 1
                continue
            actions = live.ledger.on_delta(worker, delta, now_s)
            if actions:
                self._apply(live, actions, now_s)
            else:
                self._overdue.add(delta.request_id)
        self._placing.place_if_room(now_s)

    def on_beat(self, worker: WorkerKey, beat: Beat) -> None:
        """Take a sign of life."""
        self.fleet.on_beat(worker, beat, self._clock.now_s())

    def on_attached(self, worker: WorkerKey) -> None:
        """The stream to a worker stands (again)."""
        record = self.fleet.get(worker)
        if record is None:
            return
        now_s = self._clock.now_s()
        record.pulse.stream_opened(now_s)
        self.crashes.worker_survived(worker, now_s)
        self._placing.place(now_s)

    def on_lost(self, worker: WorkerKey) -> None:
        """The stream to a worker broke: it holds nothing of ours any more, and may be dead or not."""
        now_s = self._clock.now_s()
        self._losses.stream_broke(worker, now_s)
        self._placing.place(now_s)

    def on_directory(self, change: FleetChange) -> None:
        """Workers left the directory: those whose next life has joined are dead, others may be out of sight."""
        now_s = self._clock.now_s()
        self._losses.directory_changed(change, now_s)
        self._placing.place(now_s)

    def on_reserved(self, ticket: Ticket, answer: Answer) -> None:
        """The routers' shared reservations answer."""
        self._placing.answered(ticket, answer, self._clock.now_s())

    # --- time ------------------------------------------------------------------------------------------------------

    def step(self) -> Sequence[WorkerKey]:
        """Do what is due; call it every 20 ms or so. Returns workers found dead: their streams must be closed."""
        now_s = self._clock.now_s()
        self.fleet.forgive(self._overdue.stalled_s(now_s))
        for timer in self._timers.pop_due(now_s):
            live = self._lives.get(timer.request_id)
            if live is not None:
                self._on_timer(live, timer.kind, now_s)
        self.fleet.learn(now_s)
        self.admitting.step(now_s)
        dead = self.fleet.tick(now_s)
        for worker in dead:
            self._losses.died(worker, now_s)
        self._losses.judge_doubted(now_s)
        self.crashes.step(now_s)
        for live in self._overdue.requests(now_s):
            progress = live.ledger.check_progress(now_s, gap_timeout_s=self._policy.gap_timeout_s)
            self._apply(live, progress, now_s)
        self._keep_alives.step(now_s)
        self._placing.place(now_s)
        return dead

    def _on_timer(self, live: Live, kind: TimerKind, now_s: float) -> None:
        match kind:
            case TimerKind.DEADLINE:
                self._apply(live, live.ledger.deadline_passed(now_s), now_s)
            case TimerKind.WAIT_OVER:
                error = self._waits.error_of_long_wait(live, now_s)
                if error is not None:
                    self._give_up(live, error, now_s)
            case TimerKind.NO_ANSWER:
                self._placing.no_answer(live, now_s)
            case TimerKind.PLACE_AGAIN:
                if live.ledger.stage is Stage.ADMITTED:
                    self.crashes.queue_again(live, now_s)
                    self._placing.room_changed = True

    # --- actions ---------------------------------------------------------------------------------------------------

    def _apply(self, live: Live, actions: Sequence[Action], now_s: float) -> None:
        for action in actions:
            if isinstance(action, TokenDelta):
                live.last_put_s = now_s
                try:
                    live.sink.put_delta(action)
                except Overflow:
                    if live.ledger.stage is Stage.ENDED:
                        continue  # this was the last of it: the buffer holds the whole rest
                    slow = live.ledger.cancelled(now_s, reason=reasons.SLOW_CONSUMER)
                    self._apply(live, slow, now_s)
                    return
            elif isinstance(action, SendCommand):
                self._send(action.worker, action.command)
            else:
                self._apply_rare(live, action, now_s)

    def _apply_rare(self, live: Live, action: RareAction, now_s: float) -> None:
        match action:
            case Started():
                live.last_put_s = now_s
                self.admitting.started(live, now_s)
                live.sink.put_started(action)
            case PromptComputed():
                key = AttemptKey(request_id=live.entry.request_id, attempt=action.attempt)
                self.fleet.settle_prefill(action.worker, key)
                self.reserving.release(live.entry.request_id)
                self._placing.room_changed = True
            case AttemptEnded():
                key = AttemptKey(request_id=live.entry.request_id, attempt=action.attempt)
                self.fleet.end_attempt(action.workers, key)
                self.reserving.release(live.entry.request_id)
                self.pairs.attempt_over(key)
                self._placing.room_changed = True
            case PairWorked():
                self.pairs.worked(action.pair)
            case PairFailed():
                state = self.pairs.failed(action.pair, action.reason, now_s)
                self._observer.handover_failed(action.pair, reason=action.reason, state=state)
            case Requeue():
                live.avoid, live.avoid_pairs = action.avoid, action.avoid_pairs
                self._observer.retried(action.task, reason=action.reason, again=action)
                self._waits.begin(live, now_s)
                if action.delay_s > 0.0:
                    timer = Timer(kind=TimerKind.PLACE_AGAIN, request_id=live.entry.request_id)
                    self._timers.add(now_s + action.delay_s, timer)
                else:
                    self.crashes.queue_again(live, now_s)
                    self._placing.room_changed = True
            case Ended():
                self._end(live, action)

    def _give_up(self, live: Live, error: TandemError, now_s: float) -> None:
        """End a request that waits: shed before any token, failed after one."""
        ledger = live.ledger
        gone = ledger.failed(lost_while_waiting(), now_s) if ledger.num_emitted else ledger.shed(error, now_s)
        self._apply(live, gone, now_s)

    def _end(self, live: Live, ended: Ended) -> None:
        request_id = live.entry.request_id
        now_s = self._clock.now_s()
        self.queue.discard(request_id)
        self._placing.ended(live, now_s)
        self._lives.pop(request_id, None)
        self._overdue.discard(request_id)
        self.crashes.ended(request_id)
        self.num_stale += live.ledger.num_stale
        self.num_ended[ended.outcome] += 1
        self.admitting.ended(live, ended, now_s)
        self._observer.ended(live.ledger.task, ended)
        live.sink.put_ended(ended)
