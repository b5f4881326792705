"""`behavior` of a HorizontalPodAutoscaler (autoscaling/v2), accepted as it stands there; "Pods" are workers."""

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated

import pydantic

from tandem.controller.policy.base import PolicyModel


class PolicyType(StrEnum):
    """Unit of a scaling policy's value."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several scaling policies decides."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


def _quantity(value: object) -> object:
    """Return a Kubernetes quantity such as ``0.05`` or ``50m`` as a number."""
    if not isinstance(value, str):
        return value
    try:
        return float(Decimal(value[:-1]) / 1000 if value.endswith("m") else Decimal(value))
    except InvalidOperation:
        raise ValueError("is not a quantity; write it like 0.05 or 50m") from None


class ScalingPolicy(PolicyModel):
    """A bound on how fast a pool may grow or shrink."""

    type: PolicyType
    """`Pods`: a number of workers; `Percent`: of the pool's size at the beginning of the period."""
    value: int = pydantic.Field(ge=1)
    """How much within one period."""
    period_seconds: int = pydantic.Field(ge=1, le=1800)
    """Length of the period."""


class ScalingRules(PolicyModel):
    """One direction."""

    stabilization_window_seconds: int | None = pydantic.Field(default=None, ge=0, le=3600)
    """For how long every proposal must have agreed. Unset: `damping.dwell` up (HPA has 0), 300 down as HPA."""
    select_policy: SelectPolicy = SelectPolicy.MAX
    """`Max`: the policy that allows most decides; `Min`: the one that allows least; `Disabled`: never this way."""
    policies: tuple[ScalingPolicy, ...] = ()
    """Bounds on the speed. Without any: growing by 4 or by 100 % in 15 s, as HPA does; shrinking by one per move."""
    tolerance: Annotated[
        float | None, pydantic.BeforeValidator(_quantity, json_schema_input_type=float | str | None)
    ] = pydantic.Field(default=None, ge=0, lt=1)
    """Strategy Load with `targetRunning`: relative distance from the target that is still right; HPA's default: 0.1."""


class HpaBehavior(PolicyModel):
    """How a pool grows and shrinks."""

    scale_up: ScalingRules = ScalingRules()
    """Growing."""
    scale_down: ScalingRules = ScalingRules()
    """Shrinking."""
