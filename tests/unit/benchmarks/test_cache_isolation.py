"""The isolation program, small: nothing of another is found, one's own is, and a flood leaves the other's cache."""

import math
import random

import pytest

from benchmarks.cache_isolation import measure
from benchmarks.isolation_timing import compare
from tandem.prefix_cache.eviction.choice import EvictionName


def test_tenants_keep_apart() -> None:
    result = measure(1000, 2, [EvictionName.LRU, EvictionName.COST_AWARE])
    assert result["cross_hits"] == 0
    assert result["own_hits"] == result["lookups"] == 1000
    assert result["hit_rate_alone"] > 0.9
    assert result["flood_points_lost"] <= 10
    assert result["flood_points_lost_own"] > 50, "the flood is no flood"


def test_equal_distributions_are_told_apart_as_seldom_as_the_p_value_says() -> None:
    draw = random.Random(1)
    found = [
        compare([draw.gauss(0, 1) for _ in range(100)], [draw.gauss(0, 1) for _ in range(120)]).p_value
        for _ in range(300)
    ]
    assert sum(p < 0.01 for p in found) <= 9
    assert 0.02 < sum(p < 0.1 for p in found) / len(found) < 0.17


def test_a_shift_shows() -> None:
    draw = random.Random(2)
    first, second = ([draw.gauss(middle, 1) for _ in range(200)] for middle in (0.0, 0.6))
    assert compare(first, second).p_value < 1e-4
    same = compare(first, first)
    assert (same.distance, same.p_value) == (0.0, 1.0)


@pytest.mark.parametrize(("distance", "p_value"), [(0.5, 0.0), (1.0, 0.0)])
def test_far_apart_is_certain(distance: float, p_value: float) -> None:
    first = [float(i) for i in range(400)]
    second = [i + 400 * distance for i in first]
    found = compare(first, second)
    assert found.distance == pytest.approx(distance)
    assert found.p_value == pytest.approx(p_value, abs=1e-6)


def test_the_textbook_value() -> None:
    """Q(1.36) = 0.049: the usual 5 % point."""
    size = 10_000
    root = math.sqrt(size / 2)
    distance = 1.358 / (root + 0.12 + 0.11 / root)
    shift = round(distance * size)
    first = [float(i) for i in range(size)]
    assert compare(first, [i + shift for i in first]).p_value == pytest.approx(0.05, abs=0.003)
