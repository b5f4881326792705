"""What the gate takes over from a controller: the promises of the policy in force, and its part of tenants' limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import Tenant
from tandem.core.traffic import ClassTargets, Guidance
from tandem.core.types import PriorityClass
from tandem.router.admission.buckets import Quota, TenantBuckets, TenantLimit
from tandem.router.admission.gate import AdmissionGate
from tandem.router.admission.refusals import refusal
from tandem.router.admission.terms import AdmissionCause, AdmissionPolicy
from tests.unit.router.builders import D, P
from tests.unit.router.test_admission_gate import ask, decide, waiting
from tests.unit.router.test_admitting import Door

INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH
A = Tenant("a")
BUSY = waiting(work_s=3.0)  # a first token after 1.15 · (3 + 0.2) s


def cause(gate: AdmissionGate, priority: PriorityClass = STANDARD) -> AdmissionCause:
    return decide(gate, ask(priority=priority), BUSY).cause


def test_a_policys_promises_replace_the_configured_ones_and_change_with_it() -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 10.0, BATCH: 1.0}))
    assert (cause(gate), cause(gate, BATCH)) == (AdmissionCause.FITS, AdmissionCause.SLO)
    gate.follow({STANDARD: ClassTargets(ttft_s=2.0)})
    assert (cause(gate), cause(gate, BATCH)) == (AdmissionCause.SLO, AdmissionCause.FITS), "batch is promised nothing"
    gate.follow({STANDARD: ClassTargets(ttft_s=8.0)})
    assert cause(gate) is AdmissionCause.FITS
    gate.follow({})
    assert (cause(gate), cause(gate, BATCH)) == (AdmissionCause.FITS, AdmissionCause.SLO), "as configured"


def test_a_whole_answers_promise_leaves_less_time_for_the_first_token() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    gate.follow({STANDARD: ClassTargets(e2e_s=10.0)})  # answers go on for 3.8 s after their first token
    assert cause(gate) is AdmissionCause.FITS
    gate.follow({STANDARD: ClassTargets(e2e_s=7.0)})
    decision = decide(gate, ask(), BUSY)
    assert decision.cause is AdmissionCause.SLO
    assert decision.latest_s == pytest.approx(7.0 - 3.8)
    assert "standard ones get 2.72 s of 3.20 s" in str(refusal(decision))
    gate.follow({STANDARD: ClassTargets(ttft_s=1.0, e2e_s=10.0)})
    assert decide(gate, ask(), BUSY).latest_s == pytest.approx(1.0), "the tighter of the two"


def test_a_promise_shorter_than_an_answer_takes_only_who_need_not_wait() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    gate.follow({STANDARD: ClassTargets(e2e_s=1.0)})
    assert cause(gate) is AdmissionCause.SLO
    assert decide(gate, ask(), waiting()).cause is AdmissionCause.ROOM


def test_a_router_can_be_told_to_keep_its_own_promises() -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 10.0}, follows_targets=False))
    gate.follow({STANDARD: ClassTargets(ttft_s=0.1)})
    assert cause(gate) is AdmissionCause.FITS


def test_the_error_is_bounded_by_half_of_the_promise_in_force() -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 8.0}))
    for _ in range(20):
        gate.error.observe(predicted_s=0.0, actual_s=9.0, now_s=0.0)
    assert gate.error.p95_s(0.0) == 4.0
    gate.follow({STANDARD: ClassTargets(ttft_s=2.0)})
    assert gate.error.p95_s(0.0) == 1.0


def test_a_dispatcher_that_is_guided_admits_by_it() -> None:
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(default_limit=TenantLimit(requests=60.0)))
    admitting = world.dispatcher.admitting
    admitting.follow(
        Guidance(term=1, borrow_share=0.0, ttl_s=1.0, targets={STANDARD: ClassTargets(ttft_s=0.5)}, num_routers=3), 0.0
    )
    assert admitting.gate.policy.ttft_slo_s == {STANDARD: 0.5}
    assert admitting.gate.buckets.num_routers == 3
    admitting.follow(Guidance(term=1, borrow_share=0.0, ttl_s=1.0), 0.0)
    assert admitting.gate.buckets.num_routers == 3, "who does not know how many there are changes nothing"


# --- limits that routers share ----------------------------------------------------------------------------------------


@given(
    num_routers=st.integers(1, 6),
    per_minute=st.integers(30, 6000),
    burst_s=st.floats(5.0, 60.0),
    gaps_s=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=80),
)
def test_routers_together_grant_one_limit(
    num_routers: int, per_minute: int, burst_s: float, gaps_s: list[float]
) -> None:
    limit = TenantLimit(requests=float(per_minute), burst_s=burst_s)
    routers = [TenantBuckets(limits={A: limit}, num_routers=num_routers) for _ in range(num_routers)]
    now_s, granted = 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        for router in routers:
            while router.take(A, num_tokens=1.0, now_s=now_s) is None:
                granted += 1
    rate = per_minute / 60.0
    assert granted <= max(rate * burst_s, num_routers) + rate * now_s + 1e-6  # each bucket holds at least one request


def test_what_is_left_is_cut_when_routers_join_and_not_granted_again_when_they_go() -> None:
    buckets = TenantBuckets(default=TenantLimit(tokens=600.0, burst_s=60.0))
    assert buckets.take(A, num_tokens=200.0, now_s=0.0) is None  # 400 left
    buckets.share_among(2, 0.0)
    assert buckets.take(A, num_tokens=100.0, now_s=0.0) is None
    buckets.share_among(1, 0.0)
    buckets.share_among(2, 0.0)  # 100 left, then 100, then 50
    assert buckets.take(A, num_tokens=50.0, now_s=0.0) is None
    used_up = buckets.take(A, num_tokens=10.0, now_s=0.0)
    assert used_up is not None
    assert used_up.quota is Quota.TOKENS
    assert used_up.retry_after_s == pytest.approx(2.0), "at 300 per minute"
    buckets.share_among(1, 0.0)
    used_up = buckets.take(A, num_tokens=10.0, now_s=0.0)
    assert used_up is not None
    assert used_up.retry_after_s == pytest.approx(1.0)


def test_debts_are_not_shared_away() -> None:
    buckets = TenantBuckets(default=TenantLimit(tokens=60.0, burst_s=10.0))
    assert buckets.take(A, num_tokens=100.0, now_s=0.0) is None  # 90 in debt
    buckets.share_among(3, 0.0)
    debt = buckets.take(A, num_tokens=0.1, now_s=0.0)
    assert debt is not None
    assert debt.retry_after_s == pytest.approx(90.1 * 3.0)
