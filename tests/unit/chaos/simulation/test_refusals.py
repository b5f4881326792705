"""Which refusals are meant, and when a role may stand empty in a simulated run."""

from types import SimpleNamespace
from typing import cast

from tandem.chaos.simulation.client import Ask, Caller
from tandem.chaos.simulation.events import Judge
from tandem.chaos.simulation.plan import ClusterPlan
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.refusals import is_queue_too_long, refused_for_nothing
from tandem.chaos.simulation.worker_parts import WorkerPlan
from tandem.chaos.simulation.world import World
from tandem.core.event_log.events import RoleChanged
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import GenerationTask, Outcome, PriorityClass, Role, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.router.config import RouterConfig
from tandem.router.dispatcher import Dispatcher

NO_DISPATCHER = cast(Dispatcher, None)


def plan(*, num_blocks: int) -> ClusterPlan:
    engine = EngineConfig(block_size=4, num_blocks=num_blocks, max_sequences=16)
    worker = WorkerPlan(
        name="decode-0",
        role=Role.DECODE,
        num_blocks=num_blocks,
        engine=engine,
        prefill_token_s=0.001,
        step_s=0.01,
        chunk_s=0.001,
        thread_lag_s=0.001,
        preempt=0.0,
    )
    return cast(ClusterPlan, SimpleNamespace(workers=(worker,), router=RouterConfig()))


def caller(
    name: str,
    *,
    at_s: float = 5.0,
    n: int = 2,
    priority: PriorityClass = PriorityClass.BATCH,
    outcome: Outcome = Outcome.SHED,
    reason: str = "BROWN_OUT",
    ended_at_s: float = 5.0,
) -> Caller:
    task = GenerationTask(
        request_id=RequestId(name),
        attempt=0,
        tenant=Tenant("t"),
        prompt_token_ids=(1,) * 12,
        num_sequences=n,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=4),
        priority=priority,
    )
    made = Caller(World(1), Ask(task=task, at_s=at_s), NO_DISPATCHER)
    made.outcome, made.reason, made.ended_at_s = outcome, reason, ended_at_s
    return made


def served(*, at_s: float, ended_at_s: float) -> list[Caller]:
    """Sixteen blocks' worth of requests."""
    return [caller(f"ok{i}", at_s=at_s, n=1, outcome=Outcome.OK, reason="", ended_at_s=ended_at_s) for i in range(4)]


def test_batch_work_for_several_sequences_may_be_put_off_when_the_pool_is_full() -> None:
    busy = served(at_s=3.0, ended_at_s=6.0)
    assert refused_for_nothing([*busy, caller("late")], plan(num_blocks=18)) == []
    for other in (
        caller("alone", n=1),
        caller("urgent", priority=PriorityClass.STANDARD),
        caller("queue", reason="QUEUE_FULL"),
        caller("failed", outcome=Outcome.FAILED),
    ):
        assert refused_for_nothing([*busy, other], plan(num_blocks=18)) == [other]


def test_nobody_is_put_off_by_a_pool_that_has_room_or_has_had_it_for_long() -> None:
    late = caller("late")
    assert refused_for_nothing([*served(at_s=3.0, ended_at_s=6.0), late], plan(num_blocks=40)) == [late]
    long_ago = caller("late", at_s=30.0, ended_at_s=30.0)
    assert refused_for_nothing([*served(at_s=3.0, ended_at_s=6.0), long_ago], plan(num_blocks=18)) == [long_ago]
    assert refused_for_nothing([caller("late"), caller("other")], plan(num_blocks=2))  # those put off want nothing


def test_a_queue_is_too_long_when_it_took_longer_than_the_class_waits() -> None:
    probe = caller("probe", n=1, priority=PriorityClass.INTERACTIVE, reason="QUEUE_FULL")
    patient = caller("probe", n=1, priority=PriorityClass.STANDARD, reason="QUEUE_FULL")
    long, short = served(at_s=4.0, ended_at_s=17.0), served(at_s=4.0, ended_at_s=14.0)
    later = served(at_s=6.0, ended_at_s=40.0)
    assert is_queue_too_long(probe, [*long, probe], plan(num_blocks=18))
    assert not is_queue_too_long(probe, [*short, *later, probe], plan(num_blocks=18))
    assert not is_queue_too_long(patient, [*long, patient], plan(num_blocks=18))
    assert not is_queue_too_long(probe, [probe], plan(num_blocks=18))
    lost = caller("probe", n=1, priority=PriorityClass.INTERACTIVE, reason="NO_WORKER")
    assert not is_queue_too_long(lost, [*long, lost], plan(num_blocks=18))


def gap(*, killed_by_a_request: bool, away_s: float) -> list[str]:
    """The only prefill worker is lost after the faults, and comes back."""
    world = World(1)
    judge = Judge(world)
    judge.must_serve_from_s = 10.0

    def life(epoch: int) -> None:
        sink = judge.sink(Process(world, "prefill-0"), epoch)
        sink.record(RoleChanged(role=Role.PREFILL, state="serving"))

    world.at(1.0, lambda: life(1))
    if killed_by_a_request:
        world.at(20.0, lambda: judge.killed_by_a_request(Role.PREFILL))
    world.at(20.0 + away_s, lambda: life(2))
    world.run_until(60.0)
    return world.violations


def test_a_role_may_stand_empty_after_the_faults_only_if_a_request_killed_its_worker_and_not_for_long() -> None:
    assert gap(killed_by_a_request=True, away_s=8.0) == []
    assert gap(killed_by_a_request=False, away_s=8.0) == ["trace: prefill-0 after RoleChanged"]
    assert gap(killed_by_a_request=True, away_s=12.0) == ["trace: prefill-0 after RoleChanged"]
