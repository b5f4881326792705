"""A whole worker without gRPC: routers come and go, drain, failure, and beats while a forward step takes long."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from typing import cast

import pytest

from tandem.core.clock import MonotonicClock
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyEstimator
from tandem.core.messages import AttemptFailed, AttemptReleased, Beat, Hello, ReserveDecode, StepReport, WorkerMessage
from tandem.core.reasons import DRAINING
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams, TokenDelta, WorkerInfo
from tandem.engine.engine import Engine
from tandem.engine.results import StepResult, StepStats
from tandem.rpc.telemetry import meter
from tandem.worker_host.host import StuckStep, WorkerHost
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.session import RouterSession
from tests.fakes.scripted_engine import ScriptedEngine
from tests.fakes.scripted_role import ScriptedRole

BEAT_S = 0.01
TRAINED = LatencyCoefficients(step=(1.0, 2.0, 3.0))


class _SlowEngine(ScriptedEngine):
    """Each step waits for a permit, as a long forward pass would keep the thread."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.permit = threading.Event()
        self.permit.set()

    def step(self) -> StepResult:
        self.entered.set()
        if not self.permit.wait(20.0):
            raise TimeoutError("the test gave no permit")
        return super().step()


class _Bench:
    """A host over scripted parts, with routers that keep what they read."""

    def __init__(self, *, beat_period_s: float = BEAT_S) -> None:
        self.engine = _SlowEngine()
        self.roles: list[ScriptedRole] = []
        info = WorkerInfo(
            worker_id=WorkerId("decode-0"),
            epoch=Epoch(77),
            role=Role.DECODE,
            address="",
            model="m",
            model_digest="d",
            layout_fingerprint="f",
            block_size=16,
            total_blocks=8,
            max_context_tokens=64,
            max_sequences=4,
            pid=1,
            host="h",
        )
        self.host = WorkerHost(
            info=info,
            engine=cast(Engine, self.engine),
            make_role=self._make_role,
            estimator=LatencyEstimator(TRAINED),
            instruments=WorkerInstruments(meter=meter(), role=Role.DECODE),
            clock=MonotonicClock(),
            beat_period_s=beat_period_s,
            stuck_after_s=0.3,
        )
        self.got: dict[str, list[WorkerMessage]] = {}
        self._readers: list[asyncio.Task[None]] = []

    @property
    def role(self) -> ScriptedRole:
        return self.roles[0]

    def _make_role(self, role: Role, engine: Engine, outbox: Outbox, inbox: Inbox) -> ScriptedRole:
        self.roles.append(ScriptedRole(self.engine, outbox))
        return self.roles[0]

    def attach(self, router_id: str) -> RouterSession:
        session = self.host.attach(Hello(router_id=router_id))
        self.got[session.session_id] = []
        self._readers.append(asyncio.create_task(self._read(session)))
        return session

    async def _read(self, session: RouterSession) -> None:
        async for message in session.messages():
            self.got[session.session_id].append(message)

    def beats(self, session: RouterSession) -> list[Beat]:
        return [m for m in self.got[session.session_id] if isinstance(m, Beat)]

    def reports(self, session: RouterSession) -> list[StepReport]:
        return [m for m in self.got[session.session_id] if isinstance(m, StepReport)]

    def failures(self, session: RouterSession) -> list[AttemptFailed]:
        return [e for report in self.reports(session) for e in report.events if isinstance(e, AttemptFailed)]

    def begin(self, session: RouterSession, name: str) -> None:
        self.host.command(session, ReserveDecode(task=_task(name), source=KvSource.LOCAL))

    async def end(self) -> None:
        self.engine.permit.set()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await asyncio.to_thread(self.host.close)


def _task(name: str) -> GenerationTask:
    return GenerationTask(
        request_id=RequestId(name),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=(1, 2),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=4),
    )


def _token(name: str, position: int = 0) -> TokenDelta:
    return TokenDelta(request_id=RequestId(name), attempt=0, child=0, position=position, token_ids=(7,), text="x")


async def _until(condition: object, timeout_s: float = 5.0) -> None:
    """Wait until ``condition()`` holds."""
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def bench() -> AsyncIterator[_Bench]:
    made = _Bench()
    made.host.start()
    try:
        yield made
    finally:
        await made.end()


async def test_a_router_is_greeted_with_the_workers_state() -> None:
    bench = _Bench()  # never started: the greeting can't come from the heartbeat
    session = bench.attach("a")
    await _until(lambda: bench.beats(session))
    (beat,) = bench.beats(session)
    assert (beat.worker_epoch, beat.role, beat.draining, beat.step_age_ms) == (77, Role.DECODE, False, 0.0)
    assert (beat.load.free_blocks, beat.load.total_blocks) == (8, 8)


