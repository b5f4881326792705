"""Workers without a model: the real WorkerService over real gRPC, tokens at a configured pace.

Deterministic output: token and text are functions of (child, position), whoever produces them, so that a stream that
went over several workers can be checked token by token. In process for tests; ``worker_process`` runs several
of them in a process of their own.
"""

import asyncio
import dataclasses
import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from tandem.core import reasons
from tandem.core.description import WorkerDescription
from tandem.core.errors import FailedPrecondition
from tandem.core.ids import RequestId, WorkerId, new_epoch
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import (
    Abort,
    AttachCommand,
    AttemptFailed,
    AttemptReleased,
    Beat,
    ForwardGrant,
    Granted,
    HandoverDone,
    Hello,
    PrefillDone,
    RequestEvent,
    ReserveDecode,
    StartPrefill,
    StepReport,
    WorkerMessage,
)
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.core.types import FinishReason, GenerationTask, KvSource, Role, TokenDelta, WorkerInfo, WorkerLoad
from tandem.rpc.channels import INTERNAL_LIMITS
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.services.worker import worker_service

MODEL = "fake"
DIGEST = "fake-digest"
STAMP_CHARS = 13


def token_at(child: int, position: int) -> int:
    """The token every fake worker produces there."""
    return 3 + (position * 7 + child * 31) % 97


def text_at(child: int, position: int) -> str:
    """Its text."""
    return f"{token_at(child, position)} "


def emission_time(child: int, position: int) -> str:
    """For benchmarks: the text is when it was emitted, in microseconds of the machine's monotonic clock."""
    return f"{time.monotonic_ns() // 1000:0{STAMP_CHARS}d}"


@dataclass
class Pace:
    """How fast a fake worker is."""

    step_s: float = 0.005
    prefill_s: float = 0.002  # a decode worker believes that its prefill worker needs this long
    handover_s: float = 0.002
    beat_s: float = 0.2
    phase_s: float = 0.0  # steps happen at multiples of step_s plus this, on the machine's monotonic clock


@dataclass
class _Sequence:
    task: GenerationTask
    child: int
    position: int


