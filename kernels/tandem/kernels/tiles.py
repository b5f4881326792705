"""Tile sizes of the attention kernels: a small static table instead of tuning at run time.

The sizes depend on the head and the element type alone, never on the batch: the order in which a row's numbers are
added up, and so its result to the last bit, is then the same whatever else runs beside it.
"""

from dataclasses import dataclass

import torch
import triton

# Said outright, because Triton is about to change its default, and warns on every launch that leaves it open.
COMPILE_OPTIONS: dict[str, int | bool] = {"enable_fp_fusion": True}

# tl.dot needs at least this many rows, columns and inner elements.
_SMALLEST_TILE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Shape of one program's work: queries x keys at a time, each ``dim`` elements wide after padding."""

    queries: int
    keys: int
    dim: int
    num_warps: int
    num_stages: int

    def launch_options(self) -> dict[str, int | bool]:
        """Keyword arguments of a kernel launch."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **COMPILE_OPTIONS}


def padded(size: int) -> int:
    """Return the tile that holds ``size``: a power of two, large enough for tl.dot."""
    return max(_SMALLEST_TILE, int(triton.next_power_of_2(size)))


def prefill_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Return tiles for many queries per sequence. Bounded by shared memory: wide heads and fp32 get fewer queries."""
    dim = padded(head_dim)
    if dtype == torch.float32:
        return Tiles(queries=32, keys=32, dim=dim, num_warps=4, num_stages=1)
    if dim <= 64:
        return Tiles(queries=128, keys=64, dim=dim, num_warps=4, num_stages=3)
    if dim <= 128:
        return Tiles(queries=128, keys=64, dim=dim, num_warps=8, num_stages=2)
    return Tiles(queries=64, keys=32, dim=dim, num_warps=8, num_stages=2)


def decode_tiles(head_dim: int, dtype: torch.dtype, heads_per_kv_head: int) -> Tiles:
    """Return tiles for one query per sequence: the "queries" are the query heads that share a kv head."""
    dim = padded(head_dim)
    if dtype == torch.float32:
        return Tiles(queries=padded(heads_per_kv_head), keys=32, dim=dim, num_warps=4, num_stages=1)
    keys = 64 if dim <= 128 else 32
    return Tiles(queries=padded(heads_per_kv_head), keys=keys, dim=dim, num_warps=4, num_stages=2)
