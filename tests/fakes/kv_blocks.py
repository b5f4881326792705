"""A block table of the smallest useful kind: owners, generations, pins, and bytes in one bytearray."""

import threading
from dataclasses import dataclass, field

from tandem.kvtransfer import BlockRef, TransferKey


@dataclass
class _Block:
    generation: int = 0
    owner: TransferKey | None = None
    pins: int = 0


@dataclass
class FakeBlocks:
    """Serves as SourceBlocks and DestinationBlocks. ``guarded=False`` takes the ownership checks out (a mutant)."""

    num_blocks: int
    block_bytes: int
    guarded: bool = True
    data: bytearray = field(init=False)
    num_writes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.data = bytearray(self.num_blocks * self.block_bytes)
        self._blocks = [_Block() for _ in range(self.num_blocks)]
        self._lock = threading.Lock()

    def allocate(self, key: TransferKey, count: int) -> list[BlockRef]:
        """Take ``count`` free blocks for ``key``; each begins a new generation."""
        with self._lock:
            free = [index for index, block in enumerate(self._blocks) if block.owner is None and not block.pins]
            if len(free) < count:
                raise RuntimeError(f"{count} blocks wanted, {len(free)} free")
            for index in free[:count]:
                self._blocks[index].generation += 1
                self._blocks[index].owner = key
            return [BlockRef(index, self._blocks[index].generation) for index in free[:count]]

    def free(self, key: TransferKey) -> None:
        """Free every block of ``key``; idempotent."""
        with self._lock:
            for block in self._blocks:
                if block.owner == key:
                    block.owner = None

    def view(self, ref: BlockRef) -> memoryview:
        """Bytes of one block, unchecked."""
        start = ref.block_id * self.block_bytes
        return memoryview(self.data)[start : start + self.block_bytes]

    def num_free(self) -> int:
        """Blocks that could be allocated now."""
        with self._lock:
            return sum(block.owner is None and not block.pins for block in self._blocks)

    def pin(self, ref: BlockRef, key: TransferKey) -> memoryview | None:
        """See SourceBlocks."""
        with self._lock:
            block = self._blocks[ref.block_id]
            if self.guarded and (block.owner != key or block.generation != ref.generation):
                return None
            block.pins += 1
            return self.view(ref)

    def unpin(self, ref: BlockRef, key: TransferKey) -> None:
        """See SourceBlocks."""
        with self._lock:
            self._blocks[ref.block_id].pins -= 1
            if self._blocks[ref.block_id].pins < 0:
                raise RuntimeError("unpinned more often than pinned")

    def begin_write(self, ref: BlockRef, key: TransferKey) -> memoryview | None:
        """See DestinationBlocks."""
        view = self.pin(ref, key)
        self.num_writes += view is not None
        return view

    def end_write(self, ref: BlockRef, key: TransferKey) -> None:
        """See DestinationBlocks."""
        self.unpin(ref, key)
