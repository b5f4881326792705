"""Queueing formulas against exact results and slow simulations; predictions against common sense."""

import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.controller.observation import ClassTraffic, RequestShape
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.slo import ClassesSection
from tandem.controller.sizing.demand import demand_of
from tandem.controller.sizing.prediction import SplitJudge
from tandem.controller.sizing.queueing import (
    Stream,
    WaitTail,
    erlang_c,
    priority_waits,
    quantile_s,
    shared_batch,
    utilization,
)
from tandem.core.types import PriorityClass
from tests.unit.controller.worlds import ANSWERS, PROMPTS, seen, traffic

EVERYTHING = {
    "ttft": {"target": "1s"}, "itl": {"target": "50ms"}, "tpot": {"target": "50ms"}, "e2e": {"target": "60s"},
}  # fmt: skip


def judge(*classes: tuple[PriorityClass, ClassTraffic], promises: object = None, backlog_s: float = 0.0) -> SplitJudge:
    view = seen(1, 1, traffic=dict(classes), backlog_s=backlog_s)
    rates = {priority: each.arrivals_per_s for priority, each in classes}
    promised = ClassesSection.model_validate(promises or {"interactive": EVERYTHING, "standard": EVERYTHING})
    return SplitJudge(demand_of(view, rates), promised.promises(), catch_up_s=30.0, max_utilization=0.95)


def split(prefill: int, decode: int) -> Split:
    return Split(prefill=prefill, decode=decode)


# --- formulas -----------------------------------------------------------------------------------------------------


def test_erlang_c_by_hand() -> None:
    assert erlang_c(1, 0.3) == pytest.approx(0.3)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(3, 2.0) == pytest.approx(4 / 9)
    assert erlang_c(2, 2.0) == pytest.approx(1.0)
    assert erlang_c(4, 0.0) == pytest.approx(0.0)


def test_one_exponential_server_is_exact() -> None:
    """M/M/1: P(W > t) = u·exp(-(1 - u)·t / E[S])."""
    stream = Stream(rate_per_s=0.8, mean_s=1.0, square_s2=2.0)
    tail = priority_waits(1, [stream], arrival_scv=1.0)[0]
    for t in (0.0, 1.0, 5.0):
        assert tail.exceeds(t) == pytest.approx(0.8 * math.exp(-0.2 * t))


def _simulated_p95(num_servers: int, rate: float, services: list[float], seed: int) -> float:
    """First come, first served, Poisson arrivals: the slow oracle."""
    draw = random.Random(seed)
    free = [0.0] * num_servers
    at, waits = 0.0, []
    for _ in range(40_000):
        at += draw.expovariate(rate)
        start = max(at, heapq.heappop(free))
        waits.append(start - at)
        heapq.heappush(free, start + draw.choice(services))
    return sorted(waits)[int(0.95 * len(waits))]


@pytest.mark.parametrize(
    ("num_servers", "rate", "services"),
    [(1, 0.8, [1.0]), (4, 3.2, [1.0]), (2, 1.4, [0.2, 0.2, 0.2, 3.4]), (6, 4.8, [0.5, 1.5])],
)
def test_the_95th_percentile_is_near_that_of_a_simulation(num_servers: int, rate: float, services: list[float]) -> None:
    stream = Stream(
        rate_per_s=rate, mean_s=sum(services) / len(services), square_s2=sum(s * s for s in services) / len(services)
    )
    tail = priority_waits(num_servers, [stream], arrival_scv=1.0)[0]
    predicted = quantile_s(tail.exceeds, share=0.95, high_s=100.0)
    assert predicted == pytest.approx(_simulated_p95(num_servers, rate, services, seed=7), rel=0.25)


def test_an_urgent_class_waits_less_and_is_safe_from_those_below() -> None:
    urgent = Stream(rate_per_s=0.3, mean_s=1.0, square_s2=2.0)
    first, last = priority_waits(1, [urgent, replace(urgent, rate_per_s=0.9)], arrival_scv=1.0)
    assert math.isinf(last.mean_s)
    assert last.exceeds(1e6) == pytest.approx(1.0)
    assert first.mean_s == pytest.approx(1 / 0.7)
    assert first.probability == pytest.approx(1.0)  # the server is never idle


