"""Guards of admission that show in rare states only: who may not yield, what is no sample, what is charged once."""

from dataclasses import replace

import pytest

from tandem.core.errors import Overloaded
from tandem.core.ids import RequestId, Tenant
from tandem.core.messages import Abort, StartPrefill
from tandem.core.types import FinishReason, PrefixPin, PriorityClass, WorkerLoad
from tandem.router.admission.backlog import NOTHING, Backlog, fair_ahead
from tandem.router.admission.curtail import curtail
from tandem.router.admission.errors import RollingError
from tandem.router.admission.forecast import forecast
from tandem.router.admission.gate import AdmissionGate, load_level
from tandem.router.admission.pressure import BrownOut, ShedRate
from tandem.router.admission.shedding import Line, line_to_shorten
from tandem.router.admission.terms import AdmissionCause, AdmissionPolicy
from tandem.router.queue import CentralQueue, QueueBounds
from tests.unit.router.builders import D2, D, P, make_task
from tests.unit.router.test_admission_gate import ask, decide, pools, waiting
from tests.unit.router.test_admitting import Door
from tests.unit.router.test_queue import entry, names
from tests.unit.router.world import done, handed, token

INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH
A, B = Tenant("a"), Tenant("b")
NEED = Backlog(cost_tokens=100.0, work_s=0.1, num_sequences=1, kv_tokens=160)


def aborted(world: Door) -> list[str]:
    return [str(each.request_id) for each in world.commands(Abort, D) if isinstance(each, Abort)]


# --- the forecast -----------------------------------------------------------------------------------------------------


def test_who_waits_for_blocks_alone_is_predicted_to_wait() -> None:
    few = replace(pools(), free_blocks=0)
    seen = forecast(NEED, ahead=NOTHING, pools=few, error_s=0.0)
    assert (seen.prefill_wait_s, seen.slot_wait_s) == (0.0, 0.0)
    assert seen.wait_s == pytest.approx(10 / 1000 * 4.0)


def test_blocks_alone_make_a_load() -> None:
    assert load_level(NOTHING, replace(pools(), free_blocks=250), bound_s=10.0) == pytest.approx(0.75)
    assert load_level(Backlog(kv_tokens=1600), pools(), bound_s=10.0) == pytest.approx(0.1)


def test_a_few_samples_prove_no_error() -> None:
    error = RollingError(min_samples=8)
    for number in range(8):
        assert error.p95_s(0.0) == 0.0, number
        error.observe(predicted_s=0.0, actual_s=1.0, now_s=0.0)
    assert error.p95_s(0.0) == 1.0


def test_a_tenant_of_more_weight_is_served_more_before_a_newcomer() -> None:
    waits = {A: Backlog(cost_tokens=100.0), B: Backlog(cost_tokens=1000.0)}
    for weight in (1.0, 3.0):
        ahead = fair_ahead(A, waiting=waits, counters={}, start=0.0, weights={B: weight})
        assert ahead.cost_tokens == pytest.approx(100.0 + weight * 100.0)


def test_who_was_served_before_and_lost_is_ahead_of_everybody() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push_again(entry("again", priority=BATCH, work_s=2.0))
    for priority in (INTERACTIVE, BATCH):
        assert queue.ahead_of(entry("new", priority=priority, cost=1e6)).work_s == pytest.approx(2.0)


def test_blocks_are_planned_for_the_answer_too() -> None:
    world = Door(P, D)
    world.submit("a", prompt=100, max_tokens=50)
    assert world.dispatcher._lives[RequestId("a")].entry.kv_tokens == 100 + 50


def test_how_long_slots_are_kept_is_learnt() -> None:
    world = Door(P, D)
    world.submit("a")
    world.clock.time_s += 7.0
    world.run("a", num_tokens=3, end=True)
    assert world.dispatcher.admitting.pools(1).residence_s == pytest.approx(7.0)


# --- the samples of the error -----------------------------------------------------------------------------------------


