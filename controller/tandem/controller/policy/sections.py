"""The small sections of a policy: ratio, role switch, borrowing, budget, damping, sizing, stale metrics."""

from enum import StrEnum

import pydantic

from tandem.controller.policy.base import Duration, PolicyModel, RatioText, Seconds, complain, ratio_of


class RatioSection(PolicyModel):
    """Bounds on prefill to decode workers."""

    min: RatioText = "1:64"
    """Fewest prefill workers per decode worker, such as "1:4"."""
    max: RatioText = "64:1"
    """Most prefill workers per decode worker, such as "3:1"."""
    target: RatioText | None = None
    """Strategy Ratio: what to keep to."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "RatioSection":
        if ratio_of(self.min) > ratio_of(self.max):
            complain(("min",), f"must not be above ratio.max ({self.max}); swap the two", self.min)
        if self.target is not None and not ratio_of(self.min) <= ratio_of(self.target) <= ratio_of(self.max):
            complain(("target",), f"must lie within ratio.min..ratio.max ({self.min} to {self.max})", self.target)
        return self


class RoleSwitchSection(PolicyModel):
    """The second speed: a worker changes its role in place, after it has drained."""

    enabled: bool = True
    """Whether workers may change their roles."""
    max_workers: int = pydantic.Field(default=2, ge=1, le=16)
    """Most workers that one move switches, one after another."""


class BorrowSection(PolicyModel):
    """The first speed: decode workers compute prompts themselves while the prefill pool is short."""

    enabled: bool = True
    """Whether the router may be told to."""
    max_share: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Largest share of the prompts that decode workers compute."""


class BudgetSection(PolicyModel):
    """Accelerators of both pools together. `min` equal to `max` moves only the ratio."""

    min: float = pydantic.Field(default=0, ge=0)
    """Fewest; what exceeds the need goes where it helps most."""
    max: float = pydantic.Field(gt=0)
    """Most."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "BudgetSection":
        if self.min > self.max:
            complain(("min",), f"must not be above budget.max ({self.max:g}); lower it", self.min)
        return self


class DampingSection(PolicyModel):
    """What keeps the controller calm."""

    dead_band: float = pydantic.Field(default=0.1, ge=0, le=0.5)
    """A move must improve the worst class by this share of its target."""
    safety: float = pydantic.Field(default=0.8, gt=0, le=1)
    """Removing a worker must leave every prediction at or below this share of its target."""
    dwell_s: Duration = Seconds(30)
    """For how long a move must have been the right one before it is made."""
    cooldown_s: Duration = pydantic.Field(default=Seconds(60), ge=1)
    """Rest from the end of a move, or while promises are missed from its beginning, until the next one may begin."""
    reverse_dwell_s: Duration = Seconds(90)
    """For how long a switch that undoes the last one must have been right, within five cool-downs."""
    move_timeout_s: Duration = pydantic.Field(default=Seconds(900), ge=1)
    """When a move that does not end counts as failed."""


class SizingSection(PolicyModel):
    """How demand becomes a number of workers."""

    catch_up_s: Duration = pydantic.Field(default=Seconds(30), ge=1)
    """Within what time a backlog must be worked off, besides what arrives."""
    max_utilization: float = pydantic.Field(default=0.95, gt=0.1, lt=1)
    """Busy share that no pool is planned to exceed."""


class StaleAction(StrEnum):
    """What to do when nothing is known for long."""

    HOLD = "Hold"
    REPLICAS = "Replicas"


class FallbackCounts(PolicyModel):
    """Workers to have when nothing is known."""

    prefill: int = pydantic.Field(ge=1, le=4096)
    """Prefill workers."""
    decode: int = pydantic.Field(ge=1, le=4096)
    """Decode workers."""


class FallbackSection(PolicyModel):
    """What happens when metrics are stale, missing or not numbers: nothing moves."""

    stale_after_s: Duration = pydantic.Field(default=Seconds(15), gt=0)
    """Older metrics are not believed."""
    action: StaleAction = StaleAction.HOLD
    """`Hold`: nothing moves until metrics are back. `Replicas`: after `after`, pools smaller than `replicas` grow."""
    after_s: Duration = Seconds(600)
    """How long to hold before `Replicas`."""
    replicas: FallbackCounts | None = None
    """With action Replicas: grow to these; nothing is removed or switched blindly."""

    @pydantic.model_validator(mode="after")
    def _complete(self) -> "FallbackSection":
        if self.action is StaleAction.REPLICAS and self.replicas is None:
            complain(("action",), "needs fallback.replicas; add it, or use Hold", self.action.value)
        return self
