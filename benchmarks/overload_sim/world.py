"""A router's core on virtual time: the production dispatcher with its queue, admission and placement; no process."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.controller_sim.worker import coefficients_of, make_worker
from benchmarks.controller_sim.world import VirtualClock
from benchmarks.overload_sim.worker import Running, Worker
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.ids import RequestId
from tandem.core.messages import Abort, Beat, Command, RequestEvent, ReserveDecode, StartPrefill, StepReport
from tandem.core.types import KvSource, Role, TokenDelta
from tandem.router.actions import WorkerKey
from tandem.router.dispatcher import Dispatcher
from tandem.router.fleet import Fleet
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import SilentObserver
from tandem.router.queue import CentralQueue, QueueBounds

WIRE_S = 0.004  # from the router to a worker, or back
_TICK_S, _BEAT_S = 0.02, 1.0


@dataclass
class VirtualRouter:
    """Two prefill and two decode workers and their router."""

    policy: DispatcherPolicy
    cost: TaggedCost
    seed: int
    clock: VirtualClock = field(default_factory=VirtualClock)
    outputs: dict[RequestId, int] = field(default_factory=dict)  # how long each answer will be

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._running: dict[RequestId, Running] = {}
        self._num_reports = 0
        self.workers: dict[WorkerKey, Worker] = {}
        dice = random.Random(self.seed)
        for role, index in itertools.product((Role.PREFILL, Role.DECODE), range(2)):
            made = make_worker(f"{role.value}-{index}", role, cost=self.cost, blocks=512, sequences=8, batched=512)
            key = WorkerKey(worker_id=made.info.worker_id, epoch=made.info.epoch)
            self.workers[key] = Worker(
                info=made.info, cost=self.cost, now_s=self.clock.now_s, later=self.later, told=self._told, dice=dice
            )
        self.dispatcher = Dispatcher(
            fleet=Fleet(HealthTimers()),
            queue=CentralQueue(QueueBounds()),
            policy=self.policy,
            clock=self.clock,
            send=lambda key, command: self.later(WIRE_S, lambda: self._receive(key, command)),
            observer=SilentObserver(),
        )
        self.dispatcher.fleet.apply([worker.info for worker in self.workers.values()])
        for key in self.workers:
            self.dispatcher.on_attached(key)
            record = self.dispatcher.fleet.get(key)
            if record is not None:
                record.profile(coefficients_of(self.cost))
        self.later(0.0, self._tick)
        self.later(0.0, self._beat)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it after so many seconds."""
        heapq.heappush(self._events, (self.clock.at_s + seconds, next(self._numbers), what))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, what = heapq.heappop(self._events)
            self.clock.at_s = at_s
            what()
        self.clock.at_s = until_s

    def busy_s(self, role: Role) -> float:
        """Seconds of computing by the workers of a role, all together."""
        return sum(worker.busy_s for worker in self.workers.values() if worker.info.role is role)

    def _tick(self) -> None:
        self.dispatcher.step()
        self.later(_TICK_S, self._tick)

    def _beat(self) -> None:
        for key, worker in self.workers.items():
            beat = Beat(
                worker_epoch=key.epoch, role=worker.info.role, draining=False, load=worker.load(), step_age_ms=0.0
            )
            self.dispatcher.on_beat(key, beat)
        self.later(_BEAT_S, self._beat)

    def _told(self, worker: Worker, events: Sequence[RequestEvent], tokens: Sequence[TokenDelta]) -> None:
        key = WorkerKey(worker_id=worker.info.worker_id, epoch=worker.info.epoch)
        self._num_reports += 1
        report = StepReport(
            worker_epoch=key.epoch, sequence=self._num_reports, tokens=tuple(tokens), events=tuple(events),
            load=worker.load(),
        )  # fmt: skip
        self.later(WIRE_S, lambda: self.dispatcher.on_report(key, report))

    def _receive(self, key: WorkerKey, command: Command) -> None:
        worker = self.workers[key]
        match command:
            case ReserveDecode():
                request = self._request(command.task.request_id, len(command.task.prompt_token_ids), worker)
                request.decode = worker
                if command.source is KvSource.LOCAL:
                    worker.compute(request)
                else:
                    worker.reserved[request.request_id] = request
            case StartPrefill():
                worker.compute(self._request(command.task.request_id, len(command.task.prompt_token_ids), worker))
            case Abort() if command.request_id in self._running:
                worker.abort(self._running[command.request_id])
            case _:
                return

    def _request(self, request_id: RequestId, num_prompt: int, worker: Worker) -> Running:
        if request_id not in self._running:
            self._running[request_id] = Running(
                request_id=request_id,
                num_prompt=num_prompt,
                num_output=self.outputs[request_id],
                left=num_prompt,
                decode=worker,
            )
        return self._running[request_id]
