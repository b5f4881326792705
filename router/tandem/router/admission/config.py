"""Configuration of admission."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from tandem.core.config.model import ConfigModel
from tandem.core.ids import Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.buckets import TenantLimit
from tandem.router.admission.pressure import BrownOutPolicy
from tandem.router.admission.terms import AdmissionPolicy

Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]
PerMinute = Annotated[float, Field(gt=0.0, le=1e9)]
Level = Annotated[float, Field(gt=0.0, le=10.0)]


class LimitSection(ConfigModel):
    """What one tenant may ask for."""

    requests_per_minute: PerMinute | None = None
    """Requests, each attempt of a caller counted; nothing = no limit."""
    tokens_per_minute: PerMinute | None = None
    """Tokens of prompts and answers; nothing = no limit."""
    burst_s: Seconds = 60.0
    """How much may come at once, in seconds of the rates."""

    def limit(self) -> TenantLimit:
        """The buckets' own form of this section."""
        return TenantLimit(requests=self.requests_per_minute, tokens=self.tokens_per_minute, burst_s=self.burst_s)


class AdmissionSection(ConfigModel):
    """Which requests are taken. Bounds on waiting are in `router.queue`."""

    interactive_ttft_s: Seconds | None = None
    """Promised time to the first token: interactive requests that would miss it are refused; nothing = no promise.

    Holds until an autoscaling policy with SLO classes is in force; then those do.
    """
    standard_ttft_s: Seconds | None = None
    """The same for standard requests."""
    batch_ttft_s: Seconds | None = None
    """The same for batch requests."""
    ttft_reserve: Annotated[float, Field(ge=0.0, le=0.9)] = 0.15
    """Share of a promised time that is not planned with: a request is taken if it is predicted to be so much sooner."""
    follow_policy: bool = True
    """The SLO classes of the autoscaling policy in force are what requests are promised, instead of the three above."""
    num_routers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Routers that share each tenant's limits, until a controller tells how many there are."""
    tenant_limits: Mapping[Tenant, LimitSection] = Field(default_factory=dict)
    """Limits of single tenants."""
    default_limit: LimitSection = Field(default_factory=LimitSection)
    """Limits of each tenant that is not named."""
    brown_out_levels: tuple[Level, Level, Level] = (0.8, 0.9, 1.0)
    """Load from which on batch answers are capped, batch requests get one sequence, nothing is pinned in caches."""
    brown_out_batch_tokens: Annotated[int, Field(ge=1)] = 1024
    """Most output tokens of a batch answer meanwhile."""
    batch_yields: bool = True
    """Running batch requests give their place to interactive ones, each at most once."""

    def policy(self) -> AdmissionPolicy:
        """The gate's own form of this section."""
        promised = {
            PriorityClass.INTERACTIVE: self.interactive_ttft_s,
            PriorityClass.STANDARD: self.standard_ttft_s,
            PriorityClass.BATCH: self.batch_ttft_s,
        }
        return AdmissionPolicy(
            ttft_slo_s={priority: seconds for priority, seconds in promised.items() if seconds is not None},
            follows_targets=self.follow_policy,
            num_routers=self.num_routers,
            slo_reserve=self.ttft_reserve,
            limits={tenant: section.limit() for tenant, section in self.tenant_limits.items()},
            default_limit=self.default_limit.limit(),
            brown_out=BrownOutPolicy(levels=self.brown_out_levels),
            batch_max_tokens=self.brown_out_batch_tokens,
            yields=self.batch_yields,
        )