def test_a_quantile_out_of_reach_is_infinite() -> None:
    assert math.isinf(quantile_s(lambda t: 1.0, share=0.95, high_s=10.0))
    assert WaitTail(probability=0.5, mean_s=0.0).exceeds(0.0) == pytest.approx(0.0)
    assert WaitTail(probability=0.5, mean_s=1.0).exceeds(-0.1) == pytest.approx(1.0)


def _stationary(rate: float, base: float, cost: float, lent: float) -> list[float]:
    """The batch's distribution from its birth and death rates, term by term (with answers of one token)."""
    weights = [1.0]
    for n in range(1, 4000):
        weights.append(weights[-1] * rate * (base + cost * n) / (n * (1.0 - lent)))
    total = sum(weights)
    return [weight / total for weight in weights]


@pytest.mark.parametrize(
    ("rate", "base", "cost", "lent"),
    [(1000.0, 0.01, 5e-4, 0.0), (1700.0, 0.01, 5e-4, 0.0), (600.0, 0.005, 1e-3, 0.3), (100.0, 0.02, 1e-6, 0.0)],
)
def test_the_batch_is_distributed_as_its_birth_and_death_rates_say(
    rate: float, base: float, cost: float, lent: float
) -> None:
    exact = _stationary(rate, base, cost, lent)
    mean = sum(n * p for n, p in enumerate(exact))
    variance = sum((n - mean) ** 2 * p for n, p in enumerate(exact))
    batch = shared_batch(rate_per_s=rate, base_s=base, cost_s=cost, lent=lent)
    assert batch is not None
    assert batch.mean == pytest.approx(mean, rel=1e-6)
    assert batch.variance == pytest.approx(variance, rel=1e-6)
    below, quantile = 0.0, 0
    while below < 0.95:
        below += exact[quantile]
        quantile += 1
    assert batch.quantile(0.95) == pytest.approx(quantile - 1, rel=0.05, abs=1.0)


def test_a_batch_grows_without_end_when_more_is_asked_than_can_be_done() -> None:
    assert shared_batch(rate_per_s=2000.0, base_s=0.01, cost_s=5e-4, lent=0.0) is None
    assert shared_batch(rate_per_s=1000.0, base_s=0.01, cost_s=5e-4, lent=0.5) is None
    assert shared_batch(rate_per_s=1.0, base_s=0.01, cost_s=5e-4, lent=1.0) is None
    idle = shared_batch(rate_per_s=0.0, base_s=0.01, cost_s=5e-4, lent=0.0)
    assert idle is not None
    assert idle.quantile(0.99) == pytest.approx(0.0)


# --- predictions --------------------------------------------------------------------------------------------------

COUNTS = st.integers(1, 8)
RATES = st.floats(0.1, 30.0)


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, RATES, st.floats(0.0, 20.0))
def test_more_workers_never_make_it_worse_and_more_requests_never_better(
    prefill: int, decode: int, rate: float, backlog_s: float
) -> None:
    urgent = (PriorityClass.INTERACTIVE, traffic(rate / 4, ANSWERS))
    here = judge(urgent, (PriorityClass.STANDARD, traffic(rate, PROMPTS, ANSWERS)), backlog_s=backlog_s)
    more = judge(urgent, (PriorityClass.STANDARD, traffic(rate * 1.2, PROMPTS, ANSWERS)), backlog_s=backlog_s)
    now = here.judge(split(prefill, decode))
    for other in (split(prefill + 1, decode), split(prefill, decode + 1)):
        assert here.judge(other).stress <= now.stress * (1 + 1e-6)
        for mine, theirs in zip(now.promises, here.judge(other).promises, strict=True):
            assert theirs.predicted_s <= mine.predicted_s * (1 + 1e-6)
    assert more.judge(split(prefill, decode)).stress >= now.stress * (1 - 1e-6)


