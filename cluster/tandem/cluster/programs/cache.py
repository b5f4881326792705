"""A process's part of the prefix cache, from what the supervisor told it."""

import secrets

from tandem.core.ids import Epoch
from tandem.engine.kv.block_cache import CacheSetup
from tandem.prefix_cache.config import SECRET_BYTES, PrefixCacheProgram


def cache_setup(program: PrefixCacheProgram, epoch: Epoch) -> CacheSetup | None:
    """Return what a worker's cache is made of; None when it is off.

    A worker that was told no secret makes its own: it keeps its blocks for itself, no router can name them, and what is
    handed over to it is handed over whole.
    """
    if not program.settings.enabled:
        return None
    given = program.secret_bytes()
    secret = given or secrets.token_bytes(SECRET_BYTES)
    return CacheSetup(settings=program.settings, secret=secret, epoch=epoch, is_shared_secret=given is not None)