async def test_the_same_router_twice_has_two_sessions(bench: _Bench) -> None:
    """Its new stream may come before the end of the old one was noticed; that end must not touch the new one."""
    old, new = bench.attach("a"), bench.attach("a")
    assert old.session_id != new.session_id
    bench.begin(old, "r-old")
    bench.begin(new, "r-new")
    bench.host.detach(old)
    await _until(lambda: bench.role.aborted)
    assert [abort.request_id for abort in bench.role.aborted] == ["r-old"]
    bench.engine.results.append(StepResult(tokens=(_token("r-new"),)))
    await _until(lambda: any(report.tokens for report in bench.reports(new)))


async def test_a_detached_router_costs_others_nothing_and_hears_nothing(bench: _Bench) -> None:
    gone, stays = bench.attach("a"), bench.attach("b")
    bench.begin(gone, "r1")
    bench.begin(stays, "r2")
    await _until(lambda: bench.host.num_attempts == 2)
    bench.host.detach(gone)
    await _until(lambda: bench.host.num_attempts == 1)
    assert [(a.request_id, a.reason) for a in bench.role.aborted] == [("r1", "ROUTER_LOST")]
    await asyncio.sleep(2 * BEAT_S)  # what was queued before is read now
    num_before, num_beats = len(bench.got[gone.session_id]), len(bench.beats(stays))
    bench.engine.results.append(StepResult(tokens=(_token("r1"), _token("r2"))))
    await _until(lambda: any(report.tokens for report in bench.reports(stays)))
    await _until(lambda: len(bench.beats(stays)) > num_beats + 2)
    assert len(bench.got[gone.session_id]) == num_before
    assert {t.request_id for report in bench.reports(stays) for t in report.tokens} == {"r2"}


