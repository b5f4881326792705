"""Blocks in Redis: one value per block, sealed, with an end to its life. Bounded by Redis's own ``maxmemory``, and by
the owner's count of what it stored (`tiers.remote_shelf`).

A ``scope`` is mixed into the names: blocks that were stored in another scope are not found.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import redis.asyncio
from blake3 import blake3

from tandem.core.errors import InvalidArgument
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import BlockEnvelope, Opened, Refusal
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate


class RemoteBlocks:
    """Get, put, count and drop cached blocks of one layout in one namespace."""

    def __init__(self, gate: RedisGate, envelope: BlockEnvelope, *, namespace: str, ttl_s: float) -> None:
        """Raise InvalidArgument for a life of no length: every key must end by itself."""
        if ttl_s <= 0.0:
            raise InvalidArgument("cache.remote.ttl_s", f"{ttl_s} is not above 0")
        self._gate = gate
        self._envelope = envelope
        self._prefix = f"{namespace}:kv:".encode()
        self._ttl_ms = max(int(1e3 * ttl_s), 1)
        self.refused: Counter[Refusal] = Counter()

    async def num_held(self, keys: Sequence[BlockKey]) -> int | Miss:
        """Return how many of a prompt's blocks, from the first on, Redis has. One round trip."""

        async def exists(client: redis.asyncio.Redis) -> int:
            async with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.exists(self._name(key))
                answers = await pipe.execute()
            return next((index for index, answer in enumerate(answers) if not answer), len(keys))

        return await self._gate.call(CallKind.READ, exists) if keys else 0

    async def get(self, keys: Sequence[BlockKey], *, scope: bytes = b"", num_bytes: int = 0) -> list[memoryview] | Miss:
        """Return the blocks of the run from the first key on; shorter where one is missing or not what it says.

        ``num_bytes``: about how much that is if all are there; it is waited for in proportion.
        """
        if not keys:
            return []

        async def fetch(client: redis.asyncio.Redis) -> list[bytes | str | None]:
            return list(await client.mget([self._name(key, scope) for key in keys]))

        values = await self._gate.call(CallKind.READ, fetch, num_bytes=num_bytes)
        if isinstance(values, Miss):
            return values
        blocks: list[memoryview] = []
        for key, value in zip(keys, values, strict=True):
            if not isinstance(value, bytes):
                break
            opened = self._envelope.open(key, value)
            if not isinstance(opened, Opened):
                self.refused[opened] += 1
                break
            blocks.append(opened.payload)
        return blocks

    async def put(self, blocks: Mapping[BlockKey, bytes | bytearray | memoryview]) -> int | Miss:
        """Store blocks; return how many are stored now. A full Redis takes fewer or none."""
        return await self.put_sealed({key: self._envelope.seal(key, payload) for key, payload in blocks.items()})

    async def put_sealed(self, blocks: Mapping[BlockKey, bytes], *, scope: bytes = b"") -> int | Miss:
        """Store blocks that are sealed already."""
        if not blocks:
            return 0
        values = [(self._name(key, scope), value) for key, value in blocks.items()]

        async def store(client: redis.asyncio.Redis) -> int:
            async with client.pipeline(transaction=False) as pipe:
                for name, value in values:
                    pipe.set(name, value, px=self._ttl_ms)
                return sum(bool(answer) for answer in await pipe.execute())

        num_bytes = sum(len(value) for value in blocks.values())
        return await self._gate.call(CallKind.WRITE, store, num_bytes=num_bytes)

    async def drop(self, keys: Sequence[BlockKey], *, scope: bytes = b"") -> int | Miss:
        """Remove blocks; return how many were there."""
        if not keys:
            return 0

        async def unlink(client: redis.asyncio.Redis) -> int:
            return int(await client.unlink(*(self._name(key, scope) for key in keys)))

        return await self._gate.call(CallKind.WRITE, unlink)

    def _name(self, key: BlockKey, scope: bytes = b"") -> bytes:
        return self._prefix + (blake3(scope + key).digest() if scope else key)
