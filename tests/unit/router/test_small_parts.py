"""Timers, expected lengths, phase clock, credits of the retry budget's neighbours: the small pure parts."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import RequestId, Tenant
from tandem.core.messages import HandoverDone, PrefillDone
from tandem.router.lengths import OutputLengths
from tandem.router.phases import PhaseClock
from tandem.router.timers import Timer, TimerKind, Timers

A = Tenant("a")
REQUEST = RequestId("r")


def timer(name: str) -> Timer:
    return Timer(kind=TimerKind.DEADLINE, request_id=RequestId(name))


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.floats(0.0, 100.0))
def test_exactly_what_is_due_comes_earliest_first(dues: list[float], now_s: float) -> None:
    timers = Timers()
    for index, due_s in enumerate(dues):
        timers.add(due_s, timer(str(index)))
    popped = [dues[int(t.request_id)] for t in timers.pop_due(now_s)]
    assert popped == sorted(due for due in dues if due <= now_s)
    assert len(timers) == len(dues) - len(popped)
    assert timers.pop_due(now_s) == []


def test_timers_of_ended_requests_can_be_forgotten() -> None:
    timers = Timers()
    for name in "abc":
        timers.add(1.0, timer(name))
    timers.keep_only({RequestId("b")})
    assert [t.request_id for t in timers.pop_due(2.0)] == ["b"]


def test_lengths_begin_with_a_guess_and_stay_within_what_was_asked() -> None:
    lengths = OutputLengths(first_guess_tokens=100.0)
    assert lengths.expected_tokens(A, 1000) == pytest.approx(139, abs=10)  # the 75th percentile, if exponential
    assert lengths.expected_tokens(A, 1000, share=0.9) == pytest.approx(230, abs=15)
    assert lengths.expected_tokens(A, 20) == 20
    for _ in range(100):
        lengths.observe(A, 0)
    assert lengths.expected_tokens(A, 1000) == 1


def test_lengths_of_one_tenant_are_not_anothers() -> None:
    lengths = OutputLengths(first_guess_tokens=100.0)
    for _ in range(100):
        lengths.observe(A, 10)
    assert lengths.expected_tokens(A, 1000) == pytest.approx(10, abs=1)
    assert lengths.expected_tokens(Tenant("b"), 1000) == pytest.approx(139, abs=10)


@pytest.mark.parametrize("mean", [20.0, 300.0])
def test_quantiles_of_lengths_are_learnt_and_old_ones_fade(mean: float) -> None:
    dice = random.Random(1)
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.observe(A, 5000)
    for _ in range(800):
        lengths.observe(A, dice.expovariate(1.0 / mean))
    for share in (0.5, 0.75, 0.9):
        right = -mean * math.log(1.0 - share)
        assert lengths.expected_tokens(A, 100_000, share=share) == pytest.approx(right, rel=0.35)


def test_lengths_remember_a_bounded_number_of_tenants() -> None:
    lengths = OutputLengths()
    for index in range(5000):
        lengths.observe(Tenant(str(index)), 1)
    assert len(lengths) <= 4096


def prefill(compute_ms: float) -> PrefillDone:
    return PrefillDone(request_id=REQUEST, attempt=0, wait_ms=3.0, compute_ms=compute_ms, num_cached_tokens=0)


def handover() -> HandoverDone:
    return HandoverDone(request_id=REQUEST, attempt=0, num_bytes=1, transport="shm", handover_ms=4.0, exposed_ms=0.5)


def test_phases_of_a_whole_request() -> None:
    clock = PhaseClock(arrived_s=10.0, tokenize_ms=2.0)
    clock.dispatched(10.012)
    clock.prefilled(prefill(20.0), 10.035)
    clock.token(10.036, from_decode=False)
    assert clock.is_waiting
    clock.handed_over(handover(), 10.040)
    clock.token(10.045, from_decode=True)
    assert not clock.is_waiting
    timings = clock.timings(10.1)
    assert timings.tokenize_ms == 2.0
    assert timings.queue_ms == pytest.approx(13.0)  # 10 ms here and 3 ms at the worker
    assert timings.prefill_ms == 20.0
    assert timings.handover_ms == 0.5
    assert timings.first_decode_ms == pytest.approx(5.0)
    assert timings.ttft_ms == pytest.approx(36.0)
    assert timings.total_ms == pytest.approx(100.0)


def test_phases_that_did_not_happen_are_none() -> None:
    timings = PhaseClock(arrived_s=1.0).timings(2.0)
    assert timings.total_ms == pytest.approx(1000.0)
    assert (timings.queue_ms, timings.prefill_ms, timings.handover_ms, timings.ttft_ms) == (None,) * 4


def test_a_later_attempt_does_not_rewrite_the_first_token() -> None:
    clock = PhaseClock(arrived_s=0.0)
    clock.dispatched(1.0)
    clock.prefilled(prefill(20.0), 1.5)
    clock.token(2.0, from_decode=False)
    clock.dispatched(5.0)
    clock.prefilled(prefill(90.0), 6.0)
    clock.token(7.0, from_decode=True)
    timings = clock.timings(8.0)
    assert (timings.prefill_ms, timings.ttft_ms, timings.queue_ms) == (20.0, 2000.0, 1003.0)
    assert timings.first_decode_ms is None
