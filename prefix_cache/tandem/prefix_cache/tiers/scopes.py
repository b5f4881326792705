"""Which blocks of a tenant in Redis still count: a random word per tenant, and one for all, mixed into their names.

A flush removes the word; whoever stores next draws a new one, and nothing from before is found again, whoever stored
it, also a worker that is gone. A word that Redis lost has the same effect. What can't be flushed now, because Redis
does not answer, is not used before it is.

Workers are flushed one after another: one that is through could take a block from one that is not. So a worker reads
nothing of a flushed tenant for as long as a flush may last.
"""

import secrets

import redis.asyncio
from blake3 import blake3

from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate

_CONTEXT = "tandem prefix cache: name of a tenant's word in Redis, v1"
_WORD_BYTES = 16
_QUIET_S = 10.0  # longer than a router waits for the workers at a flush
_MAX_TENANTS = 1024


class RemoteScopes:
    """The scope of each tenant. asyncio, one loop."""

    def __init__(self, gate: RedisGate, *, namespace: str, secret: bytes, ttl_s: float, clock: Clock) -> None:
        self._gate = gate
        self._prefix = f"{namespace}:kvscope:"
        self._key = blake3(secret, derive_key_context=_CONTEXT).digest()
        self._ttl_ms = max(int(2e3 * ttl_s), 1)
        self._clock = clock
        self._quiet_until_s: dict[Tenant | None, float] = {}
        self._unflushed: set[Tenant | None] = set()

    def is_quiet(self, tenant: Tenant) -> bool:
        """Whether blocks of ``tenant`` are left alone: a flush may still be on its way to other workers."""
        now_s = self._clock.now_s()
        if self._quiet_until_s:
            self._quiet_until_s = {who: until_s for who, until_s in self._quiet_until_s.items() if until_s > now_s}
        return tenant in self._quiet_until_s or None in self._quiet_until_s

    @property
    def is_flush_pending(self) -> bool:
        """Whether Redis did not take a flush yet. Any thread."""
        return bool(self._unflushed)

    def forget(self, tenant: Tenant | None) -> None:
        """Begin a flush of ``tenant`` (None = of all); `settle` does it."""
        if len(self._unflushed) >= _MAX_TENANTS or len(self._quiet_until_s) >= _MAX_TENANTS:
            self._unflushed.clear()
            self._quiet_until_s.clear()
            tenant = None
        self._unflushed.add(tenant)
        self._quiet_until_s[tenant] = self._clock.now_s() + _QUIET_S

    async def settle(self) -> bool:
        """Remove the words of flushed tenants; False while Redis does not let us."""
        while self._unflushed:
            tenant = next(iter(self._unflushed))

            async def remove(client: redis.asyncio.Redis, name: str = self._name(tenant)) -> int:
                return int(await client.unlink(name))

            if isinstance(await self._gate.call(CallKind.WRITE, remove), Miss):
                return False
            self._unflushed.discard(tenant)
            self._quiet_until_s[tenant] = self._clock.now_s() + _QUIET_S
        return True

    async def read(self, tenant: Tenant) -> bytes | Miss | None:
        """Return the scope to look in; None: nothing of this tenant is there."""
        if self._unflushed and not await self.settle():
            return Miss.REFUSED

        async def words(client: redis.asyncio.Redis) -> list[bytes | str | None]:
            return list(await client.mget([self._name(None), self._name(tenant)]))

        found = await self._gate.call(CallKind.READ, words)
        return found if isinstance(found, Miss) else _joined(found)

    async def write(self, tenant: Tenant) -> bytes | Miss:
        """Return the scope to store in; it is made where there is none."""
        if self._unflushed and not await self.settle():
            return Miss.REFUSED
        names = (self._name(None), self._name(tenant))

        async def make(client: redis.asyncio.Redis) -> list[bytes | str | None]:
            async with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.set(name, secrets.token_bytes(_WORD_BYTES), px=self._ttl_ms, nx=True)
                    pipe.pexpire(name, self._ttl_ms)
                pipe.mget(names)
                return list((await pipe.execute())[-1])

        found = await self._gate.call(CallKind.WRITE, make)
        if isinstance(found, Miss):
            return found
        return _joined(found) or Miss.REFUSED

    def _name(self, tenant: Tenant | None) -> str:
        # No tenant's name stands in Redis.
        return self._prefix + ("all" if tenant is None else blake3(tenant.encode(), key=self._key).hexdigest())


def _joined(words: list[bytes | str | None]) -> bytes | None:
    if not all(isinstance(word, bytes) and len(word) == _WORD_BYTES for word in words):
        return None
    return b"".join(word for word in words if isinstance(word, bytes))
