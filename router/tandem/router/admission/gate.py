"""The decision at the door: limits, brown-out, room, wait, first token. Pure but for its own counters; zero I/O.

Every request gets one ``AdmissionDecision``. A decision that is no refusal reserves nothing yet: what is waiting is
counted as waiting, and slot, blocks and prompt are reserved when the request is dispatched (late binding, see
``placement``), until its attempt ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tandem.core.ids import RequestId
from tandem.core.traffic import ClassTargets
from tandem.core.types import PriorityClass
from tandem.router.admission.backlog import Backlog
from tandem.router.admission.buckets import Quota, TenantBuckets
from tandem.router.admission.errors import RollingError
from tandem.router.admission.forecast import MARGIN, Forecast, Pools, forecast
from tandem.router.admission.pressure import BrownOut, LoadLevel, ShedRate
from tandem.router.admission.shedding import pushback_s
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision, AdmissionPolicy, Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The queue, as one newcomer finds it."""

    num_queued: int
    max_count: int
    bound_s: float  # on the wait, of the newcomer's class
    ahead: Backlog
    displaceable: RequestId | None  # who would lose its place to it, if there is none left


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """On one request's time to the first token, from now. Between the two lies what predictions may be wrong by."""

    planned_s: float | None  # taken only if it is predicted before this
    latest_s: float | None  # of no use after this
    is_slo: bool  # the class's promise is the shorter one, not the caller's deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    cause: AdmissionCause
    displaces: RequestId | None = None


