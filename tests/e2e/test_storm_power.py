"""The storm notices: where workers take the digests of chunks on trust, corrupted bytes are found as wrong KV."""

import pytest

from benchmarks import tier_storm
from benchmarks.fault_storm import POWER_KINDS, UNGUARDED, Tally, play


@pytest.mark.slow
async def test_the_storm_finds_what_a_missing_guard_lets_through() -> None:
    tally = Tally()
    await play(POWER_KINDS, seed=1, tally=tally, shape=UNGUARDED)
    assert tally.without_effect == [], "nothing was corrupted, so nothing was shown"
    assert tally.wrong_tokens >= 1, "the storm has no power"
    assert tally.hangs == tally.broken == 0


@pytest.mark.slow
async def test_the_storm_over_tiers_finds_what_a_missing_seal_lets_through() -> None:
    tally = tier_storm.Tally()
    await tier_storm.play(
        tier_storm.POWER_KINDS, seed=1, tally=tally, pace=tier_storm.QUICK_PACE, race=tier_storm.UNGUARDED
    )
    assert tally.without_effect == [], "nothing was forged, so nothing was shown"
    assert tally.wrong_tokens >= 1, "the storm has no power"
    assert tally.hangs == 0
