"""One prefill and one decode worker in this process, over a tiny model, with a stand-in for the router.

Real engines, real hand-over services, real sockets; only gRPC and the router's policy are left out.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from opentelemetry.metrics import Meter

from tandem.cluster.programs.config import RegistryTarget, WorkerProgramConfig
from tandem.cluster.programs.roles import role_factory
from tandem.core.clock import MonotonicClock
from tandem.core.event_log import open_event_log
from tandem.core.event_log.record import ProcessLife
from tandem.core.ids import RequestId, WorkerId, new_epoch, new_request_id
from tandem.core.latency import LatencyEstimator
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Beat,
    Command,
    ForwardGrant,
    Granted,
    HandoverDone,
    Hello,
    PrefillDone,
    RequestEvent,
    ReserveDecode,
    StartPrefill,
)
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import FinishReason, GenerationTask, KvSource, Role, TokenDelta, WorkerInfo
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.rpc.telemetry import meter
from tandem.worker_host.assembly import build_engine
from tandem.worker_host.built import BuiltEngine
from tandem.worker_host.host import WorkerHost
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.session import RouterSession

Transport = Literal["shm", "tcp"]
AttachTiers = Callable[[BuiltEngine, CacheSetup, LatencyEstimator], Callable[[], bool]]
"""Joins tiers to an engine and returns what ends them."""


@dataclass
class Child:
    """What came of one child."""

    tokens: dict[int, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)  # by position: P's and D's streams may race
    finish_reason: FinishReason | None = None
    num_repeated: int = 0

    @property
    def text(self) -> str:
        """The text in order."""
        return "".join(self.texts[position] for position in sorted(self.texts))

    def token_ids(self) -> tuple[int, ...]:
        """Tokens in order; fails when a position is missing."""
        assert sorted(self.tokens) == list(
            range(min(self.tokens, default=0), min(self.tokens, default=0) + len(self.tokens))
        )
        return tuple(self.tokens[position] for position in sorted(self.tokens))


@dataclass
class Result:
    """What came of one request."""

    sequences: dict[int, Child] = field(default_factory=dict)
    events: list[tuple[Role, RequestEvent]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def failures(self) -> list[AttemptFailed]:
        """Failures of the whole attempt."""
        return [e for _, e in self.events if isinstance(e, AttemptFailed)]

    def has(self, kind: type[RequestEvent]) -> bool:
        """Whether such an event came."""
        return any(isinstance(e, kind) for _, e in self.events)

    def token_ids(self) -> list[tuple[int, ...]]:
        """Tokens of every child."""
        return [self.sequences[child].token_ids() for child in sorted(self.sequences)]


class _Worker:
    """One host, its engine and the stand-in router's session with it."""

    def __init__(
        self,
        prepared: PreparedModel,
        role: Role,
        engine: EngineConfig,
        transports: Sequence[Transport],
        measured_by: Meter | None,
        *,
        event_log: Path | None = None,
        cache: CacheSetup | None = None,
        attach_tiers: AttachTiers | None = None,
    ) -> None:
        clock, estimator = MonotonicClock(), LatencyEstimator()
        built = build_engine(prepared, engine, clock=clock, cache=cache)
        self.close_tiers: Callable[[], bool] = lambda: True
        if cache is not None and attach_tiers is not None:
            self.close_tiers = attach_tiers(built, cache, estimator)
        program = WorkerProgramConfig(
            worker_id=f"{role.value}-0",
            role=role,
            model_folder=prepared.folder,
            engine=engine,
            registry=RegistryTarget(kind="router"),
            transports=list(transports),
        )
        info = WorkerInfo(
            worker_id=WorkerId(program.worker_id),
            epoch=new_epoch(),
            role=role,
            address="",
            model=prepared.name,
            model_digest=prepared.digest,
            layout_fingerprint=built.layout.fingerprint,
            block_size=engine.block_size,
            total_blocks=built.engine.num_blocks,
            max_context_tokens=prepared.max_context_tokens,
            max_sequences=engine.max_sequences,
            pid=0,
            host="test",
        )
        self.engine: Engine = built.engine
        instruments = WorkerInstruments(meter=measured_by or meter(), role=role)
        life = ProcessLife(info.worker_id, info.epoch)
        self.event_log = None if event_log is None else open_event_log(event_log, life, clock=clock)
        self.host = WorkerHost(
            info=info,
            engine=built.engine,
            make_role=role_factory(program, info, built.layout, instruments, clock, event_log=self.event_log),
            estimator=estimator,
            instruments=instruments,
            clock=clock,
            beat_period_s=0.05,
            event_log=self.event_log,
        )
        self.host.start()
        self.session: RouterSession = self.host.attach(Hello(router_id="test"))

    def send(self, command: Command) -> None:
        self.host.command(self.session, command)


