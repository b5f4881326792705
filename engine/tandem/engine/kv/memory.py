"""The KV pool and its block table used together: what the scheduler calls to get, copy and give back blocks.

Engine thread only. Hand-over threads use the table (and the pool's bytes) alone.
"""

from collections.abc import Sequence

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.clock import Clock, MonotonicClock
from tandem.core.ids import Tenant
from tandem.engine.kv.block_cache import BlockCache, CacheSetup
from tandem.engine.kv.block_table import BlockState, BlockTable, Placement
from tandem.engine.kv.pool import KvPool


class KvMemory:
    """Blocks come out cleared; a failed request's blocks go back cleared."""

    def __init__(self, pool: KvPool, *, cache: CacheSetup | None = None, clock: Clock | None = None) -> None:
        """``cache``: keep blocks for reuse; without it a released block is free."""
        self.pool = pool
        self.table = BlockTable(pool.num_blocks)
        self.cache: BlockCache | None = None
        if cache is not None:
            self.cache = BlockCache(self.table, cache, block_size=pool.block_size, clock=clock or MonotonicClock())

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.pool.block_size

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool."""
        return self.pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that can be had now: free ones, and cached ones that nobody reads."""
        if self.cache is not None:
            self.cache.expire()
        return self.table.num_available

    @property
    def num_free_without_pins(self) -> int:
        """Like ``num_free``, if no prefix were pinned."""
        return self.num_free + self.table.num_kept_idle

    def yield_pins(self, num_blocks: int, asker: Tenant) -> None:
        """Let go of pinned prefixes, no more than it takes, if ``num_blocks`` can be had only without them."""
        if self.cache is None or num_blocks > self.num_free_without_pins:
            return
        while num_blocks > self.num_free and self.cache.unkeep_one(asker):
            pass

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.pool.block_size)

    def allocate(
        self, key: AttemptKey, num_blocks: int, state: BlockState, placement: Placement = Placement.WITH_ROOM
    ) -> tuple[BlockRef, ...]:
        """Return cleared blocks; raises NoBlocks."""
        self._make_room(num_blocks)
        refs = self.table.allocate(key, num_blocks, state, placement)
        self._clear(refs)
        return refs

    def grow(self, key: AttemptKey, after: BlockRef) -> BlockRef:
        """Return one more cleared block for a decoding sequence whose last block is ``after``; raises NoBlocks."""
        self._make_room(1)
        refs = self.table.grow(key, 1, BlockState.COMMITTED, after)
        self._clear(refs)
        return refs[0]

    def fork(self, key: AttemptKey, refs: Sequence[BlockRef], num_tokens: int) -> tuple[BlockRef, ...]:
        """Return a second table over the KV of ``num_tokens`` tokens: full blocks shared, a partial last one copied.

        Raises NoBlocks, and then nothing has changed.
        """
        num_full = num_tokens // self.pool.block_size
        partial = refs[num_full : self.blocks_for(num_tokens)]
        self._make_room(len(partial))
        copies = self.table.allocate(key, len(partial), BlockState.COMMITTED)
        for source, target in zip(partial, copies, strict=True):
            self.pool.copy(source.block_id, target.block_id)
        self.table.share(key, refs[:num_full])
        return (*refs[:num_full], *copies)

    def release(self, key: AttemptKey, refs: Sequence[BlockRef]) -> None:
        """Drop one reference to each block: what is not cached is free then (or at its last unpin)."""
        returned = self.table.release(key, refs)
        if self.cache is not None:
            self.cache.returned(returned)

    def release_all(self, key: AttemptKey) -> None:
        """Drop every reference that ``key`` holds."""
        returned = self.table.borrowed(key)
        self.table.release_all(key)
        if self.cache is not None:
            self.cache.returned(returned)

    def is_finite(self, refs: Sequence[BlockRef]) -> bool:
        """Tell whether the KV in these blocks is finite throughout."""
        return self.pool.is_finite(ref.block_id for ref in refs)

    def scrub(self, refs: Sequence[BlockRef]) -> None:
        """Clear blocks whose KV is not finite, while they still belong to the failed request."""
        self._clear(refs)

    def _make_room(self, num_blocks: int) -> None:
        if self.cache is not None and num_blocks <= self.num_free:  # else the allocation is refused anyway
            self.cache.make_room(num_blocks)

    def _clear(self, refs: Sequence[BlockRef]) -> None:
        for ref in refs:
            self.pool.zero(ref.block_id)
