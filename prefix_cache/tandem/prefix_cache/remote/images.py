"""Images of workers' caches in Redis: sealed, each key with an end to its life, no value read beyond its bound.

A new image is written beside the old one, part by part; then the head is replaced. So a reader finds the old image or
the new one; one that was removed under its hands is torn, and refused.
"""

from collections.abc import Sequence

import redis.asyncio

from tandem.core.errors import InvalidArgument
from tandem.prefix_cache.events import Stored
from tandem.prefix_cache.image import (
    MAX_HEAD_BYTES,
    ImageHead,
    ImagePart,
    ImageRefusal,
    ImageSubject,
    decode_head,
    decode_part,
    encode_head,
    encode_part,
    head_key,
    part_key,
)
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import INDEX_IMAGE, BlockEnvelope, Opened
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate

_NAMES_PER_CALL = 256  # of small calls: renewals, removals


class RemoteImages:
    """Reads and writes images of one namespace. asyncio, one loop."""

    def __init__(self, gate: RedisGate, *, secret: bytes, namespace: str, ttl_s: float) -> None:
        """Raise InvalidArgument for a life of no length: every key must end by itself."""
        if ttl_s <= 0.0:
            raise InvalidArgument("router.cache.image.ttl_s", f"{ttl_s} is not above 0")
        self.gate = gate
        self.prefix = f"{namespace}:index:"
        self._secret = secret
        self._ttl_ms = max(int(1e3 * ttl_s), 1)

    async def read_head(self, subject: ImageSubject) -> ImageHead | ImageRefusal | Miss | None:
        """Return the head of a worker's image; None: there is no image."""
        name = self._head_name(subject)

        async def fetch(client: redis.asyncio.Redis) -> object:
            return await client.getrange(name, 0, MAX_HEAD_BYTES)

        value = await self.gate.call(CallKind.READ, fetch)
        if isinstance(value, Miss):
            return value
        if not isinstance(value, bytes) or not value:
            return None
        opened = self._envelope(subject).open(head_key(subject.worker_id), value)
        if not isinstance(opened, Opened):
            return ImageRefusal(opened.value)
        return decode_head(opened.payload) or ImageRefusal.MALFORMED

    async def read_parts(
        self, subject: ImageSubject, head: ImageHead, numbers: Sequence[int]
    ) -> list[Stored] | ImageRefusal | Miss:
        """Return some parts of an image; one round trip, waited for in proportion to their size."""
        parts = [head.parts[number] for number in numbers]
        names = [self._part_name(subject, head.image_id, number) for number in numbers]

        async def fetch(client: redis.asyncio.Redis) -> list[object]:
            async with client.pipeline(transaction=False) as pipe:
                for name, part in zip(names, parts, strict=True):
                    pipe.getrange(name, 0, part.num_bytes)  # one byte more than it should have
                return list(await pipe.execute())

        values = await self.gate.call(CallKind.READ, fetch, num_bytes=sum(part.num_bytes for part in parts))
        if isinstance(values, Miss):
            return values
        envelope, found = self._envelope(subject), []
        for number, part, value in zip(numbers, parts, values, strict=True):
            stored = _open_part(envelope, part_key(head.image_id, number, part.tier), part, value)
            if isinstance(stored, ImageRefusal):
                return stored
            found.append(stored)
        return found

    async def write_part(self, subject: ImageSubject, image_id: bytes, number: int, held: Stored) -> Miss | None:
        """Store one part of an image that has no head yet."""
        value = self._envelope(subject).seal(part_key(image_id, number, held.tier), encode_part(held.keys))
        return await self._set(self._part_name(subject, image_id, number), value)

    async def write_head(self, subject: ImageSubject, head: ImageHead) -> Miss | None:
        """Make an image whose parts are stored the worker's image."""
        value = self._envelope(subject).seal(head_key(subject.worker_id), encode_head(head))
        return await self._set(self._head_name(subject), value)

    async def renew(self, subject: ImageSubject, head: ImageHead) -> bool | Miss:
        """Give an image a new life; False when it is not whole any more."""
        names = [self._head_name(subject), *self._part_names(subject, head)]
        for start in range(0, len(names), _NAMES_PER_CALL):
            some = names[start : start + _NAMES_PER_CALL]

            async def expire(client: redis.asyncio.Redis, some: Sequence[str] = some) -> bool:
                async with client.pipeline(transaction=False) as pipe:
                    for name in some:
                        pipe.pexpire(name, self._ttl_ms)
                    return all(await pipe.execute())

            renewed = await self.gate.call(CallKind.WRITE, expire)
            if renewed is not True:
                return renewed
        return True

    async def drop_parts(self, subject: ImageSubject, head: ImageHead) -> bool:
        """Remove an image's parts; False when Redis does not let us."""
        return await self._unlink(self._part_names(subject, head))

    async def drop_head(self, subject: ImageSubject) -> bool:
        """Let nobody find the worker's image; False when Redis does not let us."""
        return await self._unlink([self._head_name(subject)])

    async def close(self) -> None:
        """Close every connection."""
        await self.gate.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _set(self, name: str, value: bytes) -> Miss | None:
        async def store(client: redis.asyncio.Redis) -> None:
            await client.set(name, value, px=self._ttl_ms)

        return await self.gate.call(CallKind.WRITE, store, num_bytes=len(value))

    async def _unlink(self, names: Sequence[str]) -> bool:
        for start in range(0, len(names), _NAMES_PER_CALL):
            some = names[start : start + _NAMES_PER_CALL]

            async def unlink(client: redis.asyncio.Redis, some: Sequence[str] = some) -> int:
                return int(await client.unlink(*some))

            if isinstance(await self.gate.call(CallKind.WRITE, unlink), Miss):
                return False
        return True

    def _envelope(self, subject: ImageSubject) -> BlockEnvelope:
        return BlockEnvelope(self._secret, layout_fingerprint=subject.layout, kind=INDEX_IMAGE)

    def _head_name(self, subject: ImageSubject) -> str:
        return f"{self.prefix}head:{subject.worker_id}"

    def _part_name(self, subject: ImageSubject, image_id: bytes, number: int) -> str:
        return f"{self.prefix}part:{subject.worker_id}:{image_id.hex()}:{number}"

    def _part_names(self, subject: ImageSubject, head: ImageHead) -> list[str]:
        return [self._part_name(subject, head.image_id, number) for number in range(len(head.parts))]


def _open_part(envelope: BlockEnvelope, key: BlockKey, part: ImagePart, value: object) -> Stored | ImageRefusal:
    if not isinstance(value, bytes) or not value:
        return ImageRefusal.TORN
    opened = envelope.open(key, value)
    if not isinstance(opened, Opened):
        return ImageRefusal(opened.value)
    return decode_part(part, opened.payload) or ImageRefusal.MALFORMED