def test_the_context_is_that_of_a_sequence_half_way_weighted_by_how_long_it_decodes() -> None:
    short = RequestShape(new_tokens=80, cached_tokens=20, output_tokens=100)
    long = RequestShape(new_tokens=1000, cached_tokens=0, output_tokens=300)
    demand = demand_of(
        seen(1, 1, traffic={PriorityClass.STANDARD: traffic(2.0, short, long)}), {PriorityClass.STANDARD: 2.0}
    ).classes[0]
    assert demand.context_tokens == pytest.approx((100 * (100 + 50) + 300 * (1000 + 150)) / 400)
    assert demand.tokens_per_s == pytest.approx(2.0 * 200)


def test_two_humps_are_not_their_mean() -> None:
    """A mean of 0.11 s would promise well; the long prompts take 0.78 s alone, and one in ten is long."""
    short, long = (RequestShape(new_tokens=n, cached_tokens=0, output_tokens=10) for n in (500, 6000))
    humps = judge((PriorityClass.STANDARD, traffic(0.5, *[short] * 9, long)))
    mean = RequestShape(new_tokens=1050, cached_tokens=0, output_tokens=10)
    middle = judge((PriorityClass.STANDARD, traffic(0.5, *[mean] * 10)))
    first = {p.objective: p.predicted_s for p in humps.judge(split(4, 4)).promises}["ttft"]
    averaged = {p.objective: p.predicted_s for p in middle.judge(split(4, 4)).promises}["ttft"]
    assert first > 0.75
    assert averaged < 0.2


def test_a_backlog_counts() -> None:
    calm = judge((PriorityClass.STANDARD, traffic(2.0))).judge(split(2, 2))
    late = judge((PriorityClass.STANDARD, traffic(2.0)), backlog_s=20.0).judge(split(2, 2))
    assert late.prefill_busy == pytest.approx(calm.prefill_busy + 20 / (2 * 30))
    assert late.stress > calm.stress


def test_borrowing_takes_from_one_pool_and_costs_the_other() -> None:
    here = judge((PriorityClass.STANDARD, traffic(3.0)))
    plain, lent = here.judge(split(2, 3)), here.judge(split(2, 3), 0.3)
    assert lent.prefill_busy == pytest.approx(plain.prefill_busy * 0.7)
    assert lent.decode_busy > plain.decode_busy
    by_name = [{p.objective: p.predicted_s for p in each.promises} for each in (plain, lent)]
    assert by_name[1]["ttft"] < by_name[0]["ttft"]
    assert by_name[1]["itl"] > by_name[0]["itl"]


def test_slots_and_blocks_are_limits_too() -> None:
    busy = traffic(8.0, ANSWERS)
    view = seen(1, 1, traffic={PriorityClass.STANDARD: busy}, max_sequences=16)
    few = SplitJudge(demand_of(view, {PriorityClass.STANDARD: 8.0}), {}, catch_up_s=30, max_utilization=0.95)
    assert few.judge(split(2, 4)).capacity_stress > 1.0
    assert "slots and KV" in few.judge(split(2, 4)).worst
    many = judge((PriorityClass.STANDARD, busy))
    assert many.judge(split(2, 4)).capacity_stress < 1.0


def test_nobody_asking_is_no_stress() -> None:
    assert judge().judge(split(1, 1)).stress == pytest.approx(0.0)
    assert utilization(3, []) == pytest.approx(0.0)


def test_the_worst_is_told_in_words() -> None:
    here = judge((PriorityClass.STANDARD, traffic(8.0)), promises={"standard": {"ttft": {"target": "1s"}}})
    assert here.judge(split(1, 4)).worst == "standard ttft p95 without end of 1000 ms"
    assert here.judge(split(5, 4)).worst == "standard ttft p95 967 ms of 1000 ms"
    assert here.judge(split(8, 4)).worst == "busy 48% prefill, 11% decode, slots and KV 2%"


def test_what_breaks_an_urgent_promise_is_worse_than_what_breaks_others() -> None:
    urgent = (PriorityClass.INTERACTIVE, traffic(0.5, ANSWERS))
    batch = (PriorityClass.BATCH, traffic(9.0, ANSWERS))
    promises = {"interactive": {"itl": {"target": "60ms"}}, "batch": {"e2e": {"target": "5s"}}}
    here = judge(urgent, batch, promises=promises)
    assert here.judge(split(1, 7)).badness() < here.judge(split(7, 1)).badness()
