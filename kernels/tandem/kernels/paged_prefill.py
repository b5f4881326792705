# mypy: disable-error-code="untyped-decorator"
# (triton.jit is untyped)
"""Causal attention of chunks of queries over the paged cache (varlen batch, prefix, window, soft cap, grouped heads).

Formula, for the query at position p of a sequence, head h, reading kv head g = h // (num_heads / num_kv_heads)::

    s_j = scale * q . k_{g,j}                      for the positions j with p - window < j <= p
    s_j = softcap * tanh(s_j / softcap)            if there is a soft cap
    o   = sum_j exp(s_j) v_{g,j} / sum_j exp(s_j)

One program does ``queries`` rows of one head of one sequence. It walks over the keys in tiles that begin at multiples
of the tile size counted from position 0, keeping a running maximum m and sum l (online softmax)::

    m' = max(m, max_j s_j)    l' = l * exp(m - m') + sum_j exp(s_j - m')    acc' = acc * exp(m - m') + exp(s - m') v

Because the tiles hang on positions, not on the chunk, a prompt gives the same bits however it is cut into chunks.
"""

import torch
import triton
import triton.language as tl

from tandem.kernels.batch import PagedBatch, Scoring, cache_strides, check_attention
from tandem.kernels.soft_cap import soft_capped
from tandem.kernels.tiles import Tiles, prefill_tiles


# What changes from batch to batch is not specialised on: no compilation while serving.
@triton.jit(do_not_specialize=["table_stride"])
def _paged_prefill_kernel(  # noqa: PLR0917 (a launch passes positionally)
    query_ptr: tl.tensor,
    cache_ptr: tl.tensor,
    output_ptr: tl.tensor,
    sequence_ids_ptr: tl.tensor,
    query_starts_ptr: tl.tensor,
    context_lens_ptr: tl.tensor,
    block_tables_ptr: tl.tensor,
    query_stride_row: tl.tensor,
    query_stride_head: tl.tensor,
    output_stride_row: tl.tensor,
    output_stride_head: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_value: tl.tensor,
    cache_stride_token: tl.tensor,
    cache_stride_head: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
    window_tokens: tl.tensor,
    softcap: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    TILE_DIM: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """Grid: (query tiles of the longest sequence, heads, listed sequences)."""
    sequence = tl.load(sequence_ids_ptr + tl.program_id(2))
    head = tl.program_id(1)
    first_row = tl.load(query_starts_ptr + sequence)
    query_len = tl.load(query_starts_ptr + sequence + 1) - first_row
    tile_start = tl.program_id(0) * TILE_QUERIES
    if tile_start >= query_len:
        return
    context_len = tl.load(context_lens_ptr + sequence)
    rows = tile_start + tl.arange(0, TILE_QUERIES)
    positions = context_len - query_len + rows
    dims = tl.arange(0, TILE_DIM)
    query_mask = (rows < query_len)[:, None] & (dims < HEAD_DIM)[None, :]
    global_rows = (first_row + rows).to(tl.int64)[:, None]
    query = tl.load(
        query_ptr + global_rows * query_stride_row + head * query_stride_head + dims[None, :],
        mask=query_mask,
        other=0.0,
    )

    last_position = context_len - query_len + tl.minimum(tile_start + TILE_QUERIES, query_len) - 1
    first_key = 0
    if HAS_WINDOW:
        first_key = tl.maximum(context_len - query_len + tile_start - window_tokens + 1, 0)
        first_key = (first_key // TILE_KEYS) * TILE_KEYS
    table = block_tables_ptr + sequence.to(tl.int64) * table_stride
    head_base = cache_ptr + (head // GROUP) * cache_stride_head

    running_max = tl.full((TILE_QUERIES,), float("-inf"), tl.float32)
    running_sum = tl.zeros((TILE_QUERIES,), tl.float32)
    accumulator = tl.zeros((TILE_QUERIES, TILE_DIM), tl.float32)
    for start in range(first_key, last_position + 1, TILE_KEYS):
        keys_at = start + tl.arange(0, TILE_KEYS)
        present = keys_at <= last_position
        blocks = tl.load(table + keys_at // BLOCK_SIZE, mask=present, other=0).to(tl.int64)
        base = head_base + blocks * cache_stride_block + (keys_at % BLOCK_SIZE) * cache_stride_token
        kv_mask = present[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(base[:, None] + dims[None, :], mask=kv_mask, other=0.0)
        value = tl.load(base[:, None] + cache_stride_value + dims[None, :], mask=kv_mask, other=0.0)

        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = soft_capped(scores, softcap)
        visible = keys_at[None, :] <= positions[:, None]
        if HAS_WINDOW:
            visible = visible & (keys_at[None, :] > positions[:, None] - window_tokens)
        scores = tl.where(visible, scores, float("-inf"))

        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen no key yet has a maximum of -inf; -inf - (-inf) would be NaN.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp(scores - shift[:, None])
        decay = tl.exp(running_max - shift)
        running_sum = running_sum * decay + tl.sum(weights, 1)
        accumulator = accumulator * decay[:, None]
        accumulator += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        running_max = new_max

    result = accumulator / tl.where(running_sum == 0.0, 1.0, running_sum)[:, None]
    target = output_ptr + global_rows * output_stride_row + head * output_stride_head + dims[None, :]
    tl.store(target, result.to(output_ptr.dtype.element_ty), mask=query_mask)


def paged_prefill(
    query: torch.Tensor,
    cache: torch.Tensor,
    output: torch.Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    *,
    tiles: Tiles | None = None,
) -> None:
    """Fill the rows of ``output`` [T, num_heads, head_dim] that belong to the batch's listed sequences.

    ``query`` is [T, num_heads, head_dim]; ``cache`` is a view of one layer [num_blocks, 2, block_size, num_kv_heads,
    head_dim] that already holds this pass's keys and values. Raises ValueError if the tensors do not fit.
    """
    strides = cache_strides(cache)
    check_attention(query, cache, output)
    num_sequences = batch.sequence_ids.shape[0]
    if num_sequences == 0 or batch.max_query_tokens == 0:
        return
    num_heads, head_dim = query.shape[1], query.shape[2]
    tiles = tiles or prefill_tiles(head_dim, query.dtype)
    grid = (triton.cdiv(batch.max_query_tokens, tiles.queries), num_heads, num_sequences)
    _paged_prefill_kernel[grid](
        query,
        cache,
        output,
        batch.sequence_ids,
        batch.query_starts,
        batch.context_lens,
        batch.block_tables,
        query.stride(0),
        query.stride(1),
        output.stride(0),
        output.stride(1),
        strides.block,
        strides.value,
        strides.token,
        strides.head,
        batch.block_tables.stride(0),
        scoring.scale,
        scoring.window_tokens or 0,
        scoring.softcap or 0.0,
        GROUP=num_heads // cache.shape[3],
        BLOCK_SIZE=cache.shape[2],
        HEAD_DIM=head_dim,
        TILE_QUERIES=tiles.queries,
        TILE_KEYS=tiles.keys,
        TILE_DIM=tiles.dim,
        HAS_WINDOW=scoring.window_tokens is not None,
        HAS_SOFTCAP=scoring.softcap is not None,
        **tiles.launch_options(),
    )
