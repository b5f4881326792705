"""Tiers in use while a worker is killed and Redis is lied to: no wrong token, nothing left behind."""

import pytest

from benchmarks.redis_fault_kinds import Forged
from benchmarks.tier_storm import QUICK_PACE, Tally, TierWatch, play, problems_of, result_of


@pytest.mark.slow
async def test_promoted_blocks_are_right_while_a_worker_dies_and_redis_lies() -> None:
    tally = Tally()
    await play(("prefill killed", Forged), seed=1, tally=tally, pace=QUICK_PACE)
    result = result_of(tally)
    assert problems_of(result) == [], [*tally.violations, *tally.leaks, *tally.without_effect]
    assert result["faults"] == 2
    assert result["ok"] >= 20


def test_figures_go_on_over_the_lives_of_a_worker() -> None:
    watch = TierWatch()
    for value in (3, 5, 5, 1, 4):
        watch.saw("prefill-0", "host", "promoted", value)
    watch.saw("decode-0", "host", "promoted", 2)
    assert watch.totals() == {"host_promoted": 5 + 4 + 2}


def test_a_run_that_used_no_tier_has_shown_nothing() -> None:
    nothing = Tally()
    assert any("not used" in problem for problem in problems_of(result_of(nothing)))
