"""The parts of admission, each by itself: buckets, cost, forecast, rolling error, load level, shedding, yielding."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.backlog import NOTHING, Backlog
from tandem.router.admission.buckets import Quota, TenantBuckets, TenantLimit, TokenBucket
from tandem.router.admission.cost import prompt_cost, request_cost
from tandem.router.admission.curtail import curtail
from tandem.router.admission.errors import RollingError
from tandem.router.admission.forecast import MARGIN, Pools, forecast
from tandem.router.admission.pressure import BrownOut, BrownOutPolicy, LoadLevel, ShedRate
from tandem.router.admission.shedding import Line, line_to_shorten, pushback_s
from tandem.router.admission.yielding import DecodeRoom, Yielder, who_yields
from tests.unit.router.builders import D2, D, make_task

A, B = Tenant("a"), Tenant("b")
INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH


def pools(
    *,
    num_servers: int = 2,
    queued_s: float = 0.0,
    free_slots: int = 8,
    free_blocks: int = 100,
    residence_s: float = 4.0,
) -> Pools:
    return Pools(
        num_servers=num_servers,
        queued_prefill_s=queued_s,
        free_slots=free_slots,
        total_slots=8,
        free_blocks=free_blocks,
        total_blocks=100,
        block_size=16,
        residence_s=residence_s,
    )


# --- buckets ----------------------------------------------------------------------------------------------------------


@given(
    per_minute=st.floats(1.0, 1e5),
    burst_s=st.floats(1.0, 120.0),
    steps=st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.1, 500.0)), max_size=60),
)
def test_no_tenant_gets_more_than_its_rate_and_its_burst(
    per_minute: float, burst_s: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(per_minute=per_minute, burst_s=burst_s, now_s=0.0)
    size = max(per_minute / 60.0 * burst_s, 1.0)
    now_s = taken = largest = 0.0
    for wait_s, amount in steps:
        now_s += wait_s
        if bucket.missing_s(amount, now_s) == 0.0:
            bucket.take(amount, now_s)
            taken, largest = taken + amount, max(largest, amount)
        assert taken <= size + per_minute / 60.0 * now_s + largest + 1e-6


@given(per_minute=st.floats(1.0, 1e4), amount=st.floats(0.1, 1e4))
def test_after_the_named_wait_the_same_demand_is_served(per_minute: float, amount: float) -> None:
    bucket = TokenBucket(per_minute=per_minute, burst_s=60.0, now_s=0.0)
    bucket.take(per_minute * 2.0, 0.0)
    wait_s = bucket.missing_s(amount, 0.0)
    assert wait_s > 0.0
    assert bucket.missing_s(amount, wait_s * (1.0 + 1e-9) + 1e-6) == 0.0


def test_requests_and_tokens_are_limited_apart_and_all_or_nothing() -> None:
    buckets = TenantBuckets(limits={A: TenantLimit(requests=60.0, tokens=600.0, burst_s=10.0)})
    used_up = buckets.take(A, num_tokens=90.0, now_s=0.0)
    assert used_up is None
    used_up = buckets.take(A, num_tokens=90.0, now_s=0.0)
    assert used_up is not None
    assert used_up.quota is Quota.TOKENS
    assert used_up.retry_after_s == pytest.approx(8.0)
    for _ in range(9):  # the one that was refused has cost no request
        assert buckets.take(A, num_tokens=1.0, now_s=0.0) is None
    used_up = buckets.take(A, num_tokens=1.0, now_s=0.0)
    assert used_up is not None
    assert used_up.quota is Quota.REQUESTS
    assert used_up.retry_after_s == pytest.approx(1.0)
    assert buckets.take(B, num_tokens=1e9, now_s=0.0) is None, "no limit, no bucket"
    assert len(buckets) == 1


def test_a_demand_above_the_bucket_is_slowed_down_not_refused_for_ever() -> None:
    buckets = TenantBuckets(default=TenantLimit(tokens=60.0, burst_s=10.0))
    assert buckets.take(A, num_tokens=100.0, now_s=0.0) is None
    debt = buckets.take(A, num_tokens=1.0, now_s=0.0)
    assert debt is not None
    assert debt.retry_after_s == pytest.approx(91.0)
    buckets.settle(A, -95.0, 0.0)
    assert buckets.take(A, num_tokens=5.0, now_s=0.0) is None


def test_buckets_of_idle_tenants_are_forgotten() -> None:
    buckets = TenantBuckets(default=TenantLimit(requests=60.0, burst_s=10.0))
    for index in range(10_000):
        buckets.take(Tenant(str(index)), num_tokens=1.0, now_s=index * 0.01)
    assert len(buckets) <= 5100


# --- cost -------------------------------------------------------------------------------------------------------------


def test_what_is_cached_costs_a_tenth_and_output_twice() -> None:
    assert prompt_cost(100) == 100.0
    assert request_cost(100, 10, num_cached_tokens=80) == pytest.approx(20 + 8 + 20)
    assert prompt_cost(10, num_cached_tokens=50) == pytest.approx(1.0)


# --- forecast ---------------------------------------------------------------------------------------------------------


def test_the_slower_stage_sets_the_wait() -> None:
    need = Backlog(work_s=0.2, num_sequences=1, kv_tokens=32)
    ahead = Backlog(cost_tokens=1.0, work_s=2.0, num_sequences=3, kv_tokens=1600)
    free = forecast(need, ahead=ahead, pools=pools(queued_s=1.0, free_blocks=200), error_s=0.1)
    assert free.prefill_wait_s == pytest.approx(1.5)
    assert free.slot_wait_s == free.block_wait_s == 0.0
    assert free.ttft_s == pytest.approx(MARGIN * 1.7 + 0.1)
    full = forecast(need, ahead=ahead, pools=pools(free_slots=0), error_s=0.0)
    assert full.slot_wait_s == pytest.approx(2.0)  # 4 of 8 slots, which turn over in 4 s
    assert full.block_wait_s == pytest.approx((102 - 100) / 100 * 4.0)
    assert full.wait_s == pytest.approx(2.0)


amounts = st.floats(0.0, 1e4)


@given(ahead=st.tuples(amounts, amounts, amounts), more=st.tuples(amounts, amounts, amounts), free=st.integers(0, 8))
def test_more_ahead_is_never_predicted_to_be_faster(
    ahead: tuple[float, float, float], more: tuple[float, float, float], free: int
) -> None:
    need = Backlog(work_s=0.1, num_sequences=1, kv_tokens=16)
    first = Backlog(work_s=ahead[0], num_sequences=ahead[1], kv_tokens=ahead[2])
    both = first.plus(Backlog(work_s=more[0], num_sequences=more[1], kv_tokens=more[2]))
    one = forecast(need, ahead=first, pools=pools(free_slots=free), error_s=0.0)
    assert forecast(need, ahead=both, pools=pools(free_slots=free), error_s=0.0).ttft_s >= one.ttft_s
    assert forecast(need, ahead=first, pools=pools(free_slots=0), error_s=0.0).ttft_s >= one.ttft_s


def test_without_workers_nothing_is_predicted() -> None:
    nobody = Pools(
        num_servers=0,
        queued_prefill_s=0.0,
        free_slots=0,
        total_slots=0,
        free_blocks=0,
        total_blocks=0,
        block_size=1,
        residence_s=0.0,
    )
    assert forecast(Backlog(num_sequences=1), ahead=NOTHING, pools=nobody, error_s=0.0).wait_s == 0.0


# --- the rolling error ------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5.0, 5.0), min_size=8, max_size=300))
def test_the_error_covers_nineteen_of_twenty_of_the_last(errors: list[float]) -> None:
    rolling = RollingError(most_s=100.0, window=128)
    for error_s in errors:
        rolling.observe(predicted_s=0.0, actual_s=error_s, now_s=1.0)
    last = errors[-128:]
    p95_s = rolling.p95_s(1.0)
    assert p95_s >= 0.0
    assert sum(error_s > p95_s for error_s in last) <= math.ceil(0.05 * len(last))
    assert len(rolling) == len(last)


def test_errors_age_and_are_bounded() -> None:
    rolling = RollingError(max_age_s=30.0, most_s=2.0)
    for _ in range(20):
        rolling.observe(predicted_s=0.0, actual_s=9.0, now_s=0.0)
    assert rolling.p95_s(29.0) == 2.0
    assert rolling.p95_s(31.0) == 0.0, "when nobody is admitted any more, old errors must not keep everybody out"


# --- load and brown-out -----------------------------------------------------------------------------------------------


def test_a_deep_backlog_that_is_gone_browns_nobody_out_for_long() -> None:
    load = LoadLevel(BrownOutPolicy(smoothing_s=2.0))
    steps = []
    for level, moments in ((50.0, range(0, 300)), (0.0, range(300, 315))):
        for tenth in moments:
            load.observe(level, 0.1 * tenth)
        steps.append(load.step)
    assert steps == [BrownOut.NO_PINS, BrownOut.NONE]


def test_steps_come_one_by_one_and_go_a_little_later() -> None:
    load = LoadLevel(BrownOutPolicy(smoothing_s=1.0))
    seen = []
    levels = [0.0, 0.85, 0.95, 1.2, 0.97, 0.92, 0.87, 0.7]
    for index, level in enumerate(levels):
        load.observe(level, 100.0 * index)
        seen.append(load.step)
    assert seen == [0, 1, 2, 3, 3, 2, 2, 0]


def test_a_moment_of_load_is_not_a_brown_out() -> None:
    load = LoadLevel(BrownOutPolicy(smoothing_s=2.0))
    load.observe(0.0, 0.0)
    steps = []
    for now_s in (0.1, 5.0):
        load.observe(3.0, now_s)
        steps.append(load.step)
    assert steps == [BrownOut.NONE, BrownOut.NO_PINS]


def test_a_storm_is_half_refused_for_ten_seconds() -> None:
    rate = ShedRate()
    for tenth in range(300):
        rate.note(shed=tenth % 10 < 6, now_s=tenth / 10)
        if tenth / 10 < 10.0:
            assert not rate.is_storm(tenth / 10)
    assert rate.is_storm(30.0)
    assert not rate.is_storm(45.0), "it is over when nobody comes any more"
    for tenth in range(450, 600):
        rate.note(shed=tenth % 2 == 0, now_s=tenth / 10)
    assert not rate.is_storm(60.0), "half is not more than half"


def test_only_batch_answers_are_cut_and_only_in_a_brown_out() -> None:
    batch, standard = make_task(max_tokens=500, priority=BATCH), make_task(max_tokens=500)
    assert curtail(batch, BrownOut.NONE, batch_max_tokens=64) is batch
    assert curtail(batch, BrownOut.CAP_BATCH, batch_max_tokens=64).stop.max_tokens == 64
    assert curtail(standard, BrownOut.NO_PINS, batch_max_tokens=64) is standard


# --- shedding ---------------------------------------------------------------------------------------------------------


def test_batch_is_shed_first_then_who_is_over_its_share_then_the_newcomer() -> None:
    waiting = {BATCH: {A: 5.0, B: 9.0}, STANDARD: {A: 100.0}, INTERACTIVE: {A: 100.0}}
    assert line_to_shorten(A, STANDARD, waiting=waiting, cost_tokens=1.0, weights={}) == Line(priority=BATCH, tenant=B)
    no_batch = {**waiting, BATCH: {}}
    assert line_to_shorten(B, STANDARD, waiting=no_batch, cost_tokens=1.0, weights={}) == Line(
        priority=STANDARD, tenant=A
    )
    assert line_to_shorten(A, STANDARD, waiting=no_batch, cost_tokens=1.0, weights={}) is None
    assert line_to_shorten(B, STANDARD, waiting=no_batch, cost_tokens=1.0, weights={A: 1000.0}) is None
    assert line_to_shorten(B, BATCH, waiting={STANDARD: {A: 9.0}}, cost_tokens=1.0, weights={}) is None


@given(
    lines=st.dictionaries(
        st.sampled_from(list(PriorityClass)),
        st.dictionaries(st.sampled_from([Tenant(name) for name in "abc"]), st.floats(1.0, 1e4), max_size=3),
    ),
    tenant=st.sampled_from([Tenant(name) for name in "abcd"]),
    priority=st.sampled_from(list(PriorityClass)),
    cost=st.floats(1.0, 100.0),
)
def test_nobody_loses_its_place_to_a_less_urgent_or_a_greedier_one(
    lines: dict[PriorityClass, dict[Tenant, float]], tenant: Tenant, priority: PriorityClass, cost: float
) -> None:
    loser = line_to_shorten(tenant, priority, waiting=lines, cost_tokens=cost, weights={})
    if loser is None:
        return
    order = list(PriorityClass)
    assert order.index(loser.priority) >= order.index(priority)
    if loser.priority is priority:
        assert loser.tenant != tenant
        assert lines[priority][loser.tenant] > lines[priority].get(tenant, 0.0)


@given(st.text("abcdef0123456789", min_size=8, max_size=32), st.floats(0.0, 1e3), st.integers(0, 9))
def test_pushback_is_the_wait_within_bounds_and_spread(name: str, wait_s: float, attempt: int) -> None:
    seconds = pushback_s(RequestId(name), wait_s=wait_s, attempt=attempt)
    base_s = min(min(max(wait_s, 0.5), 30.0) * 2.0 ** min(attempt, 3), 30.0)
    assert 0.8 * base_s <= seconds <= 1.2 * base_s


def test_callers_do_not_come_back_all_at_once() -> None:
    times = [pushback_s(RequestId(f"{index:032x}"), wait_s=10.0, attempt=0) for index in range(200)]
    assert min(times) < 8.5
    assert max(times) > 11.5


# --- yielding ---------------------------------------------------------------------------------------------------------


def yielder(name: str, *, decode: str = "d", blocks: int = 5, tokens: int = 100) -> Yielder:
    return Yielder(request_id=RequestId(name), decode=D if decode == "d" else D2, num_blocks=blocks, num_tokens=tokens)


def room(*, slots: int = 0, blocks: int = 0, needed: int = 5, worker: str = "d") -> DecodeRoom:
    return DecodeRoom(worker=D if worker == "d" else D2, free_slots=slots, free_blocks=blocks, needed_blocks=needed)


def test_the_one_with_the_least_to_compute_again_yields() -> None:
    running = [yielder("long", tokens=900), yielder("short", tokens=50), yielder("other", decode="d2", tokens=10)]
    assert who_yields([room()], running, num_sequences=1) == ["short"]
    assert who_yields([room(), room(worker="d2")], running, num_sequences=1) == ["other"]


def test_nobody_yields_in_vain() -> None:
    assert who_yields([room(needed=100)], [yielder("x"), yielder("y")], num_sequences=1) == []
    assert who_yields([room(slots=1, blocks=5)], [yielder("x")], num_sequences=1) == []
    assert who_yields([], [yielder("x")], num_sequences=1) == []


def test_as_few_as_possible_yield() -> None:
    running = [yielder(f"d{i}", blocks=2, tokens=i) for i in range(5)] + [yielder("d2-big", decode="d2", blocks=9)]
    assert who_yields([room(), room(worker="d2")], running, num_sequences=1) == ["d2-big"]
    assert who_yields([room()], running, num_sequences=1) == ["d0", "d1", "d2"]