def test_a_first_token_after_a_failure_is_no_sample() -> None:
    """It says how long a recovery took, not how wrong a prediction was."""
    world = Door(P, D)
    world.submit("a")
    world.dispatcher.on_lost(P)
    world.dispatcher.on_attached(P)
    world.report(P, events=(done("a", 1),), tokens=(token(0, "a", attempt=1),))
    assert len(world.dispatcher.admitting.gate.error) == 0


def test_who_waited_in_vain_is_a_sample() -> None:
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(ttft_slo_s={STANDARD: 1.0}))
    for name in ("running", "first", "second"):
        world.submit(name)
    world.wait(1.5, alive=(P, D))
    assert len(world.dispatcher.admitting.gate.error) == 0
    world.report(D, tokens=(token(0, "running", finish=FinishReason.STOP),))
    assert (world.decisions.seen[-1].request_id, world.decisions.seen[-1].cause) == ("second", AdmissionCause.LATE)
    assert len(world.dispatcher.admitting.gate.error) == 2, "the first token of one, and the other's vain wait"


def test_who_was_served_before_is_never_too_late() -> None:
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(ttft_slo_s={STANDARD: 1.0}))
    for name in ("running", "first", "second"):
        world.submit(name)
    assert world.decisions.seen[-1].cause is AdmissionCause.FITS
    world.report(D, tokens=(token(0, "running", finish=FinishReason.STOP),))
    world.dispatcher.cancel(RequestId("first"))
    assert world.tasks(StartPrefill)[-1].request_id == "second"
    for worker in (P, D):
        world.dispatcher.on_lost(worker)
    world.wait(3.0)
    for worker in (P, D):
        world.dispatcher.on_attached(worker)
    world.wait(1.0, alive=(P, D))
    assert [d.cause for d in world.decisions.seen if d.request_id == "second"] == [AdmissionCause.FITS]
    assert world.tasks(StartPrefill)[-1].attempt > 0


# --- yielding ---------------------------------------------------------------------------------------------------------


def test_nobody_else_yields_before_the_worker_has_told_of_the_room() -> None:
    """Its report still counts who has just left: a second look would take the place of one too many."""
    world = Door(P, D, max_sequences=2)
    full = WorkerLoad(num_running=2, free_blocks=900, total_blocks=1000)
    for name in ("b0", "b1"):
        world.submit(name, priority=BATCH, max_tokens=100)
        world.run(name, num_tokens=3)
    world.report(D, load=full)
    world.submit("i", priority=INTERACTIVE)
    assert len(aborted(world)) == 1
    world.dispatcher.step()
    world.clock.time_s += 0.05
    world.dispatcher.step()
    assert len(aborted(world)) == 1
    world.report(D, load=replace(full, num_running=1))
    world.dispatcher.step()
    assert world.tasks(StartPrefill)[-1].request_id == "i"


def test_who_gave_its_place_away_is_charged_once() -> None:
    world = Door(P, D, max_sequences=1)
    world.submit("b", priority=BATCH, max_tokens=100, tenant="b")
    world.run("b", num_tokens=3)
    charged = world.dispatcher.queue._counters[B]
    world.submit("i", priority=INTERACTIVE, tenant="i")
    world.run("i", num_tokens=2, end=True)
    assert world.tasks(StartPrefill)[-1].request_id == "b", "it goes on"
    assert world.dispatcher.queue._counters[B] == charged


@pytest.mark.parametrize("stage", ["computing", "handing over", "no token yet", "several sequences"])
def test_who_could_not_go_on_where_it_was_does_not_yield(stage: str) -> None:
    num_sequences = 2 if stage == "several sequences" else 1
    world = Door(P, D, max_sequences=num_sequences)
    world.submit("b", priority=BATCH, max_tokens=100, n=num_sequences)
    if stage == "handing over":
        world.report(P, events=(done("b"),), tokens=(token(0, "b"),))
    elif stage == "no token yet":
        world.report(D, events=(handed("b"),))
    elif stage == "several sequences":
        world.report(P, events=(done("b"),), tokens=(token(0, "b"), token(0, "b", child=1)))
        world.report(D, events=(handed("b"),))
        world.report(D, tokens=(token(1, "b"), token(1, "b", child=1)))
    world.submit("i", priority=INTERACTIVE)
    assert aborted(world) == []


