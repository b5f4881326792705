"""A dispatcher with recorded commands and a clock that moves when told, for unit tests."""

from dataclasses import replace
from functools import partial
from typing import Any

from tandem.core.errors import TandemError
from tandem.core.event_log import EventSink
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import (
    AttemptFailed,
    Beat,
    Command,
    HandoverDone,
    PrefillDone,
    RequestEvent,
    ReserveDecode,
    StartPrefill,
    StepReport,
)
from tandem.core.types import FinishReason, GenerationTask, Role, TokenDelta, WorkerLoad
from tandem.router.actions import Ended, Started, WorkerKey
from tandem.router.cache.names import PromptNames
from tandem.router.cache.view import CacheView
from tandem.router.client_stream import Overflow
from tandem.router.dispatcher import Dispatcher
from tandem.router.event_trace import record_health
from tandem.router.fleet import Fleet
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import Observer, SilentObserver
from tandem.router.placement import PlacementPolicy
from tandem.router.queue import CentralQueue, QueueBounds
from tandem.router.sharing import Reserver
from tests.unit.router.builders import SteppedClock, make_delta, make_info, make_task


class Sink:
    """Records what a caller would get."""

    def __init__(self, *, room: int = 1000) -> None:
        self.started: list[Started] = []
        self.deltas: list[TokenDelta] = []
        self.ends: list[Ended] = []
        self.num_keep_alives = 0
        self._room = room

    def put_started(self, started: Started) -> None:
        self.started.append(started)

    def put_delta(self, delta: TokenDelta) -> None:
        self.deltas.append(delta)
        if len(self.deltas) > self._room:
            raise Overflow

    def put_ended(self, ended: Ended) -> None:
        self.ends.append(ended)

    def put_keep_alive(self) -> None:
        self.num_keep_alives += 1

    @property
    def error(self) -> TandemError | None:
        (end,) = self.ends
        return end.error

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]


class World:
    """A dispatcher, its clock, and the commands it has sent."""

    def __init__(
        self,
        *workers: WorkerKey,
        max_sequences: int = 8,
        policy: DispatcherPolicy | None = None,
        event_log: EventSink | None = None,
        cache: CacheView | None = None,
        observer: Observer | None = None,
        reserver: Reserver | None = None,
    ) -> None:
        self.clock = SteppedClock()
        self._cache = cache
        self.num_reports = 0
        self.sent: list[tuple[WorkerKey, Command]] = []
        self.dispatcher = Dispatcher(
            fleet=Fleet(HealthTimers(), on_health=None if event_log is None else partial(record_health, event_log)),
            queue=CentralQueue(QueueBounds()),
            policy=policy or DispatcherPolicy(placement=PlacementPolicy(tie_share=None)),
            clock=self.clock,
            send=lambda worker, command: self.sent.append((worker, command)),
            observer=observer or SilentObserver(),
            event_log=event_log,
            cache=cache,
            reserver=reserver,
        )
        self.max_sequences = max_sequences
        infos = [
            make_info(w.worker_id, Role(w.worker_id.split("-")[0]), epoch=w.epoch, max_sequences=max_sequences)
            for w in workers
        ]
        self.dispatcher.fleet.apply(infos)
        for worker in workers:
            self.dispatcher.on_attached(worker)

    def submit(
        self, name: str = "r", *, deadline_in_s: float | None = None, sink: Sink | None = None, **task: Any
    ) -> Sink:
        sink = sink or Sink()
        now_s = self.clock.now_s()
        made = make_task(request_id=RequestId(name), **task)
        names = None if self._cache is None else PromptNames(tenant=made.tenant, token_ids=made.prompt_token_ids)
        self.dispatcher.submit(
            made,
            sink,
            names=names,
            deadline_s=None if deadline_in_s is None else now_s + deadline_in_s,
            arrived_s=now_s,
        )
        return sink

    def report(
        self,
        worker: WorkerKey,
        *,
        events: tuple[RequestEvent, ...] = (),
        tokens: tuple[TokenDelta, ...] = (),
        load: WorkerLoad | None = None,
    ) -> None:
        self.num_reports += 1
        report = StepReport(
            worker_epoch=worker.epoch, sequence=self.num_reports, tokens=tokens, events=events, load=load
        )
        self.dispatcher.on_report(worker, report)

    def commands(self, kind: type[Command], worker: WorkerKey | None = None) -> list[Command]:
        return [c for w, c in self.sent if isinstance(c, kind) and worker in (None, w)]

    def tasks(self, kind: type[StartPrefill] | type[ReserveDecode]) -> list[GenerationTask]:
        return [c.task for _, c in self.sent if isinstance(c, kind)]

    def wait(self, seconds: float, *, alive: tuple[WorkerKey, ...] = ()) -> list[WorkerKey]:
        """Let time pass in ticks; ``alive`` workers beat meanwhile. Returns the workers found dead."""
        dead: list[WorkerKey] = []
        end_s = self.clock.time_s + seconds
        while self.clock.time_s < end_s - 1e-9:
            self.clock.time_s = min(self.clock.time_s + 0.25, end_s)
            for worker in alive:
                role = Role(worker.worker_id.split("-")[0])
                load = WorkerLoad(free_blocks=1000, total_blocks=1000)
                beat = Beat(worker_epoch=worker.epoch, role=role, draining=False, load=load, step_age_ms=0.0)
                self.dispatcher.on_beat(worker, beat)
            dead += self.dispatcher.step()
        return dead

    def restart(self, worker: WorkerKey) -> None:
        """The directory lists the worker's next life."""
        infos = [record.info for record in self.dispatcher.fleet.records()]
        infos = [replace(i, epoch=Epoch(i.epoch + 1)) if i.worker_id == worker.worker_id else i for i in infos]
        self.dispatcher.on_directory(self.dispatcher.fleet.apply(infos))

    def assert_empty(self) -> None:
        assert self.dispatcher.num_live == 0
        assert len(self.dispatcher.queue) == 0
        assert all(len(record.in_flight) == 0 for record in self.dispatcher.fleet.records())
        assert len(self.dispatcher.reserving) == 0
        assert self.dispatcher.reserving.ahead_s == {}


def done(name: str = "r", attempt: int = 0) -> PrefillDone:
    return PrefillDone(request_id=RequestId(name), attempt=attempt, wait_ms=0.0, compute_ms=5.0, num_cached_tokens=0)


def handed(name: str = "r", attempt: int = 0) -> HandoverDone:
    return HandoverDone(
        request_id=RequestId(name), attempt=attempt, num_bytes=1, transport="tcp", handover_ms=1.0, exposed_ms=0.0
    )


def token(
    position: int, name: str = "r", *, finish: FinishReason | None = None, attempt: int = 0, child: int = 0
) -> TokenDelta:
    return make_delta(position, request_id=RequestId(name), finish=finish, attempt=attempt, child=child)


def failed(reason: str, name: str = "r", attempt: int = 0) -> AttemptFailed:
    return AttemptFailed(request_id=RequestId(name), attempt=attempt, reason=reason, message="m", retryable=True)
