"""The gate's decisions, and the errors that callers get for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import Overloaded, QuotaExceeded
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.backlog import NOTHING, Backlog
from tandem.router.admission.buckets import TenantLimit
from tandem.router.admission.forecast import Pools
from tandem.router.admission.gate import AdmissionGate, Waiting, is_too_late, load_level
from tandem.router.admission.pressure import BrownOut
from tandem.router.admission.refusals import refusal
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision, AdmissionPolicy, Ask

INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH
NEED = Backlog(cost_tokens=200.0, work_s=0.2, num_sequences=1, kv_tokens=160)


def pools(*, free_slots: int = 8, num_servers: int = 1) -> Pools:
    return Pools(
        num_servers=num_servers,
        queued_prefill_s=0.0,
        free_slots=free_slots,
        total_slots=8,
        free_blocks=1000,
        total_blocks=1000,
        block_size=16,
        residence_s=4.0,
    )


def ask(
    *,
    priority: PriorityClass = STANDARD,
    deadline_left_s: float | None = None,
    attempt: int = 0,
    n: int = 1,
    name: str = "r",
    tokens: float = 200.0,
) -> Ask:
    return Ask(
        request_id=RequestId(name),
        tenant=Tenant("a"),
        priority=priority,
        attempt=attempt,
        need=NEED,
        num_sequences=n,
        limit_tokens=tokens,
        deadline_left_s=deadline_left_s,
    )


def waiting(
    *, work_s: float = 0.0, num_queued: int = 0, bound_s: float = 30.0, displaceable: str | None = None
) -> Waiting:
    ahead = (
        Backlog(cost_tokens=1000.0 * work_s, work_s=work_s, num_sequences=work_s, kv_tokens=0) if work_s else NOTHING
    )
    return Waiting(
        num_queued=num_queued,
        max_count=100,
        bound_s=bound_s,
        ahead=ahead,
        displaceable=None if displaceable is None else RequestId(displaceable),
    )


def decide(
    gate: AdmissionGate, asked: Ask, found: Waiting, *, of: Pools | None = None, now_s: float = 0.0
) -> AdmissionDecision:
    return gate.decide(asked, waiting=found, pools=of or pools(), now_s=now_s)


def test_who_finds_nothing_ahead_is_always_taken() -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 0.001}))
    decision = decide(gate, ask(deadline_left_s=0.01), waiting(bound_s=0.001), of=pools(free_slots=0))
    assert decision.cause is AdmissionCause.ROOM
    assert decision.forecast is not None
    assert decision.forecast.slot_wait_s > 0.0


def test_the_bound_is_in_seconds_of_work_and_more_workers_halve_it() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    refused = decide(gate, ask(), waiting(work_s=40.0), of=pools(free_slots=100))
    assert refused.cause is AdmissionCause.QUEUE_WAIT
    assert refused.retry_after_s == pytest.approx(30.0, rel=0.2)
    taken = decide(gate, ask(), waiting(work_s=40.0), of=pools(free_slots=100, num_servers=2))
    assert taken.cause is AdmissionCause.FITS


def test_the_decode_stage_counts_too() -> None:
    """A queue limit in prefill seconds alone lets requests in that then wait for a slot."""
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 2.0}))
    assert decide(gate, ask(), waiting(work_s=1.0)).cause is AdmissionCause.FITS
    full = decide(gate, ask(), waiting(work_s=1.0, num_queued=1), of=pools(free_slots=-3))
    assert full.cause is AdmissionCause.SLO


def test_a_deadline_that_will_be_missed_is_refused_at_once() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    assert decide(gate, ask(deadline_left_s=2.0), waiting(work_s=1.0)).cause is AdmissionCause.FITS
    late = decide(gate, ask(deadline_left_s=1.4), waiting(work_s=1.0))
    assert late.cause is AdmissionCause.DEADLINE
    assert late.limit_s == pytest.approx(1.33)
    error = refusal(late)
    assert isinstance(error, Overloaded)
    assert error.reason == "DEADLINE_UNREACHABLE"
    assert "1.38 s" in error.message


def test_predictions_that_were_wrong_make_the_next_ones_careful() -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: 2.0}))
    assert decide(gate, ask(), waiting(work_s=1.0)).cause is AdmissionCause.FITS
    for _ in range(20):
        gate.error.observe(predicted_s=1.0, actual_s=1.9, now_s=0.0)
    assert decide(gate, ask(), waiting(work_s=1.0)).cause is AdmissionCause.SLO
    assert decide(gate, ask(), waiting(work_s=1.0), now_s=60.0).cause is AdmissionCause.FITS


def test_a_full_queue_takes_a_newcomer_only_for_somebody_else() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    full = decide(gate, ask(), waiting(work_s=1.0, num_queued=100))
    assert full.cause is AdmissionCause.QUEUE_COUNT
    taken = decide(gate, ask(), waiting(work_s=1.0, num_queued=100, displaceable="x"))
    assert taken.is_taken
    assert taken.displaces == "x"
    assert decide(gate, ask(), waiting(work_s=1.0, num_queued=99, displaceable="x")).displaces is None


def test_a_tenants_own_limit_is_told_apart_and_what_is_refused_for_load_costs_no_tokens() -> None:
    gate = AdmissionGate(AdmissionPolicy(limits={Tenant("a"): TenantLimit(tokens=600.0)}))
    for _ in range(10):
        assert decide(gate, ask(), waiting(work_s=99.0)).cause is AdmissionCause.QUEUE_WAIT
    assert [decide(gate, ask(), waiting()).cause for _ in range(4)] == [AdmissionCause.ROOM] * 3 + [
        AdmissionCause.TOKEN_RATE
    ]
    error = refusal(decide(gate, ask(), waiting()))
    assert isinstance(error, QuotaExceeded)
    assert error.metadata["quota"] == "tokens_per_minute"
    assert error.retry_after_s == pytest.approx(20.0)
    assert "600 tokens per minute" in error.message


def test_every_attempt_of_a_caller_counts_against_its_requests_per_minute() -> None:
    gate = AdmissionGate(AdmissionPolicy(default_limit=TenantLimit(requests=2.0)))
    causes = [decide(gate, ask(attempt=i), waiting(work_s=99.0)).cause for i in range(3)]
    assert causes == [AdmissionCause.QUEUE_WAIT, AdmissionCause.QUEUE_WAIT, AdmissionCause.REQUEST_RATE]


def test_batch_for_several_sequences_waits_for_better_days() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    for now_s in (0.0, 100.0):
        gate.observe_load(NOTHING, pools(free_slots=0), bound_s=10.0, now_s=now_s)
    assert gate.load.step >= BrownOut.ONE_SEQUENCE
    refused = decide(gate, ask(priority=BATCH, n=2), waiting())
    assert refused.cause is AdmissionCause.BROWN_OUT
    assert refusal(refused).reason == "BROWN_OUT"
    assert decide(gate, ask(priority=BATCH), waiting()).is_taken
    assert decide(gate, ask(n=2), waiting()).is_taken


def test_in_a_storm_of_refusals_batch_is_told_to_stay_away() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    for tenth in range(300):
        decide(gate, ask(), waiting(work_s=99.0), now_s=tenth / 10)
    assert decide(gate, ask(), waiting(work_s=99.0), now_s=30.0).retry_after_s is not None
    away = decide(gate, ask(priority=BATCH), waiting(work_s=999.0), now_s=30.0)
    assert away.retry_after_s is None
    assert refusal(away).metadata["pushback"] == "-1"


def test_later_attempts_are_sent_further_away() -> None:
    gate = AdmissionGate(AdmissionPolicy())
    waits = [decide(gate, ask(attempt=i), waiting(work_s=40.0, bound_s=1.0)).retry_after_s for i in range(3)]
    quick = [decide(gate, ask(attempt=i), waiting(work_s=2.0, bound_s=1.0)).retry_after_s for i in range(3)]
    assert all(wait is not None and 24.0 <= wait <= 36.0 for wait in waits)
    first, second, third = quick
    assert first is not None
    assert second == pytest.approx(2 * first)
    assert third == pytest.approx(4 * first)


@given(
    work_s=st.floats(0.0, 100.0),
    num_queued=st.integers(0, 200),
    slo_s=st.floats(0.01, 60.0),
    deadline_s=st.none() | st.floats(0.0, 60.0),
    free=st.integers(0, 8),
)
def test_who_is_taken_behind_others_is_predicted_to_be_in_time(
    work_s: float, num_queued: int, slo_s: float, deadline_s: float | None, free: int
) -> None:
    gate = AdmissionGate(AdmissionPolicy(ttft_slo_s={STANDARD: slo_s}))
    decision = decide(
        gate,
        ask(deadline_left_s=deadline_s),
        waiting(work_s=work_s, num_queued=num_queued),
        of=pools(free_slots=free),
    )
    assert decision.forecast is not None
    if decision.cause is AdmissionCause.FITS:
        assert num_queued < 100
        assert decision.forecast.wait_s <= 30.0
        assert decision.forecast.ttft_s <= 0.85 * slo_s
        assert deadline_s is None or decision.forecast.ttft_s <= deadline_s
    elif decision.cause is not AdmissionCause.ROOM:
        assert decision.retry_after_s is not None
        assert 0.4 <= decision.retry_after_s <= 36.0
        assert refusal(decision).retry_after_s == decision.retry_after_s


@pytest.mark.parametrize("cause", [cause for cause in AdmissionCause if not cause.is_taken])
def test_every_refusal_says_why(cause: AdmissionCause) -> None:
    gate = AdmissionGate(AdmissionPolicy())
    seen = decide(gate, ask(), waiting(work_s=99.0))
    decision = AdmissionDecision(
        request_id=seen.request_id,
        tenant=seen.tenant,
        priority=seen.priority,
        attempt=0,
        cause=cause,
        cost_tokens=1.0,
        num_queued=7,
        load_level=0.5,
        brown_out=BrownOut.NONE,
        quota=5.0,
        limit_s=1.0,
        retry_after_s=2.0,
    )
    error = refusal(decision)
    assert error.retryable
    assert error.message
    assert error.reason == error.reason.upper()
    assert error.retry_after_s == 2.0


def test_late_is_when_not_even_its_own_prefill_fits() -> None:
    assert not is_too_late(waited_s=1.0, prefill_s=0.5, limit_s=2.0)
    assert is_too_late(waited_s=1.5, prefill_s=0.5, limit_s=2.0)


def test_the_load_is_that_of_the_fuller_stage() -> None:
    assert load_level(NOTHING, pools(), bound_s=10.0) == 0.0
    assert load_level(NOTHING, pools(free_slots=2), bound_s=10.0) == pytest.approx(0.75)
    assert load_level(Backlog(work_s=5.0, num_sequences=1), pools(free_slots=2), bound_s=10.0) == pytest.approx(0.875)
    assert load_level(Backlog(work_s=20.0), pools(), bound_s=10.0) == pytest.approx(2.0)