def test_nobody_yields_where_the_request_would_not_go() -> None:
    world = Door(P, D, D2, max_sequences=1)
    for name in ("b0", "b1"):
        world.submit(name, priority=BATCH)
    world.submit("i", priority=STANDARD)
    live = world.dispatcher._lives[RequestId("i")]
    live.avoid = frozenset({D})
    assert [room.worker for room in world.dispatcher._placer.rooms_for(live)] == [D2]


# --- shedding ---------------------------------------------------------------------------------------------------------


def test_who_waits_most_for_its_weight_is_over_its_share() -> None:
    lines = {STANDARD: {A: 100.0, B: 90.0}}
    loser = line_to_shorten(Tenant("c"), STANDARD, waiting=lines, cost_tokens=1.0, weights={A: 2.0})
    assert loser == Line(priority=STANDARD, tenant=B)


def test_who_is_shed_while_it_waits_is_sent_away_for_as_long_as_a_newcomer() -> None:
    world = Door(P, D, max_sequences=1, max_count=2)
    world.submit("running", max_tokens=4000)
    for name in ("old", "new"):
        world.submit(name, priority=BATCH, max_tokens=4000)
    before = next(d for d in world.decisions.seen if d.request_id == "new")
    assert before.forecast is not None
    assert before.forecast.wait_s > 1.0
    world.submit("urgent")
    shed = world.decisions.seen[-1]
    assert (shed.request_id, shed.cause) == ("new", AdmissionCause.DISPLACED)
    assert shed.retry_after_s == pytest.approx(min(before.forecast.wait_s, 30.0), rel=0.2)


def test_who_is_shed_while_it_waits_counts_as_refused_and_not_as_taken() -> None:
    rate = ShedRate()
    for tenth in range(300):
        now_s = tenth / 10
        rate.note(shed=False, now_s=now_s)
        if tenth % 10 < 6:
            rate.note_shed_after_all(now_s)
    assert rate.is_storm(30.0), "six of ten that were taken lost their places"
    gate = AdmissionGate(AdmissionPolicy())
    for tenth in range(300):
        now_s = tenth / 10
        decide(gate, ask(), waiting(), now_s=now_s)
        told = gate.shed_after_all(RequestId("r"), BATCH, wait_s=1.0, attempt=0, now_s=now_s)
    assert told is None


def test_a_full_queue_that_sheds_batch_for_others_tells_it_to_stay_away() -> None:
    world = Door(P, D, max_sequences=1, max_count=1)
    world.submit("running")
    for number in range(60):
        world.clock.time_s += 0.25
        world.submit(f"b{number}", priority=BATCH)
        world.submit(f"s{number}")
        with pytest.raises(Overloaded) as caught:
            world.submit(f"c{number}", priority=BATCH)
        world.dispatcher.cancel(RequestId(f"s{number}"))
    assert caught.value.metadata["pushback"] == "-1"
    assert caught.value.retry_after_s is None


def test_nothing_is_pinned_in_the_worst_brown_out() -> None:
    task = replace(make_task(), pin=PrefixPin(num_tokens=4, ttl_s=10.0))
    assert curtail(task, BrownOut.ONE_SEQUENCE, batch_max_tokens=64).pin is not None
    assert curtail(task, BrownOut.NO_PINS, batch_max_tokens=64).pin is None


# --- the floor of batch -----------------------------------------------------------------------------------------------


def test_what_batch_earned_is_gone_when_none_waits_any_more() -> None:
    queue = CentralQueue(QueueBounds(batch_floor=0.5))

    def serve(name: str) -> None:
        queue.push(entry(name))
        head = queue.peek()
        assert head is not None
        queue.take(head)

    queue.push(entry("b0", priority=BATCH, cost=1000.0))
    for number in range(10):
        serve(f"s{number}")
    queue.discard(RequestId("b0"))
    serve("s10")
    queue.push(entry("b1", priority=BATCH))
    queue.push(entry("s11"))
    head = queue.peek()
    assert head is not None
    assert names([head]) == ["s11"]
