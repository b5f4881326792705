"""One worker's part of the Redis tier: what it stored there, bounded in bytes, and what it takes. asyncio, one loop."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.prefix_cache.config import RedisTierSection
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.breaker import BreakerPolicy, BreakerState
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tandem.prefix_cache.shares import SharedLru, Weights
from tandem.prefix_cache.tiers.scopes import RemoteScopes

Told = Callable[[tuple[BlockKey, ...]], None]


@dataclass(frozen=True, slots=True)
class _Stored:
    scope: bytes
    ends_s: float


class RemoteShelf:
    """Puts and gets sealed blocks. ``on_stored`` and ``on_removed`` are told what this worker has there."""

    def __init__(
        self,
        settings: RedisTierSection,
        url: str,
        envelope: BlockEnvelope,
        *,
        secret: bytes,
        clock: Clock,
        on_stored: Told,
        on_removed: Told,
        weights: Weights | None = None,
    ) -> None:
        breaker = BreakerPolicy(max_failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        policy = GatePolicy(
            timeout_s=settings.timeout_s,
            slowest_bytes_per_s=float(settings.slowest_bytes_per_s),
            max_in_flight=settings.max_in_flight,
            breaker=breaker,
        )
        self._gate = RedisGate(url, policy=policy, clock=clock)
        self._blocks = RemoteBlocks(self._gate, envelope, namespace=settings.namespace, ttl_s=settings.ttl_s)
        self._scopes = RemoteScopes(
            self._gate, namespace=settings.namespace, secret=secret, ttl_s=settings.ttl_s, clock=clock
        )
        self._settings = settings
        self._clock = clock
        self._on_stored, self._on_removed = on_stored, on_removed
        self._stored: SharedLru[_Stored] = SharedLru(weights or Weights())  # none is touched: the oldest first
        self.num_stored = 0
        self.num_failed = 0  # blocks that Redis did not take

    @property
    def num_blocks(self) -> int:
        """Blocks that this worker stored and that should still be there."""
        return len(self._stored)

    @property
    def num_bytes(self) -> int:
        """Sealed bytes of these blocks."""
        return self._stored.num_bytes

    @property
    def num_rejected(self) -> int:
        """Values that were not what their name says."""
        return self._blocks.refused.total()

    @property
    def misses(self) -> Counter[Miss]:
        """Why calls brought no answer."""
        return self._gate.counts

    def may_read(self) -> bool:
        """Whether a call would be made; one that only tries whether the server is back costs nothing. Any thread."""
        return self._gate.state(CallKind.READ) is not BreakerState.OPEN

    async def scope(self, tenant: Tenant) -> bytes | None:
        """Return where to look for blocks of ``tenant``; None: nowhere. One round trip."""
        if self._scopes.is_quiet(tenant):
            return None
        scope = await self._scopes.read(tenant)
        return scope if isinstance(scope, bytes) else None

    async def get(self, key: BlockKey, scope: bytes, *, num_bytes: int) -> memoryview | None:
        """Return one block's bytes, of which there should be ``num_bytes``; None is a miss."""
        found = await self._blocks.get((key,), scope=scope, num_bytes=num_bytes)
        if not isinstance(found, Miss) and found:
            return found[0]
        if not isinstance(found, Miss):
            self._forget([key])
        return None

    async def put(self, key: BlockKey, tenant: Tenant, value: bytes, *, is_wanted: Callable[[], bool]) -> None:
        """Store a sealed block; the oldest of who has most there make room.

        ``is_wanted`` is asked last: a flush may have come.
        """
        self._expire()
        if len(value) > self._settings.memory_bytes:
            self.num_failed += 1
            return
        scope = await self._scopes.write(tenant)
        if isinstance(scope, Miss) or not is_wanted():
            self.num_failed += 1
            return
        while (
            self.num_bytes + len(value) > self._settings.memory_bytes and (victim := self._stored.victim()) is not None
        ):
            if not await self._remove([victim]):
                self.num_failed += 1  # what can't be removed still counts: the bound holds also now
                return
        taken = await self._blocks.put_sealed({key: value}, scope=scope)
        if isinstance(taken, Miss) or not taken:
            self.num_failed += 1
            return
        self._stored.put(key, tenant, len(value), _Stored(scope, self._clock.now_s() + self._settings.ttl_s))
        self.num_stored += 1
        if is_wanted():
            self._on_stored((key,))

    async def flush(self, tenant: Tenant | None) -> None:
        """Let nobody find what is there of ``tenant`` (None = of all); if Redis is away, before it is used again."""
        self._scopes.forget(tenant)
        await self._scopes.settle()
        names = self._stored.keys_of(tenant)
        for start in range(0, len(names), 100):
            await self._remove(names[start : start + 100])

    @property
    def is_flush_pending(self) -> bool:
        """Whether Redis did not take a flush yet: nothing of those tenants is read or stored before. Any thread."""
        return self._scopes.is_flush_pending

    async def settle(self) -> None:
        """Try again what Redis did not take."""
        await self._scopes.settle()

    async def close(self) -> None:
        """Close every connection."""
        await self._gate.close()

    def _expire(self) -> None:
        now_s = self._clock.now_s()
        while (oldest := next(iter(self._stored), None)) is not None:
            stored = self._stored.get(oldest)
            if stored is None or stored.ends_s > now_s:
                return
            self._forget([oldest])

    async def _remove(self, keys: Sequence[BlockKey]) -> bool:
        by_scope: dict[bytes, list[BlockKey]] = {}
        for key in keys:
            stored = self._stored.get(key)
            if stored is not None:
                by_scope.setdefault(stored.scope, []).append(key)
        for scope, mine in by_scope.items():
            if isinstance(await self._blocks.drop(mine, scope=scope), Miss):
                return False
            self._forget(mine)
        return True

    def _forget(self, keys: Sequence[BlockKey]) -> None:
        gone = tuple(key for key in keys if self._stored.pop(key) is not None)
        if gone:
            self._on_removed(gone)
