"""The isolation program, small: nothing of another is found, one's own is, and a flood leaves the other's cache."""

from benchmarks.cache_isolation import measure


def test_tenants_keep_apart() -> None:
    result = measure(1000, 4)
    assert result["cross_hits"] == 0
    assert result["own_hits"] == result["lookups"] == 1000
    assert result["hit_rate_alone"] > 0.9
    assert result["flood_points_lost"] <= 10
