"""A process's part of the prefix cache, from what the supervisor told it."""

import secrets

from tandem.core.ids import Epoch
from tandem.engine.kv.block_cache import CacheSetup
from tandem.prefix_cache.config import SECRET_BYTES, PrefixCacheProgram


def cache_setup(program: PrefixCacheProgram, epoch: Epoch) -> CacheSetup | None:
    """Return what a worker's cache is made of; None when it is off.

    A worker that was told no secret makes its own: it keeps its blocks for itself, and no router can name them.
    """
    if not program.settings.enabled:
        return None
    secret = program.secret_bytes() or secrets.token_bytes(SECRET_BYTES)
    return CacheSetup(settings=program.settings, secret=secret, epoch=epoch)