class AdmissionGate:
    """All that admission remembers: buckets, prediction error, load level, refusal rate."""

    def __init__(self, policy: AdmissionPolicy) -> None:
        self.policy = self._configured = policy
        self.buckets = TenantBuckets(limits=policy.limits, default=policy.default_limit, num_routers=policy.num_routers)
        self.load = LoadLevel(policy.brown_out)
        self.error = RollingError(most_s=_most_error_s(policy.ttft_slo_s))
        self._rate = ShedRate()

    def follow(self, targets: Mapping[PriorityClass, ClassTargets]) -> None:
        """Promise what a policy promises, no more and no less; without any target, what was configured."""
        if not self._configured.follows_targets:
            return
        ttft_slo_s = {name: each.ttft_s for name, each in targets.items() if each.ttft_s is not None}
        e2e_slo_s = {name: each.e2e_s for name, each in targets.items() if each.e2e_s is not None}
        if not ttft_slo_s and not e2e_slo_s:
            ttft_slo_s, e2e_slo_s = dict(self._configured.ttft_slo_s), dict(self._configured.e2e_slo_s)
        self.policy = replace(self.policy, ttft_slo_s=ttft_slo_s, e2e_slo_s=e2e_slo_s)
        self.error.bound(_most_error_s(ttft_slo_s))

    def decide(self, ask: Ask, *, waiting: Waiting, pools: Pools, now_s: float) -> AdmissionDecision:
        """Decide about a newcomer. What is refused is not charged to its token limit."""
        quota = self.buckets.take(ask.tenant, num_tokens=ask.limit_tokens, now_s=now_s)
        if quota is not None:
            cause = AdmissionCause.REQUEST_RATE if quota.quota is Quota.REQUESTS else AdmissionCause.TOKEN_RATE
            return self._decision(ask, waiting, cause=cause, retry_after_s=quota.retry_after_s, quota=quota.limit)
        predicted = forecast(ask.need, ahead=waiting.ahead, pools=pools, error_s=self.error.p95_s(now_s))
        limits = self.limits(
            ask.priority, ask.deadline_left_s, after_first_s=max(pools.residence_s - ask.need.work_s, 0.0)
        )
        verdict = self._judge(ask, waiting, predicted, limits)
        self._rate.note(shed=not verdict.cause.is_taken, now_s=now_s)
        if not verdict.cause.is_taken:
            self.buckets.settle(ask.tenant, -ask.limit_tokens, now_s)
        return self._decision(
            ask,
            waiting,
            cause=verdict.cause,
            forecast=predicted,
            limits=limits,
            retry_after_s=None
            if verdict.cause.is_taken
            else self.pushback(ask.request_id, ask.priority, wait_s=predicted.wait_s, attempt=ask.attempt, now_s=now_s),
            displaces=verdict.displaces,
        )

    def pushback(
        self, request_id: RequestId, priority: PriorityClass, *, wait_s: float, attempt: int, now_s: float
    ) -> float | None:
        """Return when a shed caller may come back; None: batch stays away while most requests are refused."""
        if priority is PriorityClass.BATCH and self._rate.is_storm(now_s):
            return None
        return pushback_s(request_id, wait_s=wait_s, attempt=attempt)

    def shed_after_all(
        self, request_id: RequestId, priority: PriorityClass, *, wait_s: float, attempt: int, now_s: float
    ) -> float | None:
        """One that was taken is shed while it waits: count it as refused; return when it may come back, as above."""
        self._rate.note_shed_after_all(now_s)
        return self.pushback(request_id, priority, wait_s=wait_s, attempt=attempt, now_s=now_s)

    def limits(self, priority: PriorityClass, deadline_left_s: float | None, *, after_first_s: float = 0.0) -> Limits:
        """The class's SLO or most of what is left of the deadline, whichever is shorter.

        ``after_first_s`` is how long an answer goes on after its first token: so much sooner than a whole answer is
        promised its first token has to come.
        """
        policy, slo_s = self.policy, self.policy.ttft_slo_s.get(priority)
        whole_s = policy.e2e_slo_s.get(priority)
        if whole_s is not None:
            slo_s = _earlier(slo_s, max(whole_s - after_first_s, 0.0))
        deadline_s = None if deadline_left_s is None else deadline_left_s * (1.0 - policy.deadline_reserve)
        planned_s = None if slo_s is None else slo_s * (1.0 - policy.slo_reserve)
        return Limits(
            planned_s=_earlier(planned_s, deadline_s),
            latest_s=_earlier(slo_s, deadline_s),
            is_slo=planned_s is not None and (deadline_s is None or planned_s < deadline_s),
        )

    def observe_load(self, everything: Backlog, pools: Pools, *, bound_s: float, now_s: float) -> None:
        """Take the demand of all that waits or runs, over what both stages have."""
        self.load.observe(load_level(everything, pools, bound_s=bound_s), now_s)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _judge(self, ask: Ask, waiting: Waiting, predicted: Forecast, limits: Limits) -> _Verdict:
        is_batch = ask.priority is PriorityClass.BATCH
        if is_batch and ask.num_sequences > 1 and self.load.step >= BrownOut.ONE_SEQUENCE:
            return _Verdict(cause=AdmissionCause.BROWN_OUT)
        displaces = waiting.displaceable if waiting.num_queued >= waiting.max_count else None
        if waiting.num_queued >= waiting.max_count and displaces is None:
            return _Verdict(cause=AdmissionCause.QUEUE_COUNT)
        if waiting.ahead.cost_tokens <= 0.0 and waiting.ahead.num_sequences <= 0.0:
            # Nothing but what runs goes before it. To refuse it too would leave a place empty when predictions are
            # wrong, and no first token would come to mend them.
            return _Verdict(cause=AdmissionCause.ROOM, displaces=displaces)
        if predicted.wait_s > waiting.bound_s:
            return _Verdict(cause=AdmissionCause.QUEUE_WAIT)
        if limits.planned_s is not None and predicted.ttft_s > limits.planned_s:
            return _Verdict(cause=AdmissionCause.SLO if limits.is_slo else AdmissionCause.DEADLINE)
        return _Verdict(cause=AdmissionCause.FITS, displaces=displaces)

    def _decision(
        self,
        ask: Ask,
        waiting: Waiting,
        *,
        cause: AdmissionCause,
        forecast: Forecast | None = None,
        limits: Limits | None = None,
        retry_after_s: float | None = None,
        quota: float | None = None,
        displaces: RequestId | None = None,
    ) -> AdmissionDecision:
        return AdmissionDecision(
            request_id=ask.request_id,
            tenant=ask.tenant,
            priority=ask.priority,
            attempt=ask.attempt,
            cause=cause,
            cost_tokens=ask.need.cost_tokens,
            num_queued=waiting.num_queued,
            load_level=self.load.level,
            brown_out=self.load.step,
            forecast=forecast,
            bound_s=waiting.bound_s,
            limit_s=None if limits is None else limits.planned_s,
            latest_s=None if limits is None else limits.latest_s,
            retry_after_s=retry_after_s,
            quota=quota,
            displaces=displaces,
        )


def _earlier(first_s: float | None, second_s: float | None) -> float | None:
    return min((s for s in (first_s, second_s) if s is not None), default=None)


def is_too_late(*, waited_s: float, prefill_s: float, limit_s: float) -> bool:
    """Whether a request that is to be dispatched now would miss its first token's limit even so."""
    return waited_s + MARGIN * prefill_s > limit_s


def load_level(everything: Backlog, pools: Pools, *, bound_s: float) -> float:
    """Demand over capacity of the fuller stage; the prefill stage is full when its wait has come to ``bound_s``."""
    used_slots = pools.total_slots - pools.free_slots + everything.num_sequences
    used_blocks = pools.total_blocks - pools.free_blocks + everything.kv_tokens / max(pools.block_size, 1)
    wait_s = (everything.work_s + pools.queued_prefill_s) / max(pools.num_servers, 1)
    return max(
        used_slots / pools.total_slots if pools.total_slots else 0.0,
        used_blocks / pools.total_blocks if pools.total_blocks else 0.0,
        wait_s / bound_s if pools.num_servers else 0.0,
    )


def _most_error_s(slos: Mapping[PriorityClass, float]) -> float:
    """Half of the shortest promise: an error above it would refuse everybody that has to wait at all."""
    return 0.5 * min(slos.values(), default=4.0)
