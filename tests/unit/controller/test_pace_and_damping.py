"""HPA's behavior read as HPA reads it; wishes that must last."""

from typing import Any

import pytest

from tandem.controller.deciding.damping import steady, switch_window_s
from tandem.controller.deciding.pace import allowed_growth, allowed_shrinking
from tandem.controller.deciding.values import PoolChange, Wish
from tandem.controller.policy.behavior import ScalingRules
from tandem.controller.policy.bounds import Split
from tandem.core.types import Role
from tests.unit.controller.worlds import policy


def rules(**values: Any) -> ScalingRules:
    return ScalingRules.model_validate(values)


def change(time_s: float, delta: int, role: Role = Role.DECODE) -> PoolChange:
    return PoolChange(time_s=time_s, role=role, delta=delta, size_before=1)


PODS = {"type": "Pods", "value": 2, "periodSeconds": 60}
PERCENT = {"type": "Percent", "value": 50, "periodSeconds": 60}


@pytest.mark.parametrize(
    ("given", "size", "changes", "expected"),
    [
        ({}, 1, [], 4),  # HPA's default: 4 or 100 % in 15 s
        ({}, 10, [], 10),
        ({"policies": [PODS]}, 3, [], 2),
        ({"policies": [PODS, PERCENT]}, 10, [], 5),
        ({"policies": [PODS, PERCENT], "selectPolicy": "Min"}, 10, [], 2),
        ({"policies": [PERCENT]}, 3, [], 2),  # rounded up
        ({"policies": [PODS]}, 5, [change(50, 2)], 0),  # two in the last minute
        ({"policies": [PODS]}, 5, [change(39, 2)], 2),  # that was longer ago
        ({"policies": [PODS]}, 5, [change(50, 2, Role.PREFILL)], 2),  # another pool
        ({"policies": [PERCENT]}, 6, [change(50, 2)], 0),  # half of the four it began with
        ({"selectPolicy": "Disabled"}, 5, [], 0),
    ],
)
def test_growing(given: dict[str, Any], size: int, changes: list[PoolChange], expected: int) -> None:
    assert allowed_growth(rules(**given), changes, Role.DECODE, size, 100.0) == expected


@pytest.mark.parametrize(
    ("given", "size", "changes", "expected"),
    [
        ({}, 9, [], 1),
        ({"policies": [PODS]}, 9, [], 2),
        ({"policies": [PERCENT]}, 9, [], 4),  # rounded down
        ({"policies": [PERCENT]}, 6, [change(50, -2)], 2),  # half of the eight it began with, less two
        ({"policies": [PODS]}, 5, [change(50, -2)], 0),
        ({"selectPolicy": "Disabled"}, 9, [], 0),
    ],
)
def test_shrinking(given: dict[str, Any], size: int, changes: list[PoolChange], expected: int) -> None:
    assert allowed_shrinking(rules(**given), changes, Role.DECODE, size, 100.0) == expected


def wishes(*splits: tuple[float, int, int]) -> list[Wish]:
    return [Wish(time_s=at, split=Split(prefill=p, decode=d)) for at, p, d in splits]


HERE = Split(prefill=4, decode=4)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], (4, 4)),
        ([(95, 6, 2)], (4, 4)),  # not for long enough
        ([(70, 6, 2)], (6, 2)),
        ([(60, 6, 2), (85, 5, 3), (95, 7, 1)], (5, 3)),  # the least they agree on
        ([(60, 6, 2), (85, 4, 4), (95, 7, 1)], (4, 4)),  # one dissented
        ([(40, 1, 9), (75, 6, 2), (95, 6, 2)], (4, 4)),  # what held when the window began counts
        ([(40, 1, 9), (50, 6, 2), (95, 6, 2)], (6, 2)),
        ([(60, 6, 5), (90, 6, 3)], (6, 4)),  # each pool for itself
    ],
)
def test_only_what_lasted_is_wanted(said: list[tuple[float, int, int]], expected: tuple[int, int]) -> None:
    found = steady(wishes(*said), HERE, 100.0, 30.0)
    assert (found.prefill, found.decode) == expected


def test_undoing_the_last_switch_takes_longer() -> None:
    spec = policy(damping={"dwell": "20s", "reverseDwell": "70s", "cooldown": "60s"}).spec

    def window_s(to: Role, last_to: Role | None, rested_s: float) -> float:
        return switch_window_s(spec, to=to, last_to=last_to, rested_s=rested_s)

    assert window_s(Role.PREFILL, None, 1e9) == pytest.approx(20)
    assert window_s(Role.PREFILL, Role.PREFILL, 61) == pytest.approx(20)
    assert window_s(Role.PREFILL, Role.DECODE, 61) == pytest.approx(70)
    assert window_s(Role.PREFILL, Role.DECODE, 301) == pytest.approx(20)
