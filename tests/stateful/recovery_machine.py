"""What recovery may spend on one request: the bounds, counted once more, under any order of failures and progress."""

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tandem.core import reasons
from tandem.router.recovery import (
    GAP,
    POISON,
    REFUSALS,
    Failure,
    GiveUp,
    PlaceAgain,
    RecoveryHistory,
    RecoveryPolicy,
    RetryBudget,
    decide,
)
from tests.stateful.running import require

POLICY = RecoveryPolicy()
SHARE, RESERVE = 0.5, 2.0
REASONS = [
    *sorted(REFUSALS),
    *(reasons.KV_TIMEOUT, reasons.KV_LEASE, reasons.KV_INTEGRITY, reasons.ENGINE, reasons.WORKER_LOST, GAP),
]


class RecoveryMachine(RuleBasedStateMachine):
    """One request after another draws on one budget. Subclasses choose ``decide``: production or a mutant."""

    decide: Callable[..., PlaceAgain | GiveUp] = staticmethod(decide)

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(share=SHARE, reserve=RESERVE)
        self.num_earned = self.num_charged = 0
        self.is_over = True

    @precondition(lambda self: self.is_over)
    @rule()
    def begin(self) -> None:
        self.budget.earn()
        self.num_earned += 1
        self.history = RecoveryHistory()
        self.is_over = False
        self.num_emitted = self.num_again = self.num_refused = self.num_unverified = 0
        self.num_stuck = 0  # continuations with hardly a token between them
        self.emitted_at_last = 0

    @precondition(lambda self: not self.is_over)
    @rule(num_tokens=st.sampled_from([1, 3, 15, 16, 40]))
    def emit(self, num_tokens: int) -> None:
        self.num_emitted += num_tokens

    @precondition(lambda self: not self.is_over)
    @rule(
        reason=st.sampled_from(REASONS),
        times=st.integers(1, 6),
        retryable=st.sampled_from([True] * 7 + [False]),
        condemned=st.sampled_from([False] * 9 + [True]),
    )
    def fail(self, reason: str, times: int, retryable: bool, condemned: bool) -> None:
        for _ in range(times):
            if not self.is_over:
                self._fail(reason, retryable=retryable, condemned=condemned)

    def _fail(self, reason: str, *, retryable: bool, condemned: bool) -> None:
        failure = Failure(reason=reason, retryable=retryable, lost=reason == reasons.WORKER_LOST)
        choice = type(self).decide(
            failure,
            history=self.history,
            condemned=condemned,
            num_emitted=self.num_emitted,
            policy=POLICY,
            budget=self.budget,
        )
        if isinstance(choice, GiveUp):
            self.is_over = True
            require(not condemned or choice.error.reason == POISON, "poison has another name")
            return
        require(retryable and not condemned, "what can't be tried again is")
        require(0.0 <= choice.delay_s <= POLICY.max_pause_s, "the pause grows without bound")
        self._count(reason)

    def _count(self, reason: str) -> None:
        if reason in REFUSALS:
            self.num_refused += 1
            require(self.num_refused <= POLICY.max_refusals, "refused without end")
            return
        if reason == reasons.KV_INTEGRITY:
            self.num_unverified += 1
            require(self.num_unverified <= POLICY.max_integrity_retries, "KV that does not verify is tried without end")
        if self.num_emitted:
            moved_on = self.num_emitted - self.emitted_at_last >= POLICY.moved_on_tokens
            self.num_stuck = 1 if moved_on else self.num_stuck + 1
            self.emitted_at_last = self.num_emitted
            require(self.num_stuck <= POLICY.max_continuations, "continued without end")
            return
        self.num_again += 1
        require(self.num_again <= POLICY.max_retries, "tried again without end")
        if reason not in (reasons.WORKER_LOST, reasons.ENGINE):
            self.num_charged += 1
            require(self.num_charged <= RESERVE + SHARE * self.num_earned + 1e-6, "retries can storm")