class WorkerPair:
    """Use as an async context manager; leaving it checks that no block is left."""

    def __init__(
        self,
        prepared: PreparedModel,
        *,
        transports: Sequence[Transport] = ("shm", "tcp"),
        engine: EngineConfig | None = None,
        decode_engine: EngineConfig | None = None,
        measured_by: Meter | None = None,
        event_log: Path | None = None,
        caches: tuple[CacheSetup | None, CacheSetup | None] = (None, None),
        attach_tiers: AttachTiers | None = None,
    ) -> None:
        """``caches``: of the prefill and of the decode worker; ``attach_tiers`` is called for each of them."""
        settings = engine or EngineConfig(num_blocks=96, max_batched_tokens=32)
        self.prefill = _Worker(
            prepared,
            Role.PREFILL,
            settings,
            transports,
            measured_by,
            event_log=event_log,
            cache=caches[0],
            attach_tiers=attach_tiers,
        )
        self.decode = _Worker(
            prepared,
            Role.DECODE,
            decode_engine or settings,
            transports,
            measured_by,
            event_log=event_log,
            cache=caches[1],
            attach_tiers=attach_tiers,
        )
        self.beats: list[Beat] = []
        self.hold_grants = False
        self._results: dict[RequestId, Result] = {}
        self._open: dict[RequestId, set[int]] = {}
        self._first_positions: dict[RequestId, list[int]] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for role, worker in ((Role.PREFILL, self.prefill), (Role.DECODE, self.decode)):
            self._readers.append(asyncio.create_task(self._read(role, worker.session)))
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.settle()
        finally:
            for task in self._readers:
                task.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            for worker in (self.prefill, self.decode):
                await asyncio.to_thread(worker.host.close)
                assert await asyncio.to_thread(worker.close_tiers), "the tiers' thread did not end"
                if worker.event_log is not None:
                    await asyncio.to_thread(worker.event_log.close)
        for worker in (self.prefill, self.decode):
            worker.engine.check_integrity()

    async def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until every block of both workers is free."""
        async with asyncio.timeout(timeout_s):
            while not all(self._is_idle(worker) for worker in (self.prefill, self.decode)):
                await asyncio.sleep(0.01)

    @staticmethod
    def _is_idle(worker: _Worker) -> bool:
        load = worker.engine.load()
        return load.free_blocks + load.pinned_blocks == load.total_blocks and worker.host.num_attempts == 0

    def start(self, task: GenerationTask, source: KvSource) -> Result:
        """Begin a request, split over both workers or on the decode worker alone."""
        result = self._results[task.request_id] = Result()
        emitted = task.emitted or ((),) * task.num_sequences
        self._first_positions[task.request_id] = [len(tokens) for tokens in emitted]
        self._open[task.request_id] = set(range(task.num_sequences)) - set(task.done_children)
        if source is KvSource.HANDOVER:
            self.prefill.send(StartPrefill(task=task))
        self.decode.send(ReserveDecode(task=task, source=source))
        return result

    async def run(self, task: GenerationTask, source: KvSource, timeout_s: float = 30.0) -> Result:
        """Run a request to its end under a fresh id."""
        task = replace(task, request_id=new_request_id())
        result = self.start(task, source)
        async with asyncio.timeout(timeout_s):
            await result.ended.wait()
        return result

    def abort(self, request_id: RequestId, reason: str = "TEST") -> None:
        """Tell both sides, as the router does."""
        for worker in (self.prefill, self.decode):
            worker.send(Abort(request_id=request_id, attempt=0, reason=reason))

    async def _read(self, role: Role, session: RouterSession) -> None:
        async for message in session.messages():
            if isinstance(message, Beat):
                self.beats.append(message)
                continue
            for event in message.events:
                self._on_event(role, event)
            for delta in message.tokens:
                self._on_delta(delta)

    def _on_event(self, role: Role, event: RequestEvent) -> None:
        result = self._results[event.request_id]
        result.events.append((role, event))
        if isinstance(event, Granted) and event.grant and not self.hold_grants:
            self.prefill.send(ForwardGrant(request_id=event.request_id, attempt=event.attempt, grant=event.grant))
        if isinstance(event, AttemptFailed) and event.child is None and not event.held:
            self.abort(event.request_id)
            result.ended.set()

    def _on_delta(self, delta: TokenDelta) -> None:
        sequence = self._results[delta.request_id].sequences.setdefault(delta.child, Child())
        for position, token_id in enumerate(delta.token_ids, start=delta.position):
            sequence.num_repeated += position in sequence.tokens
            sequence.tokens[position] = token_id
        sequence.texts[delta.position] = delta.text
        if delta.finish_reason is not None:
            sequence.finish_reason = delta.finish_reason
        # As the router: the end counts once every position before it came; P's first token may be later than D's last.
        first = self._first_positions[delta.request_id][delta.child]
        if sequence.finish_reason is None or len(sequence.tokens) != max(sequence.tokens) + 1 - first:
            return
        left = self._open[delta.request_id]
        left.discard(delta.child)
        if not left:
            self.abort(delta.request_id, "FINISHED")
            self._results[delta.request_id].ended.set()


__all__ = ["AttemptReleased", "HandoverDone", "PrefillDone", "Result", "WorkerPair"]
