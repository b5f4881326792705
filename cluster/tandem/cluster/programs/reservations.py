"""A router's way to the shared reservations, from what the supervisor told it."""

from typing import Final

from tandem.cluster.programs.config import RegistryTarget, RouterProgramConfig
from tandem.core.clock import Clock
from tandem.prefix_cache.config import RedisTierSection
from tandem.prefix_cache.remote.breaker import BreakerPolicy
from tandem.prefix_cache.remote.gate import GatePolicy
from tandem.router.redis_reserver import RedisReserver
from tandem.router.sharing import SharingMode

_LONGEST_WAIT_S: Final = 0.020  # a request waits for it, however patient the cache is
_MAX_IN_FLIGHT: Final = 64


def shared_redis_url(redis: RedisTierSection, registry: RegistryTarget) -> str | None:
    """Return the Redis that belongs to the cache: its own, or the registry's; None: there is neither."""
    return redis.url or (registry.url if registry.kind == "redis" and registry.url else None)


def open_reserver(config: RouterProgramConfig, clock: Clock) -> RedisReserver | None:
    """Return the way there, to be closed; None: it is switched off, or there is no Redis.

    Whether blocks are kept in Redis (``prefix_cache.redis.enabled``) does not matter: a reservation takes a few bytes.
    """
    redis = config.cache.settings.redis
    url = shared_redis_url(redis, config.registry)
    if url is None or config.router.placement.share is SharingMode.OFF:
        return None
    policy = GatePolicy(
        timeout_s=min(redis.timeout_s, _LONGEST_WAIT_S),
        max_in_flight=_MAX_IN_FLIGHT,
        breaker=BreakerPolicy(max_failures=redis.breaker_failures, open_s=redis.breaker_open_s),
    )
    return RedisReserver(url, namespace=redis.namespace, policy=policy, clock=clock)
