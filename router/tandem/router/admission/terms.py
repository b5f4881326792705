"""The terms of admission: what is asked, which knobs there are, what was decided and why. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.backlog import Backlog
from tandem.router.admission.buckets import TenantLimit
from tandem.router.admission.forecast import Forecast
from tandem.router.admission.pressure import BrownOut, BrownOutPolicy


class AdmissionCause(StrEnum):
    """Why a request was taken, or why it was not."""

    ROOM = "room"  # taken: nothing goes before it
    FITS = "fits"  # taken: it waits, and is predicted to be in time
    REQUEST_RATE = "request_rate"  # refused: its tenant's requests per minute
    TOKEN_RATE = "token_rate"  # refused: its tenant's tokens per minute
    BROWN_OUT = "brown_out"  # shed: batch requests for several sequences, near full load
    QUEUE_COUNT = "queue_count"  # shed: so many requests wait already
    QUEUE_WAIT = "queue_wait"  # shed: the predicted wait is above its class's bound
    SLO = "slo"  # shed: its first token would come after the time its class promises
    DEADLINE = "deadline"  # shed: … after its own deadline
    DISPLACED = "displaced"  # shed while it waited: its place was given to a more urgent or fairer request
    LATE = "late"  # shed while it waited: it can't be in time any more

    @property
    def is_taken(self) -> bool:
        """Whether the request may wait for a worker."""
        return self in (AdmissionCause.ROOM, AdmissionCause.FITS)

    @property
    def is_quota(self) -> bool:
        """Whether it is the tenant's own limit, whatever the load."""
        return self in (AdmissionCause.REQUEST_RATE, AdmissionCause.TOKEN_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """Knobs. Promised times are per class; a class that is not named promises none."""

    ttft_slo_s: Mapping[PriorityClass, float] = field(default_factory=dict)
    e2e_slo_s: Mapping[PriorityClass, float] = field(default_factory=dict)  # for whole answers
    follows_targets: bool = True  # what an autoscaling policy promises replaces the two above
    num_routers: int = 1  # that share the limits
    limits: Mapping[Tenant, TenantLimit] = field(default_factory=dict)
    default_limit: TenantLimit = field(default_factory=TenantLimit)
    brown_out: BrownOutPolicy = field(default_factory=BrownOutPolicy)
    batch_max_tokens: int = 1024
    slo_reserve: float = 0.15  # share of a promised time that is not planned with at the door
    deadline_reserve: float = 0.05  # … of what is left of a deadline
    yields: bool = True  # running batch requests give their place to interactive ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request at the door."""

    request_id: RequestId
    tenant: Tenant
    priority: PriorityClass
    attempt: int  # how often its caller has tried before
    need: Backlog  # what it brings along
    num_sequences: int
    limit_tokens: float  # what the tenant's token limit is charged
    deadline_left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionDecision:
    """One decision about one request, with the numbers behind it. Times in seconds."""

    request_id: RequestId
    tenant: Tenant
    priority: PriorityClass
    attempt: int
    cause: AdmissionCause
    cost_tokens: float
    num_queued: int
    load_level: float
    brown_out: BrownOut
    forecast: Forecast | None = None  # None: decided before any was made
    bound_s: float = 0.0  # on the wait, of the class
    limit_s: float | None = None  # on the predicted first token: SLO or deadline with reserve, whichever is shorter
    latest_s: float | None = None  # the same without the SLO's reserve: then it is too late
    quota: float | None = None  # per minute, when a tenant's limit is the cause
    retry_after_s: float | None = None  # None on a refusal: the caller had better not come back
    displaces: RequestId | None = None  # who loses its place for it

    @property
    def is_taken(self) -> bool:
        """Whether the request may wait for a worker."""
        return self.cause.is_taken
