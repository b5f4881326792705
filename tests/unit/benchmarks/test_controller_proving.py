"""The controller's benchmark: a scenario whose fault did not come, or was not felt, is told as not proven."""

from typing import Any

import pytest

from benchmarks.controller_world.judging import Outcome
from benchmarks.controller_world.proving import WHOLE_AGAIN_S, not_proven
from benchmarks.controller_world.units import Told

POINTS = ["c.after_drain", "c.before_switch"]
GOOD: dict[str, dict[str, Any]] = {
    "stale metrics": {"rounds_frozen": 2, "moves_while_stale": 0},
    "worker loss": {"split_whole_again_s": [4.0, 5.0]},
    "controller killed": {
        "points": POINTS,
        "points_hit": POINTS,
        "controller_deaths": 2,
        "seconds_to_the_split_after_each_kill": dict.fromkeys(POINTS, 3.0),
    },
    "two controllers": {
        "first_led": True,
        "stood_still": True,
        "other_led": True,
        "split_reached": True,
        "orders_refused": 1,
        "split_stayed": True,
    },
}
LATE_S = WHOLE_AGAIN_S + 1.0
BAD = [
    ("stale metrics", {"rounds_frozen": 0}, "no round froze"),
    ("stale metrics", {"moves_while_stale": 1}, "1 moves were begun"),
    ("worker loss", {"split_whole_again_s": [4.0]}, "1 of 2 workers"),
    ("worker loss", {"split_whole_again_s": [4.0, None]}, "never"),
    ("worker loss", {"split_whole_again_s": [LATE_S, 4.0]}, f"{LATE_S} s"),
    ("controller killed", {"points_hit": POINTS[:1]}, "did not come to c.before_switch"),
    ("controller killed", {"controller_deaths": 1}, "died 1 times"),
    ("controller killed", {"seconds_to_the_split_after_each_kill": {POINTS[0]: 3.0}}, "after c.before_switch: never"),
    ("two controllers", {"first_led": False}, "the first one did not lead"),
    ("two controllers", {"stood_still": False}, "in the middle of a move"),
    ("two controllers", {"other_led": False}, "higher term"),
    ("two controllers", {"split_reached": False}, "did not bring"),
    ("two controllers", {"split_stayed": False}, "did not stay"),
    ("two controllers", {"orders_refused": 0}, "the fence was not needed"),
]


def outcome(name: str, facts: dict[str, Any], *, wished: str = "5:3") -> Outcome:
    told = Told(at_s=0.0, controller="a", facts={"verdict": "hold", "current": "4:4", "wished": wished})
    return Outcome(
        name=name, begin_s=0.0, seconds=1.0, records=(), rounds=[told], samples=(), switched_s=(), phases=(),
        facts=facts,
    )  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_showed_all_of_it_is_proven(name: str) -> None:
    assert not_proven(outcome(name, GOOD[name])) == []
    assert not_proven(outcome(name, {})), "nothing known is nothing proven"


@pytest.mark.parametrize(("name", "changes", "why"), BAD)
def test_what_is_missing_is_named(name: str, changes: dict[str, Any], why: str) -> None:
    (reason,) = not_proven(outcome(name, {**GOOD[name], **changes}))
    assert reason.startswith(f"{name}: ")
    assert why in reason


def test_where_nothing_was_wanted_nothing_was_held_back() -> None:
    (reason,) = not_proven(outcome("stale metrics", GOOD["stale metrics"], wished="4:4"))
    assert "nothing to hold back" in reason


def test_a_load_that_needed_no_move_shows_nothing_of_moves() -> None:
    assert not_proven(outcome("step x3", {})) == ["step x3: no move was needed"]
    assert not_proven(outcome("square wave", {})) == []
