"""The registry in Redis: one key with a TTL per worker, and one set that lists the names.

When Redis is down, announcing and listing fail quietly after a short time-out; the router keeps the workers it knows,
because it talks to them directly.
"""

from collections.abc import Awaitable
from typing import cast

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from tandem.cluster.registry.record import decode_record, encode_record
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 1.0


class RedisRegistry:
    """Announce, withdraw and list workers of one namespace."""

    def __init__(self, url: str, *, namespace: str) -> None:
        self._client = redis.asyncio.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._prefix = f"{namespace}:worker:"
        self._names_key = f"{namespace}:workers"
        self._is_reachable = True

    async def announce(self, info: WorkerInfo, *, ttl_s: float) -> bool:
        """Write or renew a registration; False when Redis did not take it."""
        key = self._prefix + info.worker_id
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.set(key, encode_record(info), px=int(1e3 * ttl_s))
                pipe.sadd(self._names_key, info.worker_id)
                pipe.expire(self._names_key, int(100 * ttl_s) + 1)
                await pipe.execute()
        except (RedisError, OSError) as error:
            self._note_unreachable(error)
            return False
        self._is_reachable = True
        return True

    async def withdraw(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Remove a registration, if it is of this life; silent when Redis is down (the TTL removes it then)."""
        try:
            data = await self._client.get(self._prefix + worker_id)
            current = decode_record(data) if isinstance(data, bytes) else None
            if current is None or current.epoch != epoch:
                return  # the next life has announced itself already
            await self._client.delete(self._prefix + worker_id)
            await self._client.srem(self._names_key, worker_id)
        except (RedisError, OSError) as error:
            self._note_unreachable(error)

    async def list_workers(self) -> tuple[WorkerInfo, ...] | None:
        """Return the live registrations, or None when Redis can't be asked."""
        try:
            names = await cast(Awaitable[set[bytes]], self._client.smembers(self._names_key))
            ordered = sorted(name.decode("utf-8", errors="replace") for name in names)
            if not ordered:
                return ()
            values = await self._client.mget([self._prefix + name for name in ordered])
        except (RedisError, OSError) as error:
            self._note_unreachable(error)
            return None
        self._is_reachable = True
        found = zip(ordered, values, strict=True)
        records = ((name, decode_record(value)) for name, value in found if isinstance(value, bytes))
        return tuple(info for name, info in records if info is not None and info.worker_id == name)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _note_unreachable(self, error: Exception) -> None:
        if self._is_reachable:
            _log.warning("registry_unreachable", error=type(error).__name__)
        self._is_reachable = False
