"""Cached blocks in a worker's own memory: sealed values, bounded in bytes, shared among tenants. Thread-safe.

A value is sealed by `BlockEnvelope` as it comes in and opened as it goes out: a name, a layout or a byte that is wrong
is a miss. A flush also keeps out what was copied before it and comes in after it (`HostFence`).
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import BlockEnvelope, Opened, Refusal
from tandem.prefix_cache.shares import SharedLru, Weights

_MAX_TENANT_FLUSHES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFence:
    """How often a tenant's blocks, and all blocks, had been flushed when a block's bytes left the pool."""

    tenant_flushes: int
    all_flushes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStats:
    """Counts since the start; ``num_bytes`` and ``num_blocks`` as of now."""

    num_blocks: int
    num_bytes: int
    num_hits: int
    num_misses: int
    num_stored: int
    num_evicted: int
    num_rejected: int  # values that were not what their name says


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One sealed block, and who brought it in."""

    key: BlockKey
    tenant: Tenant
    value: bytes


class HostBlocks:
    """Blocks of one layout, at most ``capacity_bytes`` of sealed values; a tenant's flood evicts its own."""

    def __init__(self, envelope: BlockEnvelope, *, capacity_bytes: int, weights: Weights | None = None) -> None:
        """``weights``: nothing = all tenants weigh the same. Raise InvalidArgument for a capacity not above 0."""
        if capacity_bytes <= 0:
            raise InvalidArgument("prefix_cache.host.memory_bytes", f"{capacity_bytes} is not above 0")
        self._envelope = envelope
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._entries: SharedLru[HostEntry] = SharedLru(weights or Weights())
        self._tenant_flushes: Counter[Tenant] = Counter()
        self._all_flushes = 0
        self._num_hits = self._num_misses = self._num_stored = self._num_evicted = 0
        self.refused: Counter[Refusal] = Counter()

    def fence(self, tenant: Tenant) -> HostFence:
        """Return what `put` needs; take it before the block's bytes are copied."""
        with self._lock:
            return self._fence(tenant)

    def put(
        self, key: BlockKey, tenant: Tenant, payload: bytes | bytearray | memoryview, fence: HostFence
    ) -> tuple[HostEntry, ...] | None:
        """Seal and keep a block; return the blocks that made room. None: it was flushed meanwhile, or is too large."""
        value = self._envelope.seal(key, payload)  # hashes every byte: outside the lock
        with self._lock:
            if fence != self._fence(tenant) or len(value) > self._capacity_bytes:
                return None
            self._entries.put(key, tenant, len(value), HostEntry(key, tenant, value))
            self._num_stored += 1
            gone: list[HostEntry] = []
            while self._entries.num_bytes > self._capacity_bytes and (victim := self._entries.victim()) is not None:
                entry = self._entries.pop(victim)
                if entry is not None:
                    gone.append(entry)
            self._num_evicted += len(gone)
            return tuple(gone)

    def refresh(self, key: BlockKey) -> bool:
        """Tell whether a block is here; then it counts as used just now."""
        with self._lock:
            if key not in self._entries:
                return False
            self._entries.touch(key)
            return True

    def num_held(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of these blocks, from the first on, are here. Counts nothing and opens nothing."""
        with self._lock:
            return next((index for index, key in enumerate(keys) if key not in self._entries), len(keys))

    def get(self, key: BlockKey) -> memoryview | None:
        """Return a block's bytes; None is a miss. A value that is not that block is dropped and counted."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._num_misses += 1
                return None
            self._entries.touch(key)
        opened = self._envelope.open(key, entry.value)
        with self._lock:
            if isinstance(opened, Opened):
                self._num_hits += 1
                return opened.payload
            self.refused[opened] += 1
            self._num_misses += 1
            if self._entries.get(key) is entry:
                self._entries.pop(key)
            return None

    def flush(self, tenant: Tenant | None) -> tuple[BlockKey, ...]:
        """Drop what is here of ``tenant`` (None = of anybody), and what is on its way; return the names."""
        with self._lock:
            if tenant is None or len(self._tenant_flushes) >= _MAX_TENANT_FLUSHES:
                self._all_flushes += 1  # what is on its way of anybody else stays out as well: that costs a computing
                self._tenant_flushes.clear()
            else:
                self._tenant_flushes[tenant] += 1
            gone = self._entries.keys_of(tenant)
            for key in gone:
                self._entries.pop(key)
            return gone

    def stats(self) -> HostStats:
        """Return the numbers."""
        with self._lock:
            return HostStats(
                num_blocks=len(self._entries),
                num_bytes=self._entries.num_bytes,
                num_hits=self._num_hits,
                num_misses=self._num_misses,
                num_stored=self._num_stored,
                num_evicted=self._num_evicted,
                num_rejected=self.refused.total(),
            )

    def _fence(self, tenant: Tenant) -> HostFence:
        return HostFence(tenant_flushes=self._tenant_flushes[tenant], all_flushes=self._all_flushes)
