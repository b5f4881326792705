"""How fast a pool may change: `behavior` as a HorizontalPodAutoscaler reads it. Pure."""

import math
from collections.abc import Sequence

from tandem.controller.deciding.values import PoolChange
from tandem.controller.policy.behavior import PolicyType, ScalingPolicy, ScalingRules, SelectPolicy
from tandem.core.types import Role

_HPA_UP = (
    ScalingPolicy.model_validate({"type": "Pods", "value": 4, "periodSeconds": 15}),
    ScalingPolicy.model_validate({"type": "Percent", "value": 100, "periodSeconds": 15}),
)
DEFAULT_DOWN_WINDOW_S = 300.0
LONGEST_PERIOD_S = 1800.0


def allowed_growth(rules: ScalingRules, changes: Sequence[PoolChange], role: Role, size: int, now_s: float) -> int:
    """Return by how many workers a pool of ``size`` may grow now."""
    if rules.select_policy is SelectPolicy.DISABLED:
        return 0
    limits = []
    for policy in rules.policies or _HPA_UP:
        changed = _changed(changes, role, now_s - policy.period_seconds)
        start = size - changed
        limits.append(_step_up(policy, start) - changed)
    return max(_select(rules, limits), 0)


def allowed_shrinking(rules: ScalingRules, changes: Sequence[PoolChange], role: Role, size: int, now_s: float) -> int:
    """Return by how many workers a pool of ``size`` may shrink now."""
    if rules.select_policy is SelectPolicy.DISABLED:
        return 0
    if not rules.policies:
        return 1
    limits = []
    for policy in rules.policies:
        changed = -_changed(changes, role, now_s - policy.period_seconds)
        start = size + changed
        step = policy.value if policy.type is PolicyType.PODS else math.floor(start * policy.value / 100)
        limits.append(step - changed)
    return max(_select(rules, limits), 0)


def _step_up(policy: ScalingPolicy, start: int) -> int:
    return policy.value if policy.type is PolicyType.PODS else math.ceil(start * policy.value / 100)


def _changed(changes: Sequence[PoolChange], role: Role, since_s: float) -> int:
    return sum(change.delta for change in changes if change.role is role and change.time_s > since_s)


def _select(rules: ScalingRules, limits: Sequence[int]) -> int:
    return min(limits) if rules.select_policy is SelectPolicy.MIN else max(limits)
