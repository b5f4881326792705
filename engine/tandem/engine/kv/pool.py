"""The KV tensor. Who owns which block is the block table's business."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch

from tandem.engine.spec import ModelSpec


class KvPool:
    """All KV memory of one worker: ``data[block, layer, 0=K|1=V, token, kv_head, dim]``.

    Block-major, so that one block (all layers) is one contiguous range of bytes: the unit of hand-over.
    """

    def __init__(self, spec: ModelSpec, *, num_blocks: int, block_size: int, device: str, dtype: torch.dtype) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_blocks, len(spec.layers), 2, block_size, spec.num_kv_heads, spec.head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.data[0].numel() * self.data.element_size()

    def layer(self, index: int) -> torch.Tensor:
        """View of one layer: [num_blocks, 2, block_size, num_kv_heads, head_dim], strided, not contiguous."""
        return self.data[:, index]

    def zero(self, block_id: int) -> None:
        """Clear a block: nothing of its last owner may be seen, and no NaN may linger behind a mask."""
        self.data[block_id].zero_()

    def copy(self, source_id: int, target_id: int) -> None:
        """Copy all of one block into another."""
        self.data[target_id].copy_(self.data[source_id])

    def is_finite(self, block_ids: Iterable[int]) -> bool:
        """Tell whether every number of these blocks, of all layers, is finite.

        Extremes let a NaN through and cost a tenth of isfinite() on a CPU: 45 µs for 0.7 MB. Neighbours are read as
        one range, so a prompt's blocks are seldom more than a few reads.
        """
        ids = sorted(block_ids)
        starts = [place for place in range(len(ids)) if place == 0 or ids[place] != ids[place - 1] + 1]
        ranges = [self.data[ids[start] : ids[end - 1] + 1] for start, end in pairwise([*starts, len(ids)])]
        extremes = [torch.stack(torch.aminmax(blocks)) for blocks in ranges]
        return not extremes or bool(torch.isfinite(torch.cat(extremes)).all())

    def save(self, block_id: int) -> bytes:
        """Return a copy of a block's bytes, from whatever device the pool is on."""
        return self.data[block_id].reshape(-1).view(torch.uint8).cpu().numpy().tobytes()

    def restore(self, block_id: int, payload: memoryview) -> None:
        """Write what `save` returned into a block. Raises ValueError for another size."""
        target = self.data[block_id].reshape(-1).view(torch.uint8)
        if len(payload) != target.numel():
            raise ValueError(f"{len(payload)} bytes are not a block of {target.numel()}")
        target.copy_(torch.from_numpy(np.frombuffer(payload, dtype=np.uint8).copy()))

    def bytes_view(self, block_id: int) -> memoryview:
        """Writable bytes of one block; CPU pools only (raises ValueError on another device)."""
        if self.data.device.type != "cpu":
            raise ValueError(f"pool lives on {self.data.device}; copy the block to the host first")
        return self.data[block_id].reshape(-1).view(torch.uint8).numpy().data
