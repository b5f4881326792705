"""Which tiers a worker gets from its settings, and how they are shown."""

from io import StringIO

import pytest
from rich.console import Console

from tandem.cluster.commands.cache import tier_table
from tandem.cluster.programs.cache import cache_setup
from tandem.cluster.programs.config import RegistryTarget
from tandem.cluster.programs.tiers import attach_tiers, redis_url
from tandem.core.cache import TierStats, WatchedCache, WorkerCacheStats
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import Tier
from tandem.core.latency import LatencyEstimator
from tandem.core.types import Role
from tandem.engine.kv.block_cache import CacheSetup
from tandem.prefix_cache.config import PrefixCacheProgram
from tests.fakes.engine_driver import make_engine
from tests.fakes.tiers import LAYOUT

ROUTER = RegistryTarget(kind="router", address="127.0.0.1:1")
REDIS = RegistryTarget(kind="redis", url="redis://127.0.0.1:1/0")
OWN = "redis://127.0.0.1:2/0"


def setup(**settings: object) -> CacheSetup:
    made = cache_setup(PrefixCacheProgram.model_validate({"settings": settings, "secret": "ab" * 16}), Epoch(3))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("redis", "registry", "expected"),
    [
        ({}, REDIS, None),
        ({"enabled": True}, ROUTER, None),
        ({"enabled": True}, REDIS, REDIS.url),
        ({"enabled": True, "url": OWN}, REDIS, OWN),
        ({"enabled": True, "url": OWN}, ROUTER, OWN),
        ({"url": OWN}, ROUTER, None),
    ],
)
def test_the_redis_tier_needs_a_switch_and_a_redis(
    redis: dict[str, object], registry: RegistryTarget, expected: str | None
) -> None:
    assert redis_url(setup(redis=redis), registry) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [Tier.DEVICE, Tier.HOST]),
        ({"redis": {"enabled": True}}, [Tier.DEVICE, Tier.HOST, Tier.REMOTE]),
        ({"host": {"enabled": False}, "redis": {"enabled": True}}, [Tier.DEVICE, Tier.REMOTE]),
        ({"host": {"enabled": False}}, [Tier.DEVICE]),
    ],
)
def test_an_engine_gets_the_tiers_that_are_switched_on(settings: dict[str, object], expected: list[Tier]) -> None:
    cache = setup(**settings)
    engine = make_engine(cache=cache)
    estimator = LatencyEstimator()
    tiers = attach_tiers(
        engine, cache, layout_fingerprint=LAYOUT, registry=REDIS, estimator=estimator, clock=MonotonicClock()
    )
    assert (tiers is None) == (expected == [Tier.DEVICE])
    assert engine.cache is not None
    assert [tier.tier for tier in engine.cache.stats().tiers] == expected
    if tiers is not None:
        assert engine.promotions.prefill_s is not None
        expected_s = estimator.model().prefill_s(num_new_tokens=100, num_cached_tokens=50)
        assert engine.promotions.prefill_s(100, 50) == expected_s
        assert tiers.close()


def test_without_a_cache_there_are_no_tiers() -> None:
    given = {
        "layout_fingerprint": LAYOUT,
        "registry": REDIS,
        "estimator": LatencyEstimator(),
        "clock": MonotonicClock(),
    }
    assert attach_tiers(make_engine(), None, **given) is None  # type: ignore[arg-type]


def test_the_table_shows_every_number_of_a_tier() -> None:
    host = TierStats(
        tier=Tier.HOST,
        num_blocks=11,
        num_hit_tokens=250,
        num_bytes=3 << 20,
        num_demoted=12,
        num_promoted=13,
        num_rejected=14,
        num_skipped=15,
    )
    device = TierStats(tier=Tier.DEVICE, num_blocks=999, num_hit_tokens=500)
    stats = WorkerCacheStats(num_asked_tokens=1000, tiers=(device, host))
    watched = [
        WatchedCache(worker_id=WorkerId("decode-0"), role=Role.DECODE, watching=True, stats=stats),
        WatchedCache(worker_id=WorkerId("decode-1"), role=Role.DECODE, watching=False),
    ]
    out = StringIO()
    Console(file=out, width=160).print(tier_table(watched))
    (row,) = [line for line in out.getvalue().splitlines() if "decode-" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells == ["decode-0", "host", "11", "3.0", "25.0%", "250", "12", "13", "14", "15"]
