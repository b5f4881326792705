"""The engine thread's step: what is taken, run, published, learned; and how it ends."""

import threading
import time
from dataclasses import replace
from typing import cast

from tandem.core.blocks import AttemptKey
from tandem.core.clock import MonotonicClock
from tandem.core.errors import InvalidArgument, Overloaded
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId
from tandem.core.latency import LatencyCoefficients, LatencyEstimator
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    ForwardGrant,
    ReserveDecode,
    StartPrefill,
    StepReport,
    WorkerMessage,
)
from tandem.core.reasons import DRAINING
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams, TokenDelta
from tandem.engine.engine import Engine
from tandem.engine.results import StepResult, StepStats
from tandem.worker_host.engine_loop import EngineLoop
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tests.fakes.measured import Measured, labels
from tests.fakes.scripted_engine import ScriptedEngine
from tests.fakes.scripted_role import ScriptedRole


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


def _local(name: str) -> ReserveDecode:
    return ReserveDecode(task=_task(name), source=KvSource.LOCAL)


class _Bench:
    """A loop over scripted parts, stepped by hand."""

    def __init__(self) -> None:
        self.engine, self.measured = ScriptedEngine(), Measured()
        self.inbox, self.outbox = Inbox(), Outbox(Epoch(1))
        self.role = ScriptedRole(self.engine, self.outbox)
        self.estimator = LatencyEstimator(num_cold=0)
        self.loop = EngineLoop(
            engine=cast(Engine, self.engine),
            role=self.role,
            inbox=self.inbox,
            outbox=self.outbox,
            estimator=self.estimator,
            instruments=WorkerInstruments(meter=self.measured.meter, role=Role.DECODE),
            clock=MonotonicClock(),
        )
        self.reports: list[StepReport] = []
        self.loop.open_session("a", self._take)
        self.loop.step()

    def _take(self, message: WorkerMessage) -> None:
        assert isinstance(message, StepReport)
        self.reports.append(message)

    def failures(self) -> list[AttemptFailed]:
        return [e for report in self.reports for e in report.events if isinstance(e, AttemptFailed)]


def _token(name: str, position: int) -> TokenDelta:
    return TokenDelta(request_id=RequestId(name), attempt=0, child=0, position=position, token_ids=(7,), text="x")


def test_commands_run_before_the_step_and_tokens_leave_after_it() -> None:
    bench = _Bench()
    bench.loop.command("a", _local("r"))
    bench.engine.results = [StepResult(tokens=(_token("r", 0),))]
    assert bench.loop.step()
    assert [call[0] for call in bench.engine.calls] == ["start_local", "step"]
    assert [t.position for report in bench.reports for t in report.tokens] == [0]
    assert not bench.loop.step()


def test_a_refusal_is_an_event_before_the_step_that_follows() -> None:
    bench = _Bench()
    bench.engine.refuse_with = Overloaded("no room", retry_after_s=1.0, reason="NO_KV_BLOCKS")
    bench.engine.results = [StepResult()]
    bench.loop.command("a", _local("r"))
    bench.loop.step()
    assert [(f.reason, f.retryable) for f in bench.failures()] == [("NO_KV_BLOCKS", True)]
    assert bench.loop.num_attempts == 0


def test_bad_tasks_are_not_retryable() -> None:
    bench = _Bench()
    bench.engine.refuse_with = InvalidArgument("n", "is 9")
    bench.loop.command("a", _local("r"))
    bench.loop.step()
    assert [f.retryable for f in bench.failures()] == [False]


def test_the_same_command_again_does_nothing() -> None:
    bench = _Bench()
    for _ in range(3):
        bench.loop.command("a", _local("r"))
    bench.loop.step()
    assert len(bench.engine.named("start_local")) == 1


def test_draining_refuses_new_attempts_only() -> None:
    bench = _Bench()
    bench.loop.command("a", _local("old"))
    bench.loop.drain()
    bench.loop.command("a", _local("new"))
    bench.loop.step()
    assert [(f.request_id, f.reason) for f in bench.failures()] == [("new", DRAINING)]
    assert bench.loop.num_attempts == 1
    assert bench.loop.is_draining


def test_draining_lets_go_of_what_a_refused_attempt_was_to_reuse() -> None:
    bench = _Bench()
    bench.loop.drain()
    bench.loop.command("a", StartPrefill(task=replace(_task("r"), attempt=1), reuse_attempt=0))
    bench.loop.step()
    assert [(f.attempt, f.reason) for f in bench.failures()] == [(1, DRAINING)]
    assert bench.role.aborted == [Abort(request_id=RequestId("r"), attempt=0, reason=DRAINING)]


def test_a_lost_router_aborts_its_attempts() -> None:
    bench = _Bench()
    bench.loop.command("a", _local("r1"))
    bench.loop.command("a", _local("r2"))
    bench.loop.close_session("a")
    bench.loop.step()
    assert [a.request_id for a in bench.role.aborted] == ["r1", "r2"]
    assert bench.loop.num_attempts == 0


def test_load_is_as_of_the_last_step() -> None:
    bench = _Bench()
    bench.engine.free_blocks = 2
    bench.engine.results = [StepResult()]
    bench.loop.step()
    assert bench.loop.load.free_blocks == 2


