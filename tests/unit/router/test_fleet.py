"""Workers as the router sees them: health, in-flight accounting, learning, views."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Beat, PrefillDone
from tandem.core.types import Role, WorkerLoad
from tandem.router.actions import WorkerKey
from tandem.router.credits import Charge, InFlight
from tandem.router.fleet import Fleet, WorkerRecord
from tandem.router.health import Health, HealthTimers, WorkerPulse
from tests.unit.router.builders import D, P, key, make_info

TIMERS = HealthTimers()


def attempt(name: str, number: int = 0) -> AttemptKey:
    return AttemptKey(request_id=RequestId(name), attempt=number)


def beat(worker: WorkerKey, *, role: Role = Role.DECODE, draining: bool = False, running: int = 0) -> Beat:
    load = WorkerLoad(num_running=running, free_blocks=900, total_blocks=1000)
    return Beat(worker_epoch=worker.epoch, role=role, draining=draining, load=load, step_age_ms=0.0)


def ready(fleet: Fleet, name: str, role: Role) -> WorkerRecord:
    fleet.apply([*(record.info for record in fleet.records()), make_info(name, role)])
    record = fleet.get(key(name))
    assert record is not None
    record.pulse.stream_opened(0.0)
    return record


def health_of(pulse: WorkerPulse) -> Health:
    return pulse.health


# --- health --------------------------------------------------------------------------------------------------------


def test_silence_makes_suspect_then_dead() -> None:
    pulse = WorkerPulse(TIMERS)
    assert health_of(pulse) is Health.CONNECTING
    pulse.stream_opened(0.0)
    assert not pulse.tick(5.4)
    assert health_of(pulse) is Health.ALIVE
    assert not pulse.tick(5.5)
    assert health_of(pulse) is Health.SUSPECT
    assert pulse.tick(10.0)
    assert health_of(pulse) is Health.DEAD
    assert not pulse.tick(11.0), "death is told once"


def test_a_beat_brings_back_a_suspect() -> None:
    pulse = WorkerPulse(TIMERS)
    pulse.stream_opened(0.0)
    pulse.tick(7.0)
    pulse.heard(7.1)
    assert health_of(pulse) is Health.ALIVE


def test_a_broken_stream_makes_suspect_at_once_and_only_a_stream_ends_that() -> None:
    pulse = WorkerPulse(TIMERS)
    pulse.stream_opened(0.0)
    pulse.stream_broke()
    assert health_of(pulse) is Health.SUSPECT
    pulse.heard(1.0)
    assert health_of(pulse) is Health.SUSPECT
    pulse.stream_opened(2.0)
    assert health_of(pulse) is Health.ALIVE


def test_a_worker_never_heard_is_not_dead() -> None:
    pulse = WorkerPulse(TIMERS)
    assert not pulse.tick(1000.0)
    assert health_of(pulse) is Health.CONNECTING


# --- in-flight -----------------------------------------------------------------------------------------------------


def test_settling_the_prompt_keeps_the_decode_part() -> None:
    flight = InFlight()
    flight.add(attempt("a"), Charge(prefill_s=0.5, prefill_tokens=100, num_sequences=2, num_blocks=7))
    flight.settle_prefill(attempt("a"))
    assert (flight.prefill_s, flight.prefill_tokens, flight.num_sequences, flight.num_blocks) == (0.0, 0, 2, 7)
    flight.settle_prefill(attempt("a"))
    flight.settle_prefill(attempt("unknown"))
    flight.remove(attempt("a"))
    assert (len(flight), flight.num_sequences) == (0, 0)


charges = st.builds(
    Charge,
    prefill_s=st.floats(0.0, 10.0),
    prefill_tokens=st.integers(0, 100),
    num_sequences=st.integers(0, 8),
    num_blocks=st.integers(0, 100),
    context_tokens=st.integers(0, 1000),
)
steps = st.lists(st.tuples(st.sampled_from(["add", "settle", "remove"]), st.integers(0, 5), charges), max_size=60)


@given(steps)
def test_sums_are_those_of_what_is_there(script: list[tuple[str, int, Charge]]) -> None:
    flight = InFlight()
    model: dict[int, Charge] = {}
    for what, number, charge in script:
        name = attempt(str(number))
        if what == "add":
            flight.add(name, charge)
            model[number] = charge
        elif what == "settle":
            flight.settle_prefill(name)
            if number in model:
                old = model[number]
                model[number] = Charge(
                    num_sequences=old.num_sequences, num_blocks=old.num_blocks, context_tokens=old.context_tokens
                )
        else:
            flight.remove(name)
            model.pop(number, None)
        assert len(flight) == len(model)
        for field in ("prefill_tokens", "num_sequences", "num_blocks", "context_tokens"):
            assert getattr(flight, field) == sum(getattr(c, field) for c in model.values())
        assert flight.prefill_s == pytest.approx(sum(c.prefill_s for c in model.values()), abs=1e-6)
    flight.clear()
    assert (len(flight), flight.prefill_s, flight.num_blocks) == (0, 0.0, 0)


# --- fleet ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_joins_and_leaves() -> None:
    fleet = Fleet(TIMERS)
    change = fleet.apply([make_info("decode-0", Role.DECODE), make_info("prefill-0", Role.PREFILL)])
    assert [info.worker_id for info in change.joined] == ["decode-0", "prefill-0"]
    change = fleet.apply([make_info("decode-0", Role.DECODE)])
    assert (change.joined, change.left) == ((), (P,))
    assert fleet.get(P) is None


def test_a_new_epoch_replaces_the_old_life() -> None:
    fleet = Fleet(TIMERS)
    ready(fleet, "decode-0", Role.DECODE)
    change = fleet.apply([make_info("decode-0", Role.DECODE, epoch=2)])
    assert change.left == (D,)
    assert [info.epoch for info in change.joined] == [2]
    assert fleet.get(D) is None
    assert fleet.get(key("decode-0", epoch=2)) is not None


def test_a_life_that_was_replaced_does_not_come_back() -> None:
    """A process that stood still goes on and announces itself, while another serves under its name."""
    fleet = Fleet(TIMERS)
    ready(fleet, "decode-0", Role.DECODE)
    old, new = make_info("decode-0", Role.DECODE), make_info("decode-0", Role.DECODE, epoch=2)
    fleet.apply([new])
    successor = fleet.get(key("decode-0", epoch=2))
    assert successor is not None
    successor.pulse.stream_opened(1.0)
    for listing in ([old], [new], [old]):
        change = fleet.apply(listing)
        assert (change.joined, change.left) == ((), ())
    assert fleet.get(D) is None
    successor.pulse.stream_broke()
    assert fleet.apply([old]).left == (key("decode-0", epoch=2),)
    assert fleet.apply([old]).joined == (old,), "the successor is gone: who is left may serve"


def test_a_directory_that_lost_its_memory_does_not_stop_a_working_cluster() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    assert fleet.apply([]).left == ()
    assert fleet.forget_unlisted() == ()
    record.pulse.stream_broke()
    assert fleet.forget_unlisted() == (D,)
    assert fleet.forget_unlisted() == ()
    assert len(fleet) == 0


def test_an_unlisted_worker_without_a_stream_leaves_at_once() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    record.pulse.stream_broke()
    assert fleet.forget_unlisted() == ()  # still listed
    assert fleet.apply([]).left == (D,)


def test_only_attached_alive_undrained_workers_of_the_role_take_work() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    assert fleet.num_alive(Role.DECODE) == 1
    assert fleet.num_alive(Role.PREFILL) == 0
    fleet.on_beat(D, beat(D, draining=True), 1.0)
    assert fleet.views(Role.DECODE) == []
    fleet.on_beat(D, beat(D), 2.0)
    assert len(fleet.views(Role.DECODE)) == 1
    record.pulse.stream_broke()
    assert fleet.views(Role.DECODE) == []


def test_a_beat_from_before_a_drain_order_does_not_end_the_drain() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    record.order_drain(6.0)
    fleet.on_beat(D, beat(D), 1.0)  # it was on its way
    assert not record.can_take_work
    fleet.on_beat(D, beat(D, draining=True), 1.1)
    assert not record.can_take_work
    fleet.on_beat(D, beat(D), 1.2)  # a controller has called it back
    assert record.can_take_work


def test_a_drain_order_that_nobody_follows_ends() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    record.order_drain(6.0)
    fleet.on_beat(D, beat(D), 5.9)
    assert record.draining
    fleet.on_beat(D, beat(D), 6.0)
    assert not record.draining
    record.order_drain(20.0)
    record.withdraw_drain()
    assert not record.draining


def test_a_beat_tells_role_and_load() -> None:
    fleet = Fleet(TIMERS)
    ready(fleet, "decode-0", Role.DECODE)
    fleet.on_beat(D, beat(D, role=Role.PREFILL, running=3), 1.0)
    (view,) = fleet.views(Role.PREFILL)
    assert (view.num_sequences, view.free_blocks) == (3, 900)


def test_a_beat_beside_a_stuck_step_is_no_sign_of_life() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    stuck_ms = 1e3 * TIMERS.stuck_step_s
    fleet.on_beat(D, replace(beat(D), step_age_ms=stuck_ms - 1.0), 1.0)
    assert record.pulse.last_heard_s == 1.0
    for second in range(2, 15):
        fleet.on_beat(D, replace(beat(D), step_age_ms=stuck_ms + 1e3 * second), float(second))
    assert record.pulse.last_heard_s == 1.0
    assert fleet.tick(14.0) == [D]


def test_a_beat_of_another_life_is_not_heard() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    fleet.on_beat(key("decode-0", epoch=9), beat(key("decode-0", epoch=9)), 5.0)
    fleet.on_beat(D, beat(key("decode-0", epoch=9)), 5.0)
    assert record.pulse.last_heard_s == 0.0


def test_the_dead_are_told_once() -> None:
    fleet = Fleet(TIMERS)
    ready(fleet, "decode-0", Role.DECODE)
    assert fleet.tick(9.9) == []
    assert fleet.tick(10.0) == [D]
    assert fleet.tick(10.1) == []


def test_a_view_takes_the_worse_of_report_and_own_estimate() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    record.load = WorkerLoad(num_running=3, num_waiting=1, free_blocks=600, total_blocks=1000)
    assert (record.view().num_sequences, record.view().free_blocks) == (4, 600)
    record.in_flight.add(attempt("a"), Charge(num_sequences=6, num_blocks=700, prefill_s=0.3, context_tokens=50))
    view = record.view()
    assert (view.num_sequences, view.free_blocks, view.queued_prefill_s, view.context_tokens) == (6, 300, 0.3, 50)
    fleet.end_attempt([D, P], attempt("a"))
    assert record.view().num_sequences == 4


def test_waiting_prompt_tokens_of_others_count_as_queued_work() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "prefill-0", Role.PREFILL)
    record.profile(LatencyCoefficients(prefill=(0.0, 1e-3, 0.0)))
    record.load = WorkerLoad(waiting_prefill_tokens=500, free_blocks=1, total_blocks=1)
    assert record.view().queued_prefill_s == pytest.approx(0.5)


def test_the_profile_of_the_start_is_used_and_then_refined() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "prefill-0", Role.PREFILL)
    record.profile(LatencyCoefficients(prefill=(0.0, 1e-3, 0.0)))
    assert fleet.typical_prefill_s(100) == pytest.approx(0.1)
    for _ in range(60):
        record.note_prefill(
            PrefillDone(request_id=RequestId("r"), attempt=0, wait_ms=0.0, compute_ms=200.0, num_cached_tokens=0), 100
        )
    assert fleet.typical_prefill_s(100) == pytest.approx(0.1), "learning waits for the tick"
    fleet.learn(1.0)
    assert fleet.typical_prefill_s(100) == pytest.approx(0.2, rel=0.1)


def test_decode_steps_are_learnt_now_and_then() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    load = WorkerLoad(num_running=4, running_context_tokens=400, free_blocks=1, total_blocks=1, step_ms=50.0)
    before = record.model.step_s(num_sequences=4, num_context_tokens=400)
    for index in range(100):
        record.learn_step(load, 0.3 * index)
    after = record.model.step_s(num_sequences=4, num_context_tokens=400)
    assert abs(after - 0.05) < abs(before - 0.05) / 4


def test_a_fully_cached_prompt_teaches_nothing() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "prefill-0", Role.PREFILL)
    before = record.model
    done = PrefillDone(request_id=RequestId("r"), attempt=0, wait_ms=0.0, compute_ms=1.0, num_cached_tokens=100)
    record.note_prefill(done, 100)
    fleet.learn(1.0)
    assert record.model is before


def test_a_slowness_that_nobody_sees_any_more_is_forgotten() -> None:
    fleet = Fleet(TIMERS)
    record = ready(fleet, "decode-0", Role.DECODE)
    at_start = record.model.step_s(num_sequences=4, num_context_tokens=400)
    load = WorkerLoad(
        num_running=4, running_context_tokens=400, free_blocks=1, total_blocks=1, step_ms=1e3 * at_start * 6
    )
    for index in range(100):
        record.learn_step(load, 0.3 * index)
    slow = record.model.step_s(num_sequences=4, num_context_tokens=400)
    assert slow > 4 * at_start
    seen = []
    for second in range(60):  # no work from the thirtieth second on
        fleet.learn(30.0 + second)
        seen.append(record.model.step_s(num_sequences=4, num_context_tokens=400) / at_start)
    assert seen[4] == pytest.approx(slow / at_start), "a pause is no reason"
    assert seen[16] < 1.0 + 0.6 * (slow / at_start - 1.0)
    assert seen[59] == pytest.approx(1.0, abs=0.15)


def test_without_workers_the_typical_time_is_zero() -> None:
    assert Fleet(TIMERS).typical_prefill_s(100) == 0.0
