"""The quick form of the cancel fuzz: real processes, most callers leave, nothing is left."""

from benchmarks.cancel_fuzz import campaign, result_of


async def test_callers_who_leave_leave_nothing_behind() -> None:
    tally = await campaign(300, first_seed=77)
    result = result_of(tally)
    assert tally.leaks == []
    assert tally.trace_violations == []
    assert tally.problems == []
    assert result["wrong_tokens"] == result["hangs"] == 0, tally
    assert result["errors"] == result["worker_deaths"] == 0, tally
    assert result["cancelled"] > 100
    assert len(tally.freed_s) > 50, "cancels found hardly any block held: the fuzz has no power"
    assert result["free_p99_s"] <= 1.0
    assert tally.num_tokens_verified > 50_000
