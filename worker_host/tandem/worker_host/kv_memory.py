"""Lets the KV threads reach the engine's blocks: the block table decides, the pool gives the bytes.

The block table's lock makes "is it still his?" and "hold it" one step; that is all the two sides share.
"""

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_table import BlockTable
from tandem.engine.kv.pool import KvPool


class EngineBlockMemory:
    """Both sides of `tandem.kvtransfer.memory` over one engine's blocks. Safe from any thread."""

    def __init__(self, table: BlockTable, pool: KvPool) -> None:
        self._table = table
        # One view per block, made once: making one costs more than sending a small chunk.
        self._views = [pool.bytes_view(block_id) for block_id in range(pool.num_blocks)]

    def pin(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """Hold a block of the sender's while it is copied out; None when it is not the attempt's any more."""
        return self._views[ref.block_id] if self._table.pin(ref, key) else None

    def unpin(self, ref: BlockRef, key: AttemptKey) -> None:
        """Let go of a pinned block."""
        self._table.unpin(ref)

    def begin_write(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """Hold a block of the receiver's while it is written; None when it does not wait for this attempt's bytes."""
        return self._views[ref.block_id] if self._table.begin_write(ref, key) else None

    def end_write(self, ref: BlockRef, key: AttemptKey) -> None:
        """Let go of a written block."""
        self._table.end_write(ref)
