"""What a router keeps for a controller, and the share it borrows when told to."""

from dataclasses import replace

import pytest

from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.traffic import Guidance
from tandem.core.types import (
    GenerationTask,
    Outcome,
    PhaseTimings,
    PriorityClass,
    Role,
    SamplingParams,
    StopParams,
    TokenDelta,
    Usage,
)
from tandem.router.actions import Ended, Started
from tandem.router.borrowing import Borrowing
from tandem.router.placement import Demand, Placement, PlacementCause, PlacementMode, PlacementPolicy, place
from tandem.router.traffic import TrafficMeter
from tests.fakes.live_world import HandClock
from tests.unit.router.builders import make_view


class Quiet:
    """A sink that keeps nothing."""

    num_put = 0

    def put_started(self, started: Started) -> None:
        self.num_put += 1

    def put_delta(self, delta: TokenDelta) -> None:
        self.num_put += 1

    def put_ended(self, ended: Ended) -> None:
        self.num_put += 1

    def put_keep_alive(self) -> None:
        self.num_put += 1


TASK = GenerationTask(
    request_id=RequestId("r"), attempt=0, tenant=LOCAL_TENANT, prompt_token_ids=(1,) * 20, num_sequences=1,
    sampling=SamplingParams(), stop=StopParams(max_tokens=64), priority=PriorityClass.INTERACTIVE,
)  # fmt: skip


def delta(position: int, count: int = 1) -> TokenDelta:
    return TokenDelta(
        request_id=TASK.request_id, attempt=0, child=0, position=position, token_ids=(5,) * count, text=""
    )


def end(*, outcome: Outcome = Outcome.OK, output: int = 21) -> Ended:
    return Ended(
        outcome=outcome, error=None, usage=Usage(prompt_tokens=20, cached_tokens=4, output_tokens=output),
        timings=PhaseTimings(ttft_ms=500.0), prefill_worker_id="", decode_worker_id="", num_attempts=1,
    )  # fmt: skip


def test_a_request_is_counted_when_it_comes_and_measured_when_it_ends() -> None:
    clock = HandClock(0.0)
    meter = TrafficMeter(clock)
    inner = Quiet()
    clock.at_s = 10.0
    sink = meter.watch(inner, TASK, arrived_s=10.0)
    sink.put_started(Started(num_prompt_tokens=20, num_cached_tokens=4))
    clock.at_s = 10.5
    sink.put_delta(delta(0))
    for index in range(19):
        clock.at_s += 0.1
        sink.put_delta(delta(index + 1))
    clock.at_s += 1.1
    sink.put_delta(delta(20))
    sink.put_ended(end())
    sink.put_keep_alive()
    assert inner.num_put == 24, "everything was passed on"
    clock.at_s += 5.0
    report = meter.report("r0", 60.0, queued_work_s=2.0, borrow_share=0.25)
    assert report.window_s == pytest.approx(clock.at_s)
    assert list(report.arrivals) == [PriorityClass.INTERACTIVE]
    assert report.arrivals[PriorityClass.INTERACTIVE] == pytest.approx((clock.at_s - 10.0,))
    (request,) = report.ended
    assert (request.new_tokens, request.cached_tokens, request.output_tokens) == (16, 4, 21)
    assert request.age_s == pytest.approx(5.0)
    assert request.ttft_s == 0.5
    assert request.tpot_s == pytest.approx((3.5 - 0.5) / 20)
    assert request.gap_p95_s == pytest.approx(0.1, rel=1e-3), "one gap of twenty was long"
    assert request.e2e_s == pytest.approx(3.5)


def test_several_tokens_at_once_are_several_gaps() -> None:
    clock = HandClock(0.0)
    meter = TrafficMeter(clock)
    sink = meter.watch(Quiet(), TASK, arrived_s=0.0)
    sink.put_delta(delta(0))
    clock.at_s = 1.0
    sink.put_delta(delta(1, count=4))
    sink.put_ended(end(outcome=Outcome.CANCELLED, output=5))
    (request,) = meter.report("r0", 9.0, queued_work_s=0.0, borrow_share=0.0).ended
    assert request.gap_p95_s == pytest.approx(0.25)
    assert request.outcome is Outcome.CANCELLED


def test_what_is_older_than_asked_for_is_left_out_and_what_is_shed_at_once_did_arrive() -> None:
    clock = HandClock(0.0)
    meter = TrafficMeter(clock)
    meter.watch(Quiet(), TASK, arrived_s=0.0).put_ended(end(output=0))
    clock.at_s = 100.0
    meter.watch(Quiet(), TASK, arrived_s=100.0)  # the dispatcher refused it: nothing was put
    report = meter.report("r0", 60.0, queued_work_s=0.0, borrow_share=0.0)
    assert report.window_s == 60.0
    assert len(report.arrivals[PriorityClass.INTERACTIVE]) == 1
    assert report.ended == ()


def test_a_window_that_was_forgotten_in_part_says_so() -> None:
    clock = HandClock(0.0)
    meter = TrafficMeter(clock)
    for _ in range(5000):
        clock.at_s += 0.01
        meter.watch(Quiet(), TASK, arrived_s=clock.at_s)
    report = meter.report("r0", 60.0, queued_work_s=0.0, borrow_share=0.0)
    assert report.window_s == pytest.approx(40.95)
    assert len(report.arrivals[PriorityClass.INTERACTIVE]) >= 4095


def test_the_highest_term_is_followed_and_silence_ends_it() -> None:
    borrowing = Borrowing()
    assert borrowing.share(0.0) == 0.0
    assert borrowing.follow(Guidance(term=5, borrow_share=0.4, ttl_s=10.0), 0.0) == 5
    assert borrowing.follow(Guidance(term=4, borrow_share=0.9, ttl_s=10.0), 1.0) == 5
    assert borrowing.share(9.9) == 0.4
    assert borrowing.share(10.0) == 0.0


@pytest.mark.parametrize(("share", "about"), [(0.0, 0), (0.3, 300), (1.0, 1000)])
def test_the_borrowed_share_is_computed_where_it_decodes(share: float, about: int) -> None:
    policy = PlacementPolicy(borrow_share=share)
    prefills, decodes = [make_view("prefill-0", Role.PREFILL)], [make_view("decode-0", Role.DECODE)]
    demand = Demand(num_prompt_tokens=64, num_sequences=1, growth_tokens=8)
    causes = []
    for index in range(1000):
        drawn = replace(demand, draw=(index * 2654435761) % 2**32)
        choice = place(drawn, prefills=prefills, decodes=decodes, policy=policy)
        assert isinstance(choice, Placement)
        causes.append(choice.cause)
    assert abs(causes.count(PlacementCause.BORROWED) - about) <= 20
    split = place(
        replace(demand, draw=0), prefills=prefills, decodes=decodes,
        policy=replace(policy, mode=PlacementMode.SPLIT),
    )  # fmt: skip
    assert isinstance(split, Placement)
    assert split.cause is PlacementCause.PAIR, "a comparison that asks for pairs gets pairs"
