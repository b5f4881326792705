"""The tiers behind a worker's KV pool, from what the supervisor told it."""

from functools import partial

from tandem.cluster.programs.config import RegistryTarget
from tandem.cluster.programs.reservations import shared_redis_url
from tandem.core.clock import Clock
from tandem.core.latency import LatencyEstimator
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.promotions import PromotionLimits
from tandem.prefix_cache.tiers.block_tiers import BlockTiers


def redis_url(setup: CacheSetup, registry: RegistryTarget) -> str | None:
    """Return where blocks are kept in Redis; None: there is none, or it is switched off."""
    redis = setup.settings.redis
    return shared_redis_url(redis, registry) if redis.enabled else None


def attach_tiers(
    engine: Engine,
    setup: CacheSetup | None,
    *,
    layout_fingerprint: str,
    registry: RegistryTarget,
    estimator: LatencyEstimator,
    clock: Clock,
) -> BlockTiers | None:
    """Start the tiers that are switched on and join them to ``engine``; None: there are none. To be closed."""
    if setup is None or engine.cache is None:
        return None
    url, settings = redis_url(setup, registry), setup.settings
    if not settings.host.enabled and url is None:
        return None
    tiers = BlockTiers(
        settings,
        secret=setup.secret,
        layout_fingerprint=layout_fingerprint,
        redis_url=url,
        events=engine.cache.events,
        clock=clock,
    )
    limits = PromotionLimits(max_demoted_blocks=settings.max_demoted_blocks, max_hold_s=settings.max_hold_s)
    engine.promotions.attach(tiers, limits)
    engine.promotions.prefill_s = partial(_prefill_s, estimator)
    tiers.start()
    return tiers


def _prefill_s(estimator: LatencyEstimator, num_new_tokens: int, num_cached_tokens: int) -> float:
    return estimator.model().prefill_s(num_new_tokens=num_new_tokens, num_cached_tokens=num_cached_tokens)
