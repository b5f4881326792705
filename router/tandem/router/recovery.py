"""What to do when an attempt can't go on: place it again, or end the request with a named error. Zero I/O.

Rules:
- *Poison*: a request that was in two crashes and is (nearly) the only suspect of both ends with ``POISON_REQUEST``; see
  ``suspects`` for how the blame is shared. A third worker is not risked for it.
- *Refusals* (no blocks, no slot, draining) say nothing about the request: tried again with a growing pause.
- *Before the first token*: at most two silent retries, within the deadline and the router's retry budget.
- *After the first token*: continued from the emitted tokens; the client sees a pause.
- KV that did not verify is tried once more, then shown as ``KV_INTEGRITY``.
- After a failed *hand-over* another pair is tried, after a pause in which the router hears whether one side died.
A retry because a worker died or its forward step raised is not charged to the budget: crashes are rare and bounded by
the poison rule, and a dying worker must not take half of its streams with it. Continuations are counted anew once the
stream has moved on: a long answer may outlive many workers.
"""

from dataclasses import dataclass, field
from typing import Final

from tandem.core import reasons
from tandem.core.errors import (
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    KvIntegrity,
    Overloaded,
    TandemError,
    Unavailable,
)
from tandem.router.suspects import SuspicionPolicy

POISON: Final = "POISON_REQUEST"
GAP: Final = "TOKENS_MISSING"
REFUSALS: Final = frozenset(
    {reasons.NO_BLOCKS, reasons.NO_SLOT, reasons.DRAINING, reasons.WRONG_ROLE, reasons.KV_NOT_HELD}
)
"""The worker took nothing on, which says nothing about the request."""

PAIR_FAILURES: Final = frozenset(
    {
        reasons.KV_TIMEOUT,
        reasons.KV_PEER_LOST,
        reasons.KV_INTEGRITY,
        reasons.KV_PREFIX,
        reasons.KV_PROTOCOL,
        reasons.KV_LAYOUT,
    }
)
"""What a failed hand-over says about the pair."""

REUSABLE: Final = (REFUSALS | {reasons.KV_TIMEOUT, reasons.KV_PEER_LOST, reasons.KV_PREFIX}) - {reasons.KV_NOT_HELD}
"""Failures of D after which what P has computed is as good as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """Bounds on what recovery may spend on one request."""

    max_retries: int = 2
    max_continuations: int = 4
    max_refusals: int = 12
    max_integrity_retries: int = 1
    first_pause_s: float = 0.02
    max_pause_s: float = 1.0
    handover_pause_s: float = 0.05
    moved_on_tokens: int = 16
    suspicion: SuspicionPolicy = field(default_factory=SuspicionPolicy)


class RetryBudget:
    """Tokens for retries that are not caused by a death: earned by admitted requests, so that retries can't storm."""

    def __init__(self, *, share: float = 0.1, reserve: float = 10.0) -> None:
        self._share = share
        self._most = max(reserve, 1.0)
        self._left = self._most

    @property
    def left(self) -> float:
        """Retries that may be made now."""
        return self._left

    def earn(self) -> None:
        """Count one admitted request."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Take one retry; False when the budget is used up."""
        if self._left < 1.0 - 1e-9:  # ten times a tenth is a little less than one
            return False
        self._left -= 1.0
        return True


@dataclass(slots=True, kw_only=True)
class RecoveryHistory:
    """What one request has been through; the ledger owns it."""

    num_retries: int = 0
    num_continuations: int = 0
    num_emitted: int = 0  # at the last continuation
    num_refusals: int = 0
    num_integrity_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt can't go on."""

    reason: str
    retryable: bool
    lost: bool = False  # the worker died or its stream broke
    held: bool = False  # only the hand-over failed: P still has what it computed


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceAgain:
    """Make another attempt after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End the request with ``error``."""

    error: TandemError


def decide(
    failure: Failure,
    *,
    history: RecoveryHistory,
    condemned: bool,
    num_emitted: int,
    policy: RecoveryPolicy,
    budget: RetryBudget,
) -> PlaceAgain | GiveUp:
    """Choose, and write the choice into ``history``."""
    if condemned:
        return GiveUp(error=poison_error())
    if not failure.retryable:
        return GiveUp(error=error_for(failure.reason))
    if failure.reason in REFUSALS:
        history.num_refusals += 1
        if history.num_refusals > policy.max_refusals:
            return GiveUp(error=error_for(failure.reason))
        pause_s = policy.first_pause_s * 2.0 ** (history.num_refusals - 1)
        return PlaceAgain(delay_s=min(pause_s, policy.max_pause_s))
    if failure.reason == reasons.KV_INTEGRITY:
        history.num_integrity_failures += 1
        if history.num_integrity_failures > policy.max_integrity_retries:
            return GiveUp(error=error_for(failure.reason))
    if num_emitted:
        if num_emitted - history.num_emitted >= policy.moved_on_tokens:
            history.num_continuations = 0
        history.num_emitted = num_emitted
        history.num_continuations += 1
        allowed = history.num_continuations <= policy.max_continuations
    else:
        history.num_retries += 1
        is_crash = failure.lost or failure.reason == reasons.ENGINE
        allowed = history.num_retries <= policy.max_retries and (is_crash or budget.spend())
    if not allowed:
        return GiveUp(error=error_for(failure.reason))
    return PlaceAgain(delay_s=policy.handover_pause_s if failure.reason in PAIR_FAILURES else 0.0)


def poison_error() -> TandemError:
    """Return the error of a request that is condemned."""
    return InternalError("workers crashed each time they ran this request; it is not tried again", reason=POISON)


_MISCONFIGURED: Final = {
    reasons.KV_LAYOUT: "the prefill and the decode workers store KV differently: run all with one model revision and "
    "one engine configuration",
    reasons.KV_PREFIX: "the prefill and the decode workers name cached blocks differently: give all the same prefix "
    "cache secret and public prefixes",
}
"""Refusals that only the operator can mend, and how."""


def error_for(reason: str) -> TandemError:
    """Return the error a client sees for a failed attempt: a fixed text, never what the worker wrote."""
    if reason == reasons.KV_INTEGRITY:
        return KvIntegrity("the KV cache handed over did not verify")
    if reason == reasons.TOO_LARGE:
        return InvalidArgument(
            "prompt",
            "does not fit the KV cache of any worker",
            remedy="shorten it or ask for fewer tokens",
            reason=reason,
        )
    if reason == reasons.NUMERICS:
        return InternalError("the model's output was not a number", reason=reason)
    if reason in (reasons.WORKER_LOST, reasons.KV_PEER_LOST, GAP):
        return Unavailable("the worker that ran this request was lost", reason=reasons.WORKER_LOST, retry_after_s=1.0)
    if reason in (reasons.KV_TIMEOUT, reasons.KV_LEASE):
        return Unavailable("the KV cache could not be handed over in time", reason=reason, retry_after_s=1.0)
    if reason in _MISCONFIGURED:
        return FailedPrecondition(_MISCONFIGURED[reason], reason=reason)
    if reason in REFUSALS:
        return Overloaded("every worker refused the request", reason=reason, retry_after_s=1.0)
    return InternalError("the request failed on a worker", reason=reason or reasons.ENGINE)
