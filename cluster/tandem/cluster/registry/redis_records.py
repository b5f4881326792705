"""Records in Redis: one key each, `VERSION:VALUE`, written under WATCH so that nobody's write is lost."""

import redis.asyncio
from redis.exceptions import RedisError, WatchError

from tandem.core.errors import Unavailable
from tandem.core.records import check_record
from tandem.core.traffic import StoredRecord, Written

_TIMEOUT_S = 1.0


class RedisRecords:
    """A `RecordStore` of one namespace."""

    def __init__(self, url: str, *, namespace: str) -> None:
        self._client = redis.asyncio.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._prefix = f"{namespace}:record:"

    async def read(self, key: str) -> StoredRecord | None:
        """Return a record; None = there is none, or what is there is none of ours. Raises Unavailable."""
        try:
            return _decode(await self._client.get(self._prefix + key))
        except (RedisError, OSError) as error:
            raise _unreachable(error) from error

    async def write(self, key: str, value: bytes, *, expected_version: int) -> Written:
        """Write if ``expected_version`` is stored now. Raises InvalidArgument or Unavailable."""
        check_record(key, value)
        name = self._prefix + key
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(name)
                known = _decode(await pipe.get(name))
                if (0 if known is None else known.version) != expected_version:
                    return Written(done=False, record=known)
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(name, b"%d:" % (expected_version + 1) + value)
                await pipe.execute()
        except WatchError:
            return Written(done=False, record=await self.read(key))
        except (RedisError, OSError) as error:
            raise _unreachable(error) from error
        return Written(done=True, record=StoredRecord(version=expected_version + 1, value=value))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _decode(data: object) -> StoredRecord | None:
    if not isinstance(data, bytes):
        return None
    version, colon, value = data.partition(b":")
    return StoredRecord(version=int(version), value=value) if colon and version.isdigit() else None


def _unreachable(error: Exception) -> Unavailable:
    return Unavailable(f"the registry can't be asked: {type(error).__name__}", reason="REGISTRY_UNREACHABLE")
