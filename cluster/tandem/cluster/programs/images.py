"""Where a router keeps images of its index, from what the supervisor told it."""

from tandem.cluster.programs.config import RouterProgramConfig
from tandem.core.clock import Clock
from tandem.prefix_cache.remote.breaker import BreakerPolicy
from tandem.prefix_cache.remote.gate import GatePolicy, RedisGate
from tandem.prefix_cache.remote.images import RemoteImages


def open_images(config: RouterProgramConfig, clock: Clock) -> RemoteImages | None:
    """Return the images, to be closed; None: switched off, or there is no Redis or no secret of the cluster.

    They lie where `prefix_cache.redis.url` says, also when no blocks are kept there; without a URL, in the registry's.
    """
    settings, secret, image = config.cache.settings, config.cache.secret_bytes(), config.router.cache.image
    redis, registry = settings.redis, config.registry
    url = redis.url or (registry.url if registry.kind == "redis" else "")
    if not (settings.enabled and image.enabled and url) or secret is None:
        return None
    policy = GatePolicy(
        timeout_s=redis.timeout_s,
        slowest_bytes_per_s=float(redis.slowest_bytes_per_s),
        max_in_flight=redis.max_in_flight,
        breaker=BreakerPolicy(max_failures=redis.breaker_failures, open_s=redis.breaker_open_s),
    )
    gate = RedisGate(url, policy=policy, clock=clock)
    return RemoteImages(gate, secret=secret, namespace=redis.namespace, ttl_s=image.ttl_s)
