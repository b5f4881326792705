"""What both benchmark processes share: the layout, and a block table over one anonymous mapping."""

import mmap
import os
import threading

import numpy as np

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvLayout

LAYOUT = KvLayout(  # SmolLM2-135M in float32: 30 layers, 3 KV heads of 64, blocks of 16 tokens
    model_digest="benchmark",
    tokenizer_digest="benchmark",
    dtype="float32",
    num_layers=30,
    num_kv_heads=3,
    head_dim=64,
    block_size=16,
    rope_digest="benchmark",
)
BLOCK_BYTES = LAYOUT.block_bytes  # 737,280
PIECE_BYTES = 256 * 1024
SOCKET_BUFFER_BYTES = 4 << 20  # the same for the services' sockets and the plain ones


def pin_to_cpu(number: int) -> None:
    """Keep this process (and threads it starts later) on one CPU, where there are several.

    The kernel likes to wake a socket's reader on the writer's CPU; two ends sharing one CPU measure the scheduler.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[number % len(cpus)]})


def key_of(number: int) -> AttemptKey:
    """Return the identity of one round's hand-over."""
    return AttemptKey(RequestId(f"{number:032x}"), 0)


class BenchmarkBlocks:
    """Blocks that always belong to whoever asks, behind a lock as a real table has; every page is touched at once."""

    def __init__(self, num_blocks: int, *, seed: int | None = None) -> None:
        self.memory = mmap.mmap(-1, num_blocks * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.array = np.frombuffer(self.memory, np.uint8)
        if seed is None:
            self.array[:] = 0
        else:
            noise = np.random.default_rng(seed).integers(0, 256, BLOCK_BYTES + 4093, dtype=np.uint8)
            for start in range(0, len(self.array), len(noise)):  # a period that no block boundary shares
                part = self.array[start : start + len(noise)]
                part[:] = noise[: len(part)]
        view = memoryview(self.memory)
        self.views = [view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] for index in range(num_blocks)]
        self.refs = [BlockRef(index, 1) for index in range(num_blocks)]
        self._lock = threading.Lock()

    def pin(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """See SourceBlocks."""
        with self._lock:
            return self.views[ref.block_id]

    def unpin(self, ref: BlockRef, key: AttemptKey) -> None:
        """See SourceBlocks."""
        with self._lock:
            return

    def begin_write(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """See DestinationBlocks."""
        with self._lock:
            return self.views[ref.block_id]

    def end_write(self, ref: BlockRef, key: AttemptKey) -> None:
        """See DestinationBlocks."""
        with self._lock:
            return
