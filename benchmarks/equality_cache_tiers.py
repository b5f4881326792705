"""Slower tiers behind the caches of an equality run: host memory alone, or a small host tier with Redis behind it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from tandem.core.clock import MonotonicClock
from tandem.core.kv_events import Tier
from tandem.core.latency import LatencyEstimator
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.promotions import PromotionLimits
from tandem.prefix_cache.tiers.block_tiers import BlockTiers
from tandem.worker_host.built import BuiltEngine
from tests.fakes.redis_server import binaries, redis_server

_LIMITS = PromotionLimits(max_demoted_blocks=64, max_hold_s=5.0)
_PREFILL_TOKEN_S = 0.05  # what is believed: a tiny model computes faster than anything can be fetched


class TiersBehind:
    """Attaches tiers to engines, and knows what they did."""

    def __init__(self, redis_url: str | None) -> None:
        self._redis_url = redis_url
        self._tiers: list[BlockTiers] = []

    def attach(self, built: BuiltEngine, setup: CacheSetup, _: LatencyEstimator) -> Callable[[], bool]:
        """Join tiers to an engine, before its first command; return what ends them."""
        engine = built.engine
        if engine.cache is None:
            raise ValueError("tiers need a cache")
        tiers = BlockTiers(
            setup.settings,
            secret=setup.secret,
            layout_fingerprint=built.layout.fingerprint,
            redis_url=self._redis_url,
            events=engine.cache.events,
            clock=MonotonicClock(),
        )
        engine.promotions.attach(tiers, _LIMITS)
        engine.promotions.prefill_s = lambda num_new, num_cached: _PREFILL_TOKEN_S * num_new
        tiers.start()
        self._tiers.append(tiers)
        return tiers.close

    def promoted(self) -> Counter[Tier]:
        """Blocks that came back, by tier."""
        return sum((tiers.promoted for tiers in self._tiers), Counter())


@contextlib.contextmanager
def tiers_behind(*, with_redis: bool) -> Iterator[TiersBehind]:
    """Yield tiers; with a Redis of their own, which ends afterwards."""
    if not with_redis:
        yield TiersBehind(None)
        return
    with redis_server(sorted(binaries())[-1]) as server:
        yield TiersBehind(server.url)