def test_only_pure_steps_teach_the_latency_model() -> None:
    bench = _Bench()
    before = bench.estimator.model()
    mixed = StepStats(wall_s=9.0, num_prefill_sequences=1, num_prefill_tokens=64, num_decode_rows=2)
    several = StepStats(wall_s=9.0, num_prefill_sequences=2, num_prefill_tokens=64)
    bench.engine.results = [StepResult(stats=mixed), StepResult(stats=several), StepResult()]
    for _ in range(3):
        bench.loop.step()
    assert bench.estimator.model() == before
    bench.engine.results = [
        StepResult(stats=StepStats(wall_s=0.5, num_decode_rows=2, num_context_tokens=64)),
        StepResult(stats=StepStats(wall_s=0.5, num_prefill_sequences=1, num_prefill_tokens=64)),
    ]
    for _ in range(2):
        bench.loop.step()
    after = bench.estimator.model().coefficients
    assert after.step != LatencyCoefficients().step
    assert after.prefill != LatencyCoefficients().prefill


def test_the_thread_runs_posted_work_and_stops() -> None:
    bench = _Bench()
    bench.loop.start()
    done = threading.Event()
    bench.inbox.post(done.set)
    assert done.wait(5.0)
    assert bench.loop.stop(5.0)
    assert not bench.loop.is_alive
    assert bench.loop.failure is None


def test_the_thread_wakes_for_work_that_comes_by_itself() -> None:
    bench = _Bench()
    bench.engine.next_due_s = 0.01
    bench.loop.start()
    time.sleep(0.05)
    bench.engine.results = [StepResult(tokens=())]
    deadline = time.monotonic() + 5
    while not bench.engine.named("step") and time.monotonic() < deadline:
        time.sleep(0.005)
    assert bench.loop.stop(5.0)
    assert bench.engine.named("step")


def test_an_idle_thread_sees_what_others_let_go() -> None:
    """Else the router goes on counting a block as used that a hand-over thread freed last."""
    bench = _Bench()
    bench.loop.start()
    bench.engine.free_blocks = 5  # no command, no step: nothing that is published
    end_s = time.monotonic() + 5.0
    while bench.loop.load.free_blocks != 5 and time.monotonic() < end_s:
        time.sleep(0.01)
    assert bench.loop.load.free_blocks == 5
    assert bench.loop.stop(5.0)


def test_a_defect_ends_the_thread_and_is_told() -> None:
    bench = _Bench()
    bench.engine.results = [MemoryError("device lost")]
    bench.loop.start()
    deadline = time.monotonic() + 5
    while bench.loop.is_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    assert isinstance(bench.loop.failure, MemoryError)
    assert bench.loop.stop(1.0)


def test_step_age_is_zero_when_idle() -> None:
    bench = _Bench()
    assert bench.loop.step_age_ms == 0.0
    bench.engine.results = [StepResult()]
    bench.loop.step()
    assert bench.loop.step_age_ms == 0.0


def test_attempt_keys_with_other_attempt_numbers_are_other_attempts() -> None:
    bench = _Bench()
    bench.loop.command("a", _local("r"))
    bench.loop.step()
    assert bench.outbox.knows(AttemptKey(RequestId("r"), 0))
    assert not bench.outbox.knows(AttemptKey(RequestId("r"), 1))


def test_every_step_and_every_refusal_is_measured() -> None:
    bench = _Bench()
    bench.engine.results = [StepResult(stats=StepStats(wall_s=0.5, num_decode_rows=2)), StepResult()]
    bench.engine.refuse_with = Overloaded("no room", retry_after_s=1.0, reason="NO_KV_BLOCKS")
    bench.loop.command("a", _local("r"))
    for _ in range(3):
        bench.loop.step()
    decode = labels(role="decode")
    assert bench.measured.counts("tandem.engine.step.duration") == {decode: 2}
    assert bench.measured.sums("tandem.engine.decode_tokens") == {decode: 2}
    assert bench.measured.sums("tandem.worker.attempt_failures") == {labels(role="decode", reason="NO_KV_BLOCKS"): 1}


def test_what_is_left_at_the_end_of_a_drain_is_for_others_to_continue() -> None:
    bench = _Bench()
    for name in ("r1", "r2"):
        bench.loop.command("a", _local(name))
    bench.loop.drain()
    bench.loop.hand_over()
    bench.loop.step()
    assert [(f.request_id, f.reason, f.retryable) for f in bench.failures()] == [
        ("r1", DRAINING, True),
        ("r2", DRAINING, True),
    ]
    assert [(a.request_id, a.reason) for a in bench.role.aborted] == [("r1", DRAINING), ("r2", DRAINING)]
    assert bench.loop.num_attempts == 0
    bench.engine.results = [StepResult(tokens=(_token("r1", 0),))]
    bench.loop.step()
    assert not any(report.tokens for report in bench.reports), "nothing follows an attempt's last word"


def test_words_about_attempts_that_are_not_here_are_counted_and_change_nothing() -> None:
    bench = _Bench()
    name = RequestId("never")
    for command in (
        Abort(request_id=name, attempt=0, reason="X"),
        ForwardGrant(request_id=name, attempt=0, grant=b"g"),
        Abort(request_id=name, attempt=0, reason="X", child=1),
    ):
        bench.loop.command("a", command)
    bench.loop.step()
    assert bench.role.aborted == []
    assert bench.role.handled == []
    counted = bench.measured.sums("tandem.worker.stale_commands")
    assert counted[labels(role="decode", command="Abort")] == 2
    assert counted[labels(role="decode", command="ForwardGrant")] == 1


def test_a_grant_that_went_astray_harms_nobody() -> None:
    """A role that refuses it says so by raising: that must end neither the thread nor the attempt of that name."""
    bench = _Bench()
    bench.loop.command("a", _local("r"))
    bench.loop.step()
    bench.role.refuse_grants = True
    bench.loop.command("a", ForwardGrant(request_id=RequestId("r"), attempt=0, grant=b"g"))
    bench.loop.step()
    assert bench.loop.num_attempts == 1
    assert bench.failures() == []
