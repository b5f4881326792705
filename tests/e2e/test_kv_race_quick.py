"""The quick form of the KV race: ended leases under a receiver that stands still, and the same without a guard."""

from benchmarks.demands import unmet
from benchmarks.kv_race import campaign, demands, result_of


async def test_stale_kv_is_refused_and_without_the_guard_it_is_found() -> None:
    result = result_of(await campaign(quick=True))
    assert unmet(result, demands(quick=True)) == []
    assert result["victims"] >= 20
    assert result["caught_without_guard"] >= 5, "the race has no power"
