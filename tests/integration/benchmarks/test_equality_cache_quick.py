"""The quick equality run with caches on: quotas, pins, public prefixes and Redis change no token; faults show."""

import pytest

from benchmarks.equality_cache_run import run, summarise


@pytest.mark.slow
async def test_cached_answers_equal_a_single_process() -> None:
    found = await run(quick=True)
    result = summarise(found)
    assert (result["mismatches"], result["foreign"], result["refused"]) == (0, 0, 0), [
        g for g in found.groups if g.found.counts.mismatches or g.found.foreign or g.found.refused
    ]
    assert result["cases"] >= 100
    assert min(result["cached_tokens"], result["skipped_blocks"], result["evicted_blocks"]) > 100, result
    assert result["promoted_blocks"] > 5, "nothing came back from Redis"
    assert all(found.noticed.values()), found.noticed
