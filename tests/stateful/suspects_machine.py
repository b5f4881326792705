"""Blame, doubt and turns on the classes that serve: workers are killed, cut off, come back or raise; a step in between.

Who really died is known here and not to the router. Placing is done as the dispatcher does it, on decode workers alone.
"""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tandem.core import reasons
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import AttemptFailed, StepReport
from tandem.router.actions import Action, Ended, Requeue, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.crashes import CrashWatch
from tandem.router.ledger import RequestLedger
from tandem.router.live import Live, entry_of
from tandem.router.phases import PhaseClock
from tandem.router.queue import CentralQueue, QueueBounds
from tandem.router.recovery import POISON, RecoveryPolicy, RetryBudget
from tandem.router.suspects import Isolation, Suspicion, SuspicionPolicy
from tests.stateful.running import require
from tests.unit.router.builders import key, make_admitted, make_delta, make_task
from tests.unit.router.world import Sink

POLICY = SuspicionPolicy()
NUM_WORKERS = 3
some_worker = st.integers(0, NUM_WORKERS - 1)


class SuspectsMachine(RuleBasedStateMachine):
    """Subclasses choose the classes: production or a mutant."""

    watch_class: type[CrashWatch] = CrashWatch
    isolation_class: type[Isolation] = Isolation
    suspicion_class: type[Suspicion] = Suspicion

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.num_reports = 0
        self.lives: dict[RequestId, Live] = {}
        self.queue = CentralQueue(QueueBounds())
        self.watch = self.watch_class(lives=self.lives, queue=self.queue, policy=POLICY)
        self.isolation = self.watch._isolation = self.isolation_class(POLICY)
        self.workers = [key(f"decode-{number}") for number in range(NUM_WORKERS)]
        self.cut_since_s: dict[WorkerKey, float] = {}
        self.crashes: dict[RequestId, set[object]] = {}  # deaths, raised steps, and cuts that may be deaths
        self.alone_in: dict[RequestId, set[object]] = {}  # of these, those in which nobody else ran
        self.unplaced_since_s: dict[RequestId, float] = {}

    # --- the world -------------------------------------------------------------------------------------------------

    @rule()
    def submit(self) -> None:
        name = RequestId(f"r{len(self.crashes):02}")
        task = make_task(request_id=name, max_tokens=10_000)
        ledger = RequestLedger(
            task,
            deadline_s=None,
            policy=RecoveryPolicy(max_retries=50, max_continuations=50),
            budget=RetryBudget(share=1.0, reserve=1e6),
            clock=PhaseClock(arrived_s=0.0),
        )
        ledger.suspicion = self.suspicion_class(POLICY, ledger.children)
        ledger.admitted()
        entry = entry_of(task, expected_tokens=1, work_s=0.0, deadline_s=None, arrived_s=self.now_s)
        self.lives[name] = Live(
            ledger=ledger,
            sink=Sink(),
            entry=entry,
            admitted=make_admitted(task, entry),
            admitted_s=0.0,
            arrived_s=0.0,
            last_put_s=0.0,
            waiting_since_s=0.0,
        )
        self.crashes[name], self.alone_in[name] = set(), set()
        self.queue.push(entry)

    @rule(number=some_worker, most=st.integers(1, 8))
    def place(self, number: int, most: int) -> None:
        worker = self.workers[number]
        for _ in range(most):
            entry = self.queue.peek()
            if entry is None or worker in self.cut_since_s:
                return
            self.queue.take(entry)
            name = entry.request_id
            require(len(self.alone_in[name]) < POLICY.min_crashes, "a third worker was risked")
            self.carry_out(name, self.lives[name].ledger.dispatched(prefill=None, decode=worker, now_s=self.now_s))
            self.watch.dispatched(name, self.now_s)
            self.unplaced_since_s.pop(name, None)

    @rule(number=some_worker, num_tokens=st.integers(1, 3))
    def speak(self, number: int, num_tokens: int) -> None:
        for name in self.running_on(self.workers[number]):
            ledger = self.lives[name].ledger
            for _ in range(num_tokens):
                delta = make_delta(
                    ledger.children[0].next_position, request_id=name, attempt=ledger.task.attempt, text="x"
                )
                self.carry_out(name, ledger.on_delta(self.workers[number], delta, self.now_s))
            if num_tokens >= POLICY.passed_tokens:
                self.crashes[name].clear()
                self.alone_in[name].clear()

    @rule(number=some_worker)
    def cut(self, number: int) -> None:
        """The stream breaks; whether the worker lives is seen later."""
        worker = self.workers[number]
        if worker in self.cut_since_s:
            return
        self.cut_since_s[worker] = self.now_s
        self.note_crash(worker, self.running_on(worker))
        self.watch.stream_broke(worker, self.now_s)
        for name, live in list(self.lives.items()):
            self.carry_out(name, live.ledger.on_worker_lost(worker, self.now_s))

    @rule(number=some_worker)
    def come_back(self, number: int) -> None:
        worker = self.workers[number]
        if self.cut_since_s.pop(worker, None) is not None:
            for crashes in (*self.crashes.values(), *self.alone_in.values()):
                crashes.discard(worker)
            self.watch.worker_survived(worker, self.now_s)

    @rule(number=some_worker)
    def die(self, number: int) -> None:
        """Killed, and its next life is listed."""
        self.cut(number)
        worker = self.workers[number]
        self.cut_since_s.pop(worker)
        self.workers[number] = WorkerKey(worker_id=worker.worker_id, epoch=Epoch(worker.epoch + 1))
        self.confirm(worker)

    @rule(number=some_worker)
    def step_raises(self, number: int) -> None:
        worker = self.workers[number]
        names = self.running_on(worker)
        if not names:
            return
        self.num_reports += 1
        events = [
            AttemptFailed(
                request_id=name,
                attempt=self.lives[name].ledger.task.attempt,
                reason=reasons.ENGINE,
                message="",
                retryable=True,
            )
            for name in names
        ]
        self.note_crash((worker, self.num_reports), names)
        report = StepReport(
            worker_epoch=worker.epoch, sequence=self.num_reports, tokens=(), events=tuple(events), load=None
        )
        self.watch.report_came(worker, report, self.now_s)
        for event in events:
            actions = self.lives[event.request_id].ledger.on_event(worker, event, self.now_s)
            self.carry_out(event.request_id, actions)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.5
            for worker in self.watch.overdue(self.now_s):
                require(self.now_s - self.cut_since_s.get(worker, -1e9) >= POLICY.doubt_s, "dead before its time")
                self.confirm(worker)
            self.watch.step(self.now_s)
            self.watch_turn()

    @rule(num_requests=st.integers(1, 7), how=st.lists(st.sampled_from(["cut", "die", "raise"]), max_size=3))
    def trouble(self, num_requests: int, how: Sequence[str]) -> None:
        """Some run together, and again and again something happens to where the first of them is."""
        for _ in range(num_requests):
            self.submit()
        for number, what in enumerate(how):
            self.place(number, 8)
            match what:
                case "cut":
                    self.cut(number)
                case "die":
                    self.die(number)
                case _:
                    self.step_raises(number)

    # --- what is known here ----------------------------------------------------------------------------------------

    def running_on(self, worker: WorkerKey) -> list[RequestId]:
        return [name for name, live in self.lives.items() if live.ledger.runs_on(worker)]

    def note_crash(self, crash: object, names: Sequence[RequestId]) -> None:
        for name in names:
            self.crashes[name].add(crash)
            if len(names) == 1:
                self.alone_in[name].add(crash)

    def confirm(self, worker: WorkerKey) -> None:
        self.watch.worker_died(worker, self.now_s)
        for name, live in list(self.lives.items()):
            self.carry_out(name, live.ledger.check_condemned(self.now_s))

    def carry_out(self, name: RequestId, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Requeue):
                self.watch.queue_again(self.lives[name], self.now_s)
            if isinstance(action, Ended):
                require(action.error is not None and action.error.reason == POISON, f"ended: {action.error}")
                sure = {c for c in self.crashes[name] if c not in self.cut_since_s or self.is_overdue(c)}
                require(len(sure) >= POLICY.min_crashes, "condemned without two crashes")
                self.queue.discard(name)
                del self.lives[name]
                self.watch.ended(name)
                self.unplaced_since_s.pop(name, None)

    def is_overdue(self, crash: object) -> bool:
        return isinstance(crash, WorkerKey) and self.now_s - self.cut_since_s[crash] >= POLICY.doubt_s

    def watch_turn(self) -> None:
        """A turn may be held for a while by who has no worker, while somebody waits, and then no longer."""
        holding = [name for name in self.isolation.turn if name in self.queue] if len(self.isolation) else []
        self.unplaced_since_s = {name: self.unplaced_since_s.get(name, self.now_s) for name in holding}
        for since_s in self.unplaced_since_s.values():
            require(self.now_s - since_s <= POLICY.isolation_s + 0.5, "a turn does not end")

    @invariant()
    def nobody_is_forgotten(self) -> None:
        for name, live in self.lives.items():
            if live.ledger.stage is not Stage.ADMITTED:
                continue
            in_doubt = live.ledger.suspicion.is_in_doubt
            places = [name in self.queue, self.isolation.is_waiting(name), in_doubt]
            require(sum(places) >= 1, "somebody is forgotten")
            require(sum(places) <= 1, "somebody waits in two places")
