"""The error a caller gets for a refusal: its cause in words, the numbers, and when to come back. Pure."""

from typing import Final

from tandem.core.errors import Overloaded, QuotaExceeded, TandemError
from tandem.router.admission.buckets import Quota
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision

STAY_AWAY: Final = {"pushback": "-1"}
"""Error metadata of a caller that had better not try again by itself; becomes gRPC's negative pushback."""

_REASONS: Final = {
    AdmissionCause.BROWN_OUT: "BROWN_OUT",
    AdmissionCause.QUEUE_COUNT: "QUEUE_FULL",
    AdmissionCause.QUEUE_WAIT: "QUEUE_FULL",
    AdmissionCause.SLO: "SLO_UNREACHABLE",
    AdmissionCause.DEADLINE: "DEADLINE_UNREACHABLE",
    AdmissionCause.DISPLACED: "DISPLACED",
    AdmissionCause.LATE: "LATE",
}


def refusal(decision: AdmissionDecision) -> TandemError:
    """Return the error that a decision which does not take the request stands for."""
    if decision.cause.is_quota:
        quota = Quota.REQUESTS if decision.cause is AdmissionCause.REQUEST_RATE else Quota.TOKENS
        return QuotaExceeded(
            f"{decision.tenant} may ask for {decision.quota:g} {quota.value.replace('_', ' ')}",
            metadata={"quota": quota.value},
            retry_after_s=decision.retry_after_s,
        )
    return Overloaded(
        _words(decision),
        reason=_REASONS[decision.cause],
        metadata=STAY_AWAY if decision.retry_after_s is None else None,
        retry_after_s=decision.retry_after_s,
    )


def _words(decision: AdmissionDecision) -> str:
    forecast = decision.forecast
    wait_s = 0.0 if forecast is None else forecast.wait_s
    ttft_s = 0.0 if forecast is None else forecast.ttft_s
    match decision.cause:
        case AdmissionCause.BROWN_OUT:
            return f"at a load of {decision.load_level:.2f}, batch requests get one sequence; ask for n = 1"
        case AdmissionCause.QUEUE_COUNT:
            return f"{decision.num_queued} requests wait already"
        case AdmissionCause.QUEUE_WAIT:
            return f"the predicted wait is {wait_s:.1f} s; {decision.priority} requests may wait {decision.bound_s:g} s"
        case AdmissionCause.SLO:
            of = "" if decision.latest_s is None else f" of {decision.latest_s:.2f} s"
            limit = f"{_limit(decision)}{of}"
            return f"the first token is predicted after {ttft_s:.2f} s; {decision.priority} ones get {limit}"
        case AdmissionCause.DEADLINE:
            return f"the first token is predicted after {ttft_s:.2f} s; the deadline leaves {_limit(decision)}"
        case AdmissionCause.DISPLACED:
            return "its place in the queue was given to a more urgent request, or to a tenant with fewer waiting"
        case _:
            return f"it waited, and its first token can't come within {decision.latest_s or 0.0:.2f} s any more"


def _limit(decision: AdmissionDecision) -> str:
    return "any time" if decision.limit_s is None else f"{decision.limit_s:.2f} s"
