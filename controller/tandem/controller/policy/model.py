"""The model of an `AutoscalingPolicy` file. No I/O; the loader is `tandem.core.config.yaml_file`."""

from enum import StrEnum
from typing import Annotated, Literal

import pydantic

from tandem.controller.policy import checks
from tandem.controller.policy.base import Duration, PolicyModel, Seconds, complain
from tandem.controller.policy.bounds import Bounds, Split, bounds_of, fixed_split
from tandem.controller.policy.pools import PoolsSection
from tandem.controller.policy.predictor import PredictorKind, PredictorSection
from tandem.controller.policy.schedule import Schedule
from tandem.controller.policy.sections import (
    BorrowSection,
    BudgetSection,
    DampingSection,
    FallbackSection,
    RatioSection,
    RoleSwitchSection,
    SizingSection,
)
from tandem.controller.policy.slo import ClassesSection

Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Mode(StrEnum):
    """How far the controller may go."""

    AUTO = "Auto"
    ADVISORY = "Advisory"
    OFF = "Off"


class Strategy(StrEnum):
    """What the number of workers follows."""

    SLO = "Slo"
    LOAD = "Load"
    RATIO = "Ratio"
    FIXED = "Fixed"


class PolicyMetadata(PolicyModel):
    """Which policy this is."""

    name: Name
    """Name in decisions; lower-case letters, digits and dashes."""


class PolicySpec(PolicyModel):
    """What is wanted."""

    mode: Mode = Mode.AUTO
    """`Auto`: decide and act. `Advisory`: decide, write down, do nothing. `Off`: do not decide."""
    strategy: Strategy = Strategy.SLO
    """`Slo`: the latency model says what the promises need. `Load`: thresholds. `Ratio`: a fixed ratio.
    `Fixed`: fixed counts."""
    interval_s: Duration = pydantic.Field(default=Seconds(5), ge=0.1, le=600)
    """Time between two decisions."""
    classes: ClassesSection = ClassesSection()
    """What each class of requests is promised."""
    pools: PoolsSection
    """Bounds and behaviour of both pools."""
    ratio: RatioSection = RatioSection()
    """Bounds on prefill to decode workers."""
    role_switch: RoleSwitchSection = RoleSwitchSection()
    """Changing roles in place."""
    borrow: BorrowSection = BorrowSection()
    """Prompts computed by decode workers."""
    budget: BudgetSection | None = None
    """Accelerators of both pools together; not set = the pools' own bounds."""
    damping: DampingSection = DampingSection()
    """What keeps the controller calm."""
    sizing: SizingSection = SizingSection()
    """How demand becomes a number of workers."""
    predictor: PredictorSection = PredictorSection()
    """Forecast of the request rate."""
    schedules: tuple[Schedule, ...] = ()
    """Times at which other bounds hold."""
    fallback: FallbackSection = FallbackSection()
    """What happens when metrics are stale."""

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> "PolicySpec":
        if self.strategy is Strategy.SLO and not self.classes.promises():
            problem = "strategy Slo needs a promise: add one under spec.classes, or use Load"
            complain(("strategy",), problem, self.strategy.value)
        if self.strategy is Strategy.RATIO and self.ratio.target is None:
            complain(("strategy",), "strategy Ratio needs spec.ratio.target; add it", self.strategy.value)
        checks.check_role_switch(self.role_switch, self.pools)
        checks.check_some_split_is_allowed(self.pools, self.ratio, self.budget)
        if self.strategy is Strategy.FIXED:
            checks.check_fixed(self.pools, self.bounds_during(()))
        self._check_schedules()
        checks.check_fallback(self.fallback, self.bounds_during(()), self.interval_s)
        season_s = self.predictor.holt_winters.season_length_s
        if self.predictor.kind is PredictorKind.HOLT_WINTERS and 0 < season_s < 4 * self.interval_s:
            complain(("predictor", "holtWinters", "seasonLength"), "must be at least four intervals; raise it", None)
        return self

    def _check_schedules(self) -> None:
        names: set[str] = set()
        for index, schedule in enumerate(self.schedules):
            if schedule.name in names:
                complain(("schedules", index, "name"), "is used by an earlier schedule; choose another", schedule.name)
            names.add(schedule.name)
            checks.check_schedule(index, schedule, self.pools, self.ratio, self.budget)

    def active_schedules(self, unix_s: float) -> tuple[Schedule, ...]:
        """Return the schedules that hold at a point in time, in the order of the file."""
        return tuple(schedule for schedule in self.schedules if schedule.is_active(unix_s))

    def bounds_during(self, schedules: tuple[Schedule, ...]) -> Bounds:
        """Return the allowed splits while ``schedules`` are active."""
        return bounds_of(self.pools, self.ratio, self.budget, schedules)

    def bounds_at(self, unix_s: float) -> Bounds:
        """Return the allowed splits at a point in time. Should several schedules leave none, the last counts alone."""
        active = self.active_schedules(unix_s)
        together = self.bounds_during(active)
        return self.bounds_during(active[-1:]) if together.is_empty() else together

    def fixed_split_at(self, unix_s: float) -> Split | None:
        """Return the counts of strategy Fixed at a point in time; None when it has none."""
        return fixed_split(self.pools, self.active_schedules(unix_s))


class AutoscalingPolicy(PolicyModel):
    """A whole policy, as in `policy.yaml`."""

    api_version: Literal["tandem/v1"] = "tandem/v1"
    """Version of this file's format."""
    kind: Literal["AutoscalingPolicy"] = "AutoscalingPolicy"
    """Kind of this file."""
    metadata: PolicyMetadata
    """Name of the policy."""
    spec: PolicySpec
    """What is wanted."""
