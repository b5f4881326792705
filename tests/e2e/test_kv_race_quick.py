"""The quick form of the KV race: ended leases under a receiver that stands still, and the same without a guard."""

from benchmarks.kv_race import campaign, result_of


async def test_stale_kv_is_refused_and_without_the_guard_it_is_found() -> None:
    result = result_of(await campaign(quick=True))
    assert result["wrong_tokens"] == result["hangs"] == result["leaks"] == 0, result
    assert result["victims"] >= 20
    assert result["stale_refused"] >= 5
    assert result["caught_without_guard"] >= 1, "the race has no power"
