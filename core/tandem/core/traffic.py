"""What a router tells a controller: who came, what became of them, what waits; and what it is told in return."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.core.types import Outcome, PriorityClass


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """One request that is over. Times are None where the phase did not happen."""

    age_s: float  # since its end
    priority: PriorityClass
    outcome: Outcome
    new_tokens: int  # of the prompt, computed
    cached_tokens: int
    output_tokens: int  # over all sequences
    ttft_s: float | None = None
    tpot_s: float | None = None  # mean gap
    gap_p95_s: float | None = None  # 95th percentile of its gaps
    e2e_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """One request that is not over. What it will have written at its end is not known, only what bounds it."""

    age_s: float  # since it came
    priority: PriorityClass
    new_tokens: int  # of the prompt, to compute; all of it until something is known to be cached
    cached_tokens: int
    output_tokens: int  # so far, over all sequences
    max_output_tokens: int  # as its caller allows, over all sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReport:
    """The last ``window_s`` seconds of one router."""

    router_id: str
    window_s: float  # less than asked for when it is not up for so long, or forgot because of too many
    arrivals: Mapping[PriorityClass, tuple[float, ...]] = field(default_factory=dict)  # ages, oldest first
    ended: tuple[EndedRequest, ...] = ()  # oldest first
    open: tuple[OpenRequest, ...] = ()  # all that is under way, the newest few thousand of it; oldest first
    queued_work_s: float = 0.0  # predicted prefill time of what waits for a worker
    borrow_share: float = 0.0  # as it is followed now


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTargets:
    """What a class of requests is promised, in seconds; None = nothing."""

    ttft_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """What a controller of one term wants of a router. Only the share to borrow lapses.

    ``targets`` are those of the policy in force; empty = it promises nothing, the configured ones hold.
    ``num_routers`` serve callers, this one included; None = not known.
    """

    term: int
    borrow_share: float  # share of the prompts that decode workers compute themselves
    ttl_s: float
    targets: Mapping[PriorityClass, ClassTargets] = field(default_factory=dict)
    num_routers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """One record of the cluster's small shared memory. Versions count from 1 and never fall."""

    version: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of a conditional write: whether it took place, and what is stored now."""

    done: bool
    record: StoredRecord | None
