"""Lets the KV threads reach the engine's blocks: the block table decides, the pool gives the bytes.

The block table's lock makes "is it still his?" and "hold it" one step; that is all the two sides share.
"""

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockTable
from tandem.engine.kv.pool import KvPool
from tandem.kvtransfer import grant as wire
from tandem.kvtransfer.identity import TransferKey


def to_transfer_key(key: AttemptKey) -> TransferKey:
    """Return the hand-over's name for an attempt: one hand-over per attempt, whatever the number of children."""
    return TransferKey(key.request_id, key.attempt)


def to_attempt_key(key: TransferKey) -> AttemptKey:
    """Return the engine's name for a hand-over."""
    return AttemptKey(request_id=RequestId(key.request_id), attempt=key.attempt)


def to_wire_ref(ref: BlockRef) -> wire.BlockRef:
    """Return a block reference as grants write it."""
    return wire.BlockRef(ref.block_id, ref.generation)


class EngineBlockMemory:
    """Both sides of `tandem.kvtransfer.memory` over one engine's blocks. Safe from any thread."""

    def __init__(self, table: BlockTable, pool: KvPool) -> None:
        self._table = table
        # One view per block, made once: making one costs more than sending a small chunk.
        self._views = [pool.bytes_view(block_id) for block_id in range(pool.num_blocks)]

    def pin(self, ref: wire.BlockRef, key: TransferKey) -> memoryview | None:
        """Hold a block of the sender's while it is copied out; None when it is not the transfer's any more."""
        held = self._table.pin(_from_wire(ref), to_attempt_key(key))
        return self._views[ref.block_id] if held else None

    def unpin(self, ref: wire.BlockRef, key: TransferKey) -> None:
        """Let go of a pinned block."""
        self._table.unpin(_from_wire(ref))

    def begin_write(self, ref: wire.BlockRef, key: TransferKey) -> memoryview | None:
        """Hold a block of the receiver's while it is written; None when it does not wait for this transfer's bytes."""
        held = self._table.begin_write(_from_wire(ref), to_attempt_key(key))
        return self._views[ref.block_id] if held else None

    def end_write(self, ref: wire.BlockRef, key: TransferKey) -> None:
        """Let go of a written block."""
        self._table.end_write(_from_wire(ref))


def _from_wire(ref: wire.BlockRef) -> BlockRef:
    return BlockRef(block_id=ref.block_id, generation=ref.generation)