@dataclass
class FakeWorker:
    """One worker; scripted failures are taken one per task, in order."""

    name: str
    role: Role
    pace: Pace = field(default_factory=Pace)
    text: Callable[[int, int], str] = text_at
    max_sequences: int = 1024
    total_blocks: int = 100_000
    layout: str = "fake-layout"
    fail_next: list[AttemptFailed] = field(default_factory=list)
    stop_after: int | None = None  # emits no further token once it has emitted this many
    mute_prefill_tokens: bool = False  # P's first tokens never come
    tasks: list[GenerationTask] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    grants: list[ForwardGrant] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    draining: bool = False
    silent: bool = False  # beats and reports stop, the stream stands
    num_emitted: int = 0

    def __post_init__(self) -> None:
        self.epoch = new_epoch()
        self.address = ""
        self._running: dict[tuple[RequestId, int, int], _Sequence] = {}
        self._outbox: asyncio.Queue[WorkerMessage] = asyncio.Queue()
        self._events: list[RequestEvent] = []
        self._first_tokens: list[TokenDelta] = []
        self._half: set[tuple[RequestId, int]] = set()
        self._sequence = 0
        self._server: RpcServer | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def info(self) -> WorkerInfo:
        """What it registers as."""
        return WorkerInfo(
            worker_id=WorkerId(self.name),
            epoch=self.epoch,
            role=self.role,
            address=self.address,
            model=MODEL,
            model_digest=DIGEST,
            layout_fingerprint=self.layout,
            block_size=16,
            total_blocks=self.total_blocks,
            max_context_tokens=65536,
            max_sequences=self.max_sequences,
            pid=os.getpid(),
            host="localhost",
        )

    @property
    def num_running(self) -> int:
        """Sequences it decodes now."""
        return len(self._running)

    async def start(self, *, port: int = 0) -> WorkerInfo:
        """Serve."""
        self._server = RpcServer(address=f"127.0.0.1:{port}", limits=INTERNAL_LIMITS)
        self._server.add(worker_service(self))
        self.address = await self._server.start()
        return self.info

    async def stop(self) -> None:
        """Vanish: every stream breaks at once."""
        if self._server is not None:
            await self._server.stop(grace_s=0.0)
            self._server = None

    async def get_info(self, call: CallContext) -> WorkerDescription:
        """A fast worker that is not busy."""
        coefficients = LatencyCoefficients(
            prefill=(self.pace.prefill_s, 1e-7, 0.0), step=(self.pace.step_s, 1e-6, 0.0), transfer=(1e-3, 0.0)
        )
        return WorkerDescription(info=self.info, latency=coefficients, load=self._load(), draining=self.draining)

    async def drain(self, timeout_s: float, call: CallContext) -> int:
        """Take no more; nothing is waited for."""
        self.draining = True
        return len(self._running)

    async def set_role(self, command: RoleCommand, call: CallContext) -> RoleAnswer:
        """It can be nothing else."""
        raise FailedPrecondition("a fake worker keeps its role", reason="ROLE_IS_FIXED")

    async def attach(self, commands: AsyncIterator[AttachCommand], call: CallContext) -> AsyncIterator[WorkerMessage]:
        """One router."""
        self._outbox = asyncio.Queue(maxsize=4)
        self._sequence = 0
        self._running.clear()
        tasks = [asyncio.ensure_future(work) for work in (self._read(commands), self._steps(), self._beats())]
        try:
            while True:
                yield await self._outbox.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for timer in self._timers:
                timer.cancel()
            self._running.clear()

    async def _read(self, commands: AsyncIterator[AttachCommand]) -> None:
        async for command in commands:
            match command:
                case Hello():
                    self.hellos.append(command)
                case StartPrefill():
                    self.tasks.append(command.task)
                    if not self._fails(command.task):
                        self._later(
                            self.pace.prefill_s, functools.partial(self._prefilled, command.task, time.monotonic())
                        )
                case ReserveDecode():
                    self.tasks.append(command.task)
                    if not self._fails(command.task):
                        self._reserved(command.task, command.source)
                case ForwardGrant():
                    self.grants.append(command)
                    self._half_done(command.request_id, command.attempt)
                case Abort():
                    self.aborts.append(command)
                    for key in [k for k in self._running if k[:2] == (command.request_id, command.attempt)]:
                        if command.child is None or key[2] == command.child:
                            del self._running[key]

    def _half_done(self, request_id: RequestId, attempt: int) -> None:
        """P holds its blocks until the prompt is computed and granted for, whichever is later."""
        if (request_id, attempt) in self._half:
            self._half.discard((request_id, attempt))
            self._events.append(AttemptReleased(request_id=request_id, attempt=attempt))
        else:
            self._half.add((request_id, attempt))

    def _fails(self, task: GenerationTask) -> bool:
        if not self.fail_next:
            return False
        failure = self.fail_next.pop(0)
        self._events.append(dataclasses.replace(failure, request_id=task.request_id, attempt=task.attempt))
        return True

    def _prefilled(self, task: GenerationTask, begun_s: float) -> None:
        self._events.append(
            PrefillDone(
                request_id=task.request_id,
                attempt=task.attempt,
                wait_ms=0.0,
                compute_ms=(time.monotonic() - begun_s) * 1e3,
                num_cached_tokens=0,
            )
        )
        if not self.mute_prefill_tokens:
            for child in range(task.num_sequences):
                if child not in task.done_children:
                    self._first_tokens.append(self._token(_Sequence(task, child, _start(task, child))))
        if self.role is Role.PREFILL:
            self._half_done(task.request_id, task.attempt)
        self._flush()

    def _reserved(self, task: GenerationTask, source: KvSource) -> None:
        grant = b"grant:" + task.request_id.encode() if source is KvSource.HANDOVER else b""
        self._events.append(Granted(request_id=task.request_id, attempt=task.attempt, grant=grant))
        self._flush()
        if source is KvSource.LOCAL:
            self._later(self.pace.prefill_s, functools.partial(self._local, task, time.monotonic()))
        else:
            self._later(self.pace.prefill_s + self.pace.handover_s, lambda: self._handed_over(task))

    def _local(self, task: GenerationTask, begun_s: float) -> None:
        self._prefilled(task, begun_s)
        self._begin(task)

    def _handed_over(self, task: GenerationTask) -> None:
        self._events.append(
            HandoverDone(
                request_id=task.request_id,
                attempt=task.attempt,
                num_bytes=1,
                transport="fake",
                handover_ms=self.pace.handover_s * 1e3,
                exposed_ms=0.0,
            )
        )
        self._begin(task)

    def _begin(self, task: GenerationTask) -> None:
        for child in range(task.num_sequences):
            position = _start(task, child) + 1
            if child not in task.done_children and position < task.stop.max_tokens:
                self._running[task.request_id, task.attempt, child] = _Sequence(task, child, position)

    async def _steps(self) -> None:
        while True:
            step_s, now_s = self.pace.step_s, time.monotonic()
            since_s = (now_s - self.pace.phase_s) % step_s
            await asyncio.sleep(step_s - since_s)
            if self.silent:
                continue
            tokens = [self._advance(key) for key in list(self._running)] if self._may_emit() else []
            if tokens or self._events:
                await self._outbox.put(self._report(tuple(tokens)))

    def _may_emit(self) -> bool:
        return self.stop_after is None or self.num_emitted < self.stop_after

    def _advance(self, key: tuple[RequestId, int, int]) -> TokenDelta:
        sequence = self._running[key]
        delta = self._token(sequence)
        sequence.position += 1
        if delta.finish_reason is not None:
            del self._running[key]
            if not any(k[:2] == key[:2] for k in self._running):
                self._events.append(AttemptReleased(request_id=key[0], attempt=key[1]))
        return delta

    def _token(self, sequence: _Sequence) -> TokenDelta:
        self.num_emitted += 1
        child, position, task = sequence.child, sequence.position, sequence.task
        return TokenDelta(
            request_id=task.request_id,
            attempt=task.attempt,
            child=child,
            position=position,
            token_ids=(token_at(child, position),),
            text=self.text(child, position),
            finish_reason=FinishReason.LENGTH if position + 1 >= task.stop.max_tokens else None,
        )

    def _flush(self) -> None:
        """Events do not wait for the next step, as in a real worker."""
        if not self.silent and not self._outbox.full():
            self._outbox.put_nowait(self._report(()))

    def _report(self, tokens: tuple[TokenDelta, ...]) -> StepReport:
        events, self._events = tuple(self._events), []
        first, self._first_tokens = tuple(self._first_tokens), []
        self._sequence += 1
        return StepReport(
            worker_epoch=self.epoch,
            sequence=self._sequence,
            tokens=first + tokens,
            events=events,
            load=self._load(),
        )

    def _load(self) -> WorkerLoad:
        return WorkerLoad(
            num_running=len(self._running),
            free_blocks=self.total_blocks,
            total_blocks=self.total_blocks,
            step_ms=self.pace.step_s * 1e3,
        )

    async def _beats(self) -> None:
        while True:
            if not self.silent:
                beat = Beat(
                    worker_epoch=self.epoch,
                    role=self.role,
                    draining=self.draining,
                    load=self._load(),
                    step_age_ms=0.0,
                )
                await self._outbox.put(beat)
            await asyncio.sleep(self.pace.beat_s)

    def _later(self, delay_s: float, work: Callable[[], None]) -> None:
        timer = asyncio.get_running_loop().call_later(delay_s, work)
        self._timers = {t for t in self._timers if not t.cancelled() and t.when() > time.monotonic()} | {timer}


def _start(task: GenerationTask, child: int) -> int:
    return len(task.emitted[child]) if task.emitted else 0


def failure(reason: str = reasons.ENGINE, *, retryable: bool = True) -> AttemptFailed:
    """A failure for ``fail_next``; the ids are filled in."""
    return AttemptFailed(
        request_id=RequestId(""), attempt=0, reason=reason, message="secret detail", retryable=retryable
    )
