"""Since when requests have come as they come now: changes that chance does not explain, and only those."""

import random

import pytest

from tandem.controller.live.change import since_change_s
from tandem.controller.live.traffic import class_traffic
from tandem.core.traffic import TrafficReport
from tandem.core.types import PriorityClass

STANDARD = PriorityClass.STANDARD
WINDOW_S = 60.0


def poisson(dice: random.Random, *parts: tuple[float, float]) -> list[float]:
    """Ages of arrivals: each part is a rate and how many seconds it lasted, the newest first."""
    ages, begin_s = [], 0.0
    for rate, seconds in parts:
        at_s = begin_s + dice.expovariate(rate)
        while at_s < begin_s + seconds:
            ages.append(at_s)
            at_s += dice.expovariate(rate)
        begin_s += seconds
    return ages


@pytest.mark.parametrize("rate", [0.5, 2.0, 6.0])
def test_an_even_stream_has_not_changed(rate: float) -> None:
    dice = random.Random(1)
    false = [since_change_s(poisson(dice, (rate, WINDOW_S)), WINDOW_S) < WINDOW_S for _ in range(400)]
    assert sum(false) <= 8, "one in a hundred or so"


@pytest.mark.parametrize(("before", "after"), [(1.8, 5.4), (4.8, 1.6)])
def test_a_threefold_step_is_seen_in_seconds(before: float, after: float) -> None:
    dice = random.Random(2)
    seen = [since_change_s(poisson(dice, (after, 8.0), (before, 52.0)), WINDOW_S) for _ in range(200)]
    assert sum(each <= 16.0 for each in seen) >= 180
    assert sorted(seen)[100] == pytest.approx(8.0, abs=2.0), "and where it was"


def test_of_two_changes_the_last_one_counts() -> None:
    """Nothing came, then a little, then three times as much."""
    dice = random.Random(4)
    seen = [since_change_s(poisson(dice, (5.4, 8.0), (1.8, 12.0)), WINDOW_S) for _ in range(100)]
    assert sum(each <= 11.0 for each in seen) >= 70
    assert max(seen) <= 22.0


def test_bursts_are_no_change() -> None:
    """Requests come in sixes; as a Poisson stream, counts that differ so much would have changed."""
    dice = random.Random(3)
    fooled, new = 0, 0
    for _ in range(100):
        ages = [age + each / 50 for age in poisson(dice, (0.5, WINDOW_S)) for each in range(6)]
        report = TrafficReport(router_id="a", window_s=WINDOW_S, arrivals={STANDARD: tuple(ages)})
        fooled += since_change_s(ages, WINDOW_S) < 10.0
        new += class_traffic([report], {}, interval_s=1.0)[STANDARD].is_new_rate
    assert fooled >= 15
    assert new <= 2


def test_the_rate_is_that_since_the_change() -> None:
    ages = (*(each / 6 for each in range(1, 30)), *(5.0 + each for each in range(1, 50)))
    report = TrafficReport(router_id="a", window_s=WINDOW_S, arrivals={STANDARD: ages})
    seen = class_traffic([report], {}, interval_s=1.0)[STANDARD]
    assert seen.is_new_rate
    assert seen.arrivals_per_s == pytest.approx(6.0, rel=0.1)
    old = class_traffic([TrafficReport(router_id="a", window_s=WINDOW_S, arrivals={STANDARD: ages[29:]})], {},
                        interval_s=1.0)[STANDARD]  # fmt: skip
    assert seen.shapes == old.shapes == ()


def test_nothing_known_is_no_change() -> None:
    assert since_change_s([], 0.0) == 0.0
    assert since_change_s([], WINDOW_S) == WINDOW_S
    assert not class_traffic([], {}, interval_s=1.0)[STANDARD].is_new_rate
