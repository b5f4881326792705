"""A whole worker inside one process: engine thread, role, heartbeat, and the routers attached to it. No gRPC here."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import structlog

from tandem.core.clock import Clock
from tandem.core.description import WorkerDescription, WorkerHoldings
from tandem.core.event_log import EventSink
from tandem.core.event_log.events import RoleChanged
from tandem.core.latency import LatencyEstimator
from tandem.core.messages import Abort, AttachCommand, Beat, ForwardGrant, Hello, ReserveDecode, StartPrefill
from tandem.core.role_commands import RoleAnswer, RoleCommand, RoleGuard
from tandem.core.types import Role, WorkerInfo
from tandem.engine.engine import Engine
from tandem.worker_host.cache_service import WorkerCacheServiceHandler
from tandem.worker_host.engine_calls import EngineCalls
from tandem.worker_host.engine_loop import EngineLoop
from tandem.worker_host.heartbeat import Heartbeat
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.pins import Pins
from tandem.worker_host.role import RoleService
from tandem.worker_host.role_desk import RoleDesk
from tandem.worker_host.session import RouterSession

_log = structlog.get_logger(__name__)
_DRAIN_POLL_S = 0.05
_COMMAND_S = 10.0  # a forward step may be long, and a role takes a moment to build


class StuckStep(RuntimeError):
    """A forward step does not end: only a new process helps. Routers have given the worker up before."""


RoleFactory = Callable[[Role, Engine, Outbox, Inbox], RoleService]


class WorkerHost:
    """Runs one engine in one role at a time for any number of routers.

    Guarantees: when a router's stream ends, everything it began here is aborted; after `close` no thread, socket or
    block is left. Methods are for the asyncio thread unless they say otherwise.
    """

    def __init__(
        self,
        *,
        info: WorkerInfo,
        engine: Engine,
        make_role: RoleFactory,
        estimator: LatencyEstimator,
        instruments: WorkerInstruments,
        clock: Clock,
        beat_period_s: float = 1.0,
        stuck_after_s: float = 120.0,
        event_log: EventSink | None = None,
    ) -> None:
        self.info = info
        self._event_log = event_log
        if event_log is not None:
            engine.observe(event_log)
        self._stuck_after_s = stuck_after_s
        self._engine = engine
        self._estimator = estimator
        pins = Pins(engine.cache)
        inbox, outbox = Inbox(), Outbox(info.epoch, amend=pins.amend)
        self._calls = EngineCalls(inbox)
        engine.promotions.wake_with(lambda: inbox.post(lambda: None))
        self._clock = clock
        self._make_role = make_role
        self._parts = (engine, outbox, inbox)
        self._instruments = instruments
        self._loop = EngineLoop(
            engine=engine,
            role=make_role(info.role, engine, outbox, inbox),
            inbox=inbox,
            outbox=outbox,
            estimator=estimator,
            instruments=instruments,
            clock=clock,
            pins=pins,
        )
        instruments.show_load(info.worker_id, lambda: self._loop.load)
        if engine.cache is not None:
            instruments.show_tiers(engine.cache.tier_stats)
        self._desk = RoleDesk(
            RoleGuard(worker_id=info.worker_id, epoch=info.epoch, role=info.role),
            self._loop,
            make_role=self._build_role,
            on_change=self._on_role_change,
        )
        self._heartbeat = Heartbeat(make_beat=self._make_beat, broadcast=self._broadcast, period_s=beat_period_s)
        self._sessions: dict[str, RouterSession] = {}
        self._session_numbers = itertools.count()

    def start(self) -> None:
        """Start the engine thread and the heartbeat."""
        self._loop.start()
        self._heartbeat.start()
        self._log_state("serving")

    def set_address(self, address: str) -> None:
        """Complete the registration with the address that was bound, before the start."""
        self.info = replace(self.info, address=address)

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine thread, or keeps it; None while it is well. The process should end with it."""
        age_s = self._loop.step_age_ms / 1e3
        if self._loop.failure is None and age_s > self._stuck_after_s:
            return StuckStep(f"a forward step has been running for {age_s:.0f} s")
        return self._loop.failure

    @property
    def num_attempts(self) -> int:
        """Attempts that have not ended here; safe from any thread."""
        return self._loop.num_attempts

    def attach(self, hello: Hello) -> RouterSession:
        """A router attached: return its session; it gets a beat at once, so that it knows the state."""
        session_id = f"{hello.router_id}#{next(self._session_numbers)}"
        session = RouterSession(session_id, asyncio.get_running_loop(), on_overrun=lambda: self._on_overrun(session_id))
        self._sessions[session_id] = session
        self._loop.open_session(session_id, session.send)
        session.send(self._make_beat())
        return session

    def detach(self, session: RouterSession) -> None:
        """A router's stream ended: its attempts are aborted."""
        session.close()
        self._sessions.pop(session.session_id, None)
        self._loop.close_session(session.session_id)

    def command(self, session: RouterSession, command: AttachCommand) -> None:
        """A command came over a router's stream."""
        if isinstance(command, StartPrefill | ReserveDecode | ForwardGrant | Abort):
            self._loop.command(session.session_id, command)

    def cache_service(self) -> WorkerCacheServiceHandler | None:
        """Return what serves this worker's prefix cache to routers; None without a cache."""
        cache = self._engine.cache
        return None if cache is None else WorkerCacheServiceHandler(cache, self._calls, clock=self._clock)

    def describe(self) -> WorkerDescription:
        """Tell who this worker is, how fast, how busy."""
        return WorkerDescription(
            info=self.info,
            latency=self._estimator.model().coefficients,
            load=self._loop.load,
            draining=self._loop.is_draining,
            busy_s=self._loop.busy_s,
            holdings=WorkerHoldings(
                num_attempts=self._loop.num_attempts,
                num_handovers=self._loop.role.num_handovers,
                num_sessions=len(self._sessions),
                num_tasks=len(asyncio.all_tasks()),
            ),
        )

    async def command_role(self, command: RoleCommand) -> RoleAnswer:
        """Obey a controller, or say why not. Raises Unavailable when the engine thread does not come to it in time."""
        return await self._calls.run(lambda: self._desk.obey(command), timeout_s=_COMMAND_S)

    async def drain(self, timeout_s: float) -> int:
        """Take no new attempts and wait for the running ones; return how many were left when the time was over."""
        self._calls.post(self._desk.leave)
        self._loop.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._loop.is_draining)
                self._log_state("draining")
                self._broadcast(self._make_beat())  # only now does it say so
                await self._until(lambda: self._loop.num_attempts == 0)
        except TimeoutError:
            _log.warning("drain_timed_out", num_left=self._loop.num_attempts)
        return self._loop.num_attempts

    async def hand_over(self, timeout_s: float) -> int:
        """End every attempt left, retryable, so that its router continues it elsewhere; return how many could not be.

        For the end of a drain. What a worker holds of a hand-over goes with it; the other side is told by its router.
        """
        self._loop.hand_over()
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._loop.num_attempts == 0)
        except TimeoutError:
            _log.error("hand_over_timed_out", num_left=self._loop.num_attempts)
        return self._loop.num_attempts

    def _on_overrun(self, session_id: str) -> None:
        """A router does not read: nobody waits for what is computed for it, so that ends now, not with its stream."""
        _log.warning("router_does_not_read", session=session_id)
        self._loop.close_session(session_id)

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop every thread. Attempts still running end with the process."""
        self._heartbeat.stop(timeout_s)
        if not self._loop.stop(timeout_s):
            _log.error("engine_thread_did_not_stop", step_age_ms=self._loop.step_age_ms)
        self._loop.role.close()
        self._log_state("stopped")

    def _build_role(self, role: Role) -> RoleService:
        """Make a role over the engine that is there. Engine thread, which has nothing to do meanwhile."""
        engine, outbox, inbox = self._parts
        told, engine.on_cached = engine.on_cached, None
        try:
            built = self._make_role(role, engine, outbox, inbox)
        except BaseException:
            engine.on_cached = told
            raise
        self._instruments.serve_as(role)
        return built

    def _on_role_change(self) -> None:
        """Tell everybody who attached: routers follow with their next placement. Engine thread."""
        self.info = replace(self.info, role=self._loop.role.role)
        self._log_state("draining" if self._loop.is_draining else "serving")
        self._broadcast(self._make_beat())

    def _log_state(self, state: Literal["serving", "draining", "stopped"]) -> None:
        if self._event_log is not None:
            self._event_log.record(RoleChanged(role=self._loop.role.role, state=state))

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what the engine thread brings about; give up when that has failed and brings about no more.

        The state lives on the engine thread; looking now and then is cheaper than telling at every end.
        """
        while self.failure is None and not is_so():  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)

    def _make_beat(self) -> Beat:
        return Beat(
            worker_epoch=self.info.epoch,
            role=self._loop.role.role,
            draining=self._loop.is_draining,
            load=self._loop.load,
            step_age_ms=self._loop.step_age_ms,
        )

    def _broadcast(self, beat: Beat) -> None:
        for session in tuple(self._sessions.values()):
            session.send(beat)
