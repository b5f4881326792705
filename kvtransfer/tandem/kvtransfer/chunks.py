"""How a hand-over is cut into chunks. The cut is fixed by the grant, so a chunk number says its one legal place."""

from dataclasses import dataclass


@dataclass(slots=True)
class ChunkPlace:
    """Bytes ``[offset, offset + length)`` of the block with this position in the transfer."""

    ordinal: int
    offset: int
    length: int


class ChunkPlan:
    """Chunks 0 … num_chunks-1, in block order, each inside one block and as long as ``chunk_bytes`` allows."""

    def __init__(self, *, num_blocks: int, block_bytes: int, chunk_bytes: int) -> None:
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        self.chunk_bytes = chunk_bytes
        self.per_block = -(-block_bytes // chunk_bytes)
        self.num_chunks = num_blocks * self.per_block

    def place(self, seq: int) -> ChunkPlace | None:
        """Return the place of chunk ``seq``; None if there is no such chunk."""
        if not 0 <= seq < self.num_chunks:
            return None
        ordinal, piece = divmod(seq, self.per_block)
        offset = piece * self.chunk_bytes
        return ChunkPlace(ordinal, offset, min(self.chunk_bytes, self.block_bytes - offset))

    def seqs_of_block(self, ordinal: int) -> range:
        """Return the chunk numbers of one block."""
        return range(ordinal * self.per_block, (ordinal + 1) * self.per_block)