async def test_detaching_twice_is_no_error(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.begin(session, "r")
    bench.host.detach(session)
    bench.host.detach(session)
    await _until(lambda: bench.role.aborted and bench.host.num_attempts == 0)
    assert len(bench.role.aborted) == 1


async def test_a_long_forward_step_delays_no_beat(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.engine.permit.clear()
    bench.engine.results.append(StepResult(stats=StepStats(wall_s=0.1)))
    await asyncio.to_thread(bench.engine.entered.wait, 5.0)
    before = len(bench.beats(session))
    await _until(lambda: len(bench.beats(session)) >= before + 5)
    ages = [beat.step_age_ms for beat in bench.beats(session)[before + 1 :]]
    assert ages == sorted(ages)
    assert ages[-1] > ages[0] > 0.0
    bench.engine.permit.set()
    await _until(lambda: bench.beats(session)[-1].step_age_ms == 0.0)


async def test_beats_go_on_for_others_when_one_router_does_not_read(bench: _Bench) -> None:
    silent = bench.host.attach(Hello(router_id="silent"))  # nobody reads its messages
    session = bench.attach("a")
    bench.begin(silent, "r1")
    bench.begin(session, "r2")
    await _until(lambda: bench.host.num_attempts == 2)
    began_s = time.monotonic()
    bench.engine.results += [StepResult(tokens=(_token("r1", i), _token("r2", i))) for i in range(50)]
    await _until(lambda: sum(len(report.tokens) for report in bench.reports(session)) == 50)
    await _until(lambda: len(bench.beats(session)) > 3)
    assert time.monotonic() - began_s < 3.0


async def test_commands_that_come_during_a_step_run_right_after_it(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.engine.permit.clear()
    bench.engine.results.append(StepResult())
    await asyncio.to_thread(bench.engine.entered.wait, 5.0)
    bench.begin(session, "r")
    await asyncio.sleep(5 * BEAT_S)
    assert bench.role.handled == []
    bench.engine.permit.set()
    await _until(lambda: bench.role.handled)


async def test_drain_waits_for_what_runs_and_tells_at_once(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.begin(session, "r")
    await _until(lambda: bench.host.num_attempts == 1)
    draining = asyncio.create_task(bench.host.drain(10.0))
    await _until(lambda: bench.beats(session) and bench.beats(session)[-1].draining)
    bench.begin(session, "late")
    await _until(lambda: bench.failures(session))
    assert [(f.request_id, f.reason, f.retryable) for f in bench.failures(session)] == [("late", DRAINING, True)]
    assert not draining.done()
    bench.engine.results.append(StepResult(events=(AttemptReleased(request_id=RequestId("r"), attempt=0),)))
    async with asyncio.timeout(5):
        assert await draining == 0
    assert bench.host.describe().draining


async def test_routers_hear_of_a_drain_without_waiting_for_the_next_beat() -> None:
    bench = _Bench(beat_period_s=30.0)
    bench.host.start()
    try:
        session = bench.attach("a")
        bench.begin(session, "r")
        await _until(lambda: bench.host.num_attempts == 1)
        assert await bench.host.drain(0.2) == 1
        await _until(lambda: len(bench.beats(session)) == 2)
        assert [beat.draining for beat in bench.beats(session)] == [False, True]
    finally:
        await bench.end()


async def test_nothing_is_kept_of_a_router_that_has_left(bench: _Bench) -> None:
    session = bench.host.attach(Hello(router_id="a"))
    left = weakref.ref(session)
    bench.host.detach(session)
    del session

    def is_gone() -> bool:
        gc.collect()
        return left() is None

    await _until(is_gone)


async def test_a_drain_out_of_time_says_how_much_is_left(bench: _Bench) -> None:
    session = bench.attach("a")
    for name in ("r1", "r2", "r3"):
        bench.begin(session, name)
    await _until(lambda: bench.host.num_attempts == 3)
    async with asyncio.timeout(5):
        assert await bench.host.drain(0.1) == 3
    assert bench.role.aborted == []  # ending them is the caller's decision


async def test_drain_of_an_idle_worker_ends_at_once(bench: _Bench) -> None:
    async with asyncio.timeout(5):
        assert await bench.host.drain(60.0) == 0


async def test_a_failed_engine_is_told_and_drains_no_longer(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.begin(session, "r")
    await _until(lambda: bench.host.num_attempts == 1)
    assert bench.host.failure is None
    bench.engine.results.append(MemoryError("device lost"))
    await _until(lambda: bench.host.failure is not None)
    assert isinstance(bench.host.failure, MemoryError)
    async with asyncio.timeout(5):
        assert await bench.host.drain(60.0) == 1


async def test_close_ends_every_thread_and_the_role_once() -> None:
    names = {"engine", "heartbeat"}
    before = {thread for thread in threading.enumerate() if thread.name in names}
    bench = _Bench()
    bench.host.start()
    bench.attach("a")
    await bench.end()
    assert {thread for thread in threading.enumerate() if thread.name in names} == before
    assert bench.role.num_closed == 1


async def test_a_step_that_does_not_end_is_a_failure_of_the_worker(bench: _Bench) -> None:
    bench.engine.permit.clear()
    bench.engine.results.append(StepResult())
    await asyncio.to_thread(bench.engine.entered.wait, 5.0)
    assert bench.host.failure is None
    await _until(lambda: bench.host.failure is not None)
    assert isinstance(bench.host.failure, StuckStep)
    bench.engine.permit.set()
    await _until(lambda: bench.host.failure is None)  # it ended after all


async def test_close_does_not_wait_for_ever_for_a_stuck_step() -> None:
    bench = _Bench()
    bench.engine.permit.clear()
    bench.engine.results.append(StepResult())
    bench.host.start()
    await asyncio.to_thread(bench.engine.entered.wait, 5.0)
    async with asyncio.timeout(5):
        await asyncio.to_thread(bench.host.close, 0.1)
    assert bench.role.num_closed == 1
    await bench.end()


async def test_it_describes_itself_with_speed_load_and_address() -> None:
    bench = _Bench()
    bench.host.set_address("127.0.0.1:9")
    described = bench.host.describe()
    assert described.info.address == "127.0.0.1:9"
    assert described.info.epoch == 77
    assert described.latency.step == pytest.approx(TRAINED.step)
    assert described.load.free_blocks == 8
    assert not described.draining


async def test_a_router_that_never_reads_gets_nothing_more_computed(bench: _Bench) -> None:
    """Its stream may hang on for long: what was begun for it ends at the overrun, and it begins nothing more."""
    silent = bench.host.attach(Hello(router_id="silent"))
    session = bench.attach("a")
    bench.begin(silent, "r1")
    bench.begin(session, "r2")
    await _until(lambda: bench.host.num_attempts == 2)
    for _ in range(4200):
        silent.send(bench.host._make_beat())
    await _until(lambda: bench.host.num_attempts == 1)
    assert [abort.request_id for abort in bench.role.aborted] == ["r1"]
    bench.begin(silent, "r3")
    await asyncio.sleep(5 * BEAT_S)
    assert bench.host.num_attempts == 1
    bench.host.detach(silent)


async def test_the_rest_is_handed_over_at_the_end_of_a_drain(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.begin(session, "r")
    await _until(lambda: bench.host.num_attempts == 1)
    assert await bench.host.drain(0.05) == 1
    async with asyncio.timeout(5):
        assert await bench.host.hand_over(5.0) == 0
    await _until(lambda: bench.failures(session))
    assert [(f.reason, f.retryable) for f in bench.failures(session)] == [(DRAINING, True)]
    assert [abort.request_id for abort in bench.role.aborted] == ["r"]


async def test_a_wedged_engine_keeps_nobody_from_leaving(bench: _Bench) -> None:
    session = bench.attach("a")
    bench.begin(session, "r")
    await _until(lambda: bench.host.num_attempts == 1)
    bench.engine.permit.clear()
    bench.engine.results.append(StepResult())
    await asyncio.to_thread(bench.engine.entered.wait, 5.0)
    async with asyncio.timeout(2):
        assert await bench.host.hand_over(0.1) == 1
