"""The storm notices: where workers take the digests of chunks on trust, corrupted bytes are found as wrong KV."""

import pytest

from benchmarks.fault_storm import POWER_KINDS, UNGUARDED, Tally, play


@pytest.mark.slow
async def test_the_storm_finds_what_a_missing_guard_lets_through() -> None:
    tally = Tally()
    await play(POWER_KINDS, seed=1, tally=tally, shape=UNGUARDED)
    assert tally.without_effect == [], "nothing was corrupted, so nothing was shown"
    assert tally.wrong_tokens >= 1, "the storm has no power"
    assert tally.hangs == tally.broken == 0
