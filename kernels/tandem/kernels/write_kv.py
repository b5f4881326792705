# mypy: disable-error-code="untyped-decorator"
# (triton.jit is untyped)
"""Scatter new keys and values into the paged cache.

Formula: for every row t with slot_t >= 0::

    cache[slot_t // block_size, 0, slot_t % block_size] = key_t
    cache[slot_t // block_size, 1, slot_t % block_size] = value_t
"""

import torch
import triton
import triton.language as tl

from tandem.kernels.batch import cache_strides
from tandem.kernels.tiles import COMPILE_OPTIONS


@triton.jit
def _write_kv_kernel(  # noqa: PLR0917 (a launch passes positionally)
    key_ptr: tl.tensor,
    value_ptr: tl.tensor,
    cache_ptr: tl.tensor,
    slots_ptr: tl.tensor,
    key_stride_row: tl.tensor,
    key_stride_head: tl.tensor,
    value_stride_row: tl.tensor,
    value_stride_head: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_value: tl.tensor,
    cache_stride_token: tl.tensor,
    cache_stride_head: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_DIM: tl.constexpr,
) -> None:
    """One program copies one token."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot < 0:
        return
    heads = tl.arange(0, TILE_HEADS)[:, None]
    dims = tl.arange(0, TILE_DIM)[None, :]
    mask = (heads < NUM_HEADS) & (dims < HEAD_DIM)
    key = tl.load(key_ptr + row * key_stride_row + heads * key_stride_head + dims, mask=mask)
    value = tl.load(value_ptr + row * value_stride_row + heads * value_stride_head + dims, mask=mask)
    # In 64 bits: a large pool has more elements than 32 bits can count.
    target = cache_ptr + (slot // BLOCK_SIZE) * cache_stride_block + (slot % BLOCK_SIZE) * cache_stride_token
    target += heads * cache_stride_head + dims
    tl.store(target, key, mask=mask)
    tl.store(target + cache_stride_value, value, mask=mask)


def write_kv(key: torch.Tensor, value: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Write key and value [T, num_kv_heads, head_dim] into ``cache``, a view of one layer, in place.

    ``cache`` is [num_blocks, 2, block_size, num_kv_heads, head_dim] with any strides but the last; ``slots`` [T]
    (int32 or int64) are ``block * block_size + offset``, or negative for a row to skip. No two rows may share a slot.
    Raises ValueError if the shapes or dtypes do not fit.
    """
    strides = cache_strides(cache)
    num_tokens, num_heads, head_dim = key.shape
    if key.shape != value.shape or cache.shape[3:] != key.shape[1:] or slots.shape != (num_tokens,):
        raise ValueError(
            f"key {tuple(key.shape)}, value {tuple(value.shape)}, slots {tuple(slots.shape)} and cache "
            f"{tuple(cache.shape)} do not fit each other"
        )
    if key.dtype != cache.dtype or value.dtype != cache.dtype:
        raise ValueError(f"key is {key.dtype}, value {value.dtype}, cache {cache.dtype}; they must be the same")
    if key.stride(2) != 1 or value.stride(2) != 1:
        raise ValueError("the elements of a head must lie side by side in key and value")
    if num_tokens == 0:
        return
    _write_kv_kernel[(num_tokens,)](
        key,
        value,
        cache,
        slots,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        strides.block,
        strides.value,
        strides.token,
        strides.head,
        BLOCK_SIZE=cache.shape[2],
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        TILE_HEADS=triton.next_power_of_2(num_heads),
        TILE_DIM=triton.next_power_of_2(head_dim),
        **COMPILE_OPTIONS,
    )
