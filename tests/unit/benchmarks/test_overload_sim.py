"""The overload benchmark on virtual time: nothing is left over, it repeats itself, and admission is what keeps time."""

from benchmarks.overload import COST, SLO
from benchmarks.overload_callers import Caller, Shape
from benchmarks.overload_sim.callers import VirtualCallers
from benchmarks.overload_sim.world import VirtualRouter
from tandem.core.types import PriorityClass
from tandem.router.admission.terms import AdmissionPolicy
from tandem.router.live import DispatcherPolicy


def _play(promise_s: float | None, *, per_s: float = 20.0, seconds: float = 30.0) -> tuple[VirtualRouter, list[Caller]]:
    promises = {} if promise_s is None else {PriorityClass.STANDARD: promise_s}
    policy = DispatcherPolicy(admission=AdmissionPolicy(ttft_slo_s=promises))
    world = VirtualRouter(policy=policy, cost=COST, seed=1)
    callers = VirtualCallers(world=world, shape=Shape(), seed=1)
    came = list(callers.arrive(per_s=per_s, seconds=seconds))
    world.run(world.clock.now_s() + 20.0)
    return world, came


def _num_good(came: list[Caller]) -> int:
    return sum(caller.is_good(SLO) for caller in came)


def test_nothing_is_left_over_and_the_same_seed_plays_the_same() -> None:
    world, came = _play(2.8)
    assert world.dispatcher.num_live == 0
    assert len(world.dispatcher.queue) == 0
    for worker in world.workers.values():
        assert (worker.prompts, worker.rows, worker.reserved) == ([], [], {})
    assert all(len(record.in_flight) == 0 for record in world.dispatcher.fleet.records())
    assert world.dispatcher.num_stale < len(came)
    _, again = _play(2.8)
    assert [caller.outcome(SLO) for caller in again] == [caller.outcome(SLO) for caller in came]


def test_without_a_promise_at_the_door_nearly_everybody_is_late() -> None:
    _, kept = _play(2.8)
    _, unkept = _play(None)
    assert _num_good(kept) > 100
    assert _num_good(unkept) < 0.5 * _num_good(kept)


def test_a_light_load_is_served_whole() -> None:
    _, came = _play(2.8, per_s=2.0)
    assert _num_good(came) > 0.95 * len(came)
