# mypy: disable-error-code="untyped-decorator"
# (triton.jit is untyped)
"""Attention of one query per sequence over the paged cache, split along the context (two passes).

Formula: as in ``paged_prefill`` for a single query at the last position. The context is cut into splits so that a few
long sequences still fill a device. Pass 1: one program per (sequence, kv head, split) does the heads that share the kv
head and leaves, per head and split i, the maximum m_i, the sum l_i = sum_j exp(s_j - m_i) and acc_i = sum_j exp(s_j -
m_i) v_j. Pass 2 combines them::

    m = max_i m_i    o = sum_i exp(m_i - m) acc_i / sum_i exp(m_i - m) l_i

How a context is cut depends on its own length alone, not on the batch around it, so a sequence's result has the same
bits whoever its neighbours are.
"""

import torch
import triton
import triton.language as tl

from tandem.kernels.batch import PagedBatch, Scoring, cache_strides, check_attention
from tandem.kernels.soft_cap import soft_capped
from tandem.kernels.tiles import COMPILE_OPTIONS, Tiles, decode_tiles

# A context has at most _MAX_SPLITS splits (this bounds the scratch memory); a split has at least _MIN_SPLIT_TOKENS.
_MAX_SPLITS = 64
_MIN_SPLIT_TOKENS = 256


@triton.jit
def _split_tokens(context_len: tl.tensor, MIN_SPLIT_TOKENS: tl.constexpr, MAX_SPLITS: tl.constexpr) -> tl.tensor:
    """Tokens per split of a context: the smallest multiple of the minimum that needs at most MAX_SPLITS splits."""
    return tl.cdiv(tl.cdiv(context_len, MAX_SPLITS), MIN_SPLIT_TOKENS) * MIN_SPLIT_TOKENS


# The numbers that change from batch to batch are not specialised on: no compilation while serving.
@triton.jit(do_not_specialize=["table_stride", "num_splits"])
def _partial_kernel(  # noqa: PLR0917 (a launch passes positionally)
    query_ptr: tl.tensor,
    cache_ptr: tl.tensor,
    partial_ptr: tl.tensor,  # [Z, num_heads, splits, head_dim] fp32
    maximum_ptr: tl.tensor,  # [Z, num_heads, splits] fp32
    sum_ptr: tl.tensor,  # [Z, num_heads, splits] fp32
    sequence_ids_ptr: tl.tensor,
    query_starts_ptr: tl.tensor,
    context_lens_ptr: tl.tensor,
    block_tables_ptr: tl.tensor,
    query_stride_row: tl.tensor,
    query_stride_head: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_value: tl.tensor,
    cache_stride_token: tl.tensor,
    cache_stride_head: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
    window_tokens: tl.tensor,
    softcap: tl.tensor,
    num_splits: tl.tensor,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    TILE_DIM: tl.constexpr,
    MIN_SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """Grid: (listed sequences, kv heads, splits)."""
    place = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    sequence = tl.load(sequence_ids_ptr + place)
    context_len = tl.load(context_lens_ptr + sequence)
    split_tokens = _split_tokens(context_len, MIN_SPLIT_TOKENS, MAX_SPLITS)
    split_start = split * split_tokens
    split_end = tl.minimum(split_start + split_tokens, context_len)
    if split_start >= context_len:
        return  # a shorter sequence than the longest: pass 2 reads only the splits it has

    members = tl.arange(0, TILE_HEADS)
    heads = kv_head * GROUP + members
    dims = tl.arange(0, TILE_DIM)
    tile_mask = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    row = tl.load(query_starts_ptr + sequence).to(tl.int64)
    query = tl.load(
        query_ptr + row * query_stride_row + heads[:, None] * query_stride_head + dims[None, :],
        mask=tile_mask,
        other=0.0,
    )

    first_key = split_start
    if HAS_WINDOW:
        first_visible = tl.maximum(context_len - window_tokens, 0)
        first_key = tl.maximum(first_key, (first_visible // TILE_KEYS) * TILE_KEYS)
    table = block_tables_ptr + sequence.to(tl.int64) * table_stride
    head_base = cache_ptr + kv_head * cache_stride_head
    running_max = tl.full((TILE_HEADS,), float("-inf"), tl.float32)
    running_sum = tl.zeros((TILE_HEADS,), tl.float32)
    accumulator = tl.zeros((TILE_HEADS, TILE_DIM), tl.float32)
    for start in range(first_key, split_end, TILE_KEYS):
        keys_at = start + tl.arange(0, TILE_KEYS)
        visible = keys_at < split_end
        blocks = tl.load(table + keys_at // BLOCK_SIZE, mask=visible, other=0).to(tl.int64)
        base = head_base + blocks * cache_stride_block + (keys_at % BLOCK_SIZE) * cache_stride_token
        kv_mask = visible[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(base[:, None] + dims[None, :], mask=kv_mask, other=0.0)
        value = tl.load(base[:, None] + cache_stride_value + dims[None, :], mask=kv_mask, other=0.0)

        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = soft_capped(scores, softcap)
        if HAS_WINDOW:
            visible = visible & (keys_at >= first_visible)
        scores = tl.where(visible[None, :], scores, float("-inf"))

        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # Finite: tiles begin at multiples of their size and the first is the first visible key's, so each has a key.
        weights = tl.exp(scores - new_max[:, None])
        decay = tl.exp(running_max - new_max)
        running_sum = running_sum * decay + tl.sum(weights, 1)
        accumulator = accumulator * decay[:, None]
        accumulator += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        running_max = new_max

    slot = (place.to(tl.int64) * NUM_KV_HEADS * GROUP + heads) * num_splits + split
    tl.store(maximum_ptr + slot, running_max, mask=members < GROUP)
    tl.store(sum_ptr + slot, running_sum, mask=members < GROUP)
    tl.store(partial_ptr + slot[:, None] * HEAD_DIM + dims[None, :], accumulator, mask=tile_mask)


@triton.jit(do_not_specialize=["num_splits"])
def _combine_kernel(  # noqa: PLR0917 (a launch passes positionally)
    partial_ptr: tl.tensor,
    maximum_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    output_ptr: tl.tensor,
    sequence_ids_ptr: tl.tensor,
    query_starts_ptr: tl.tensor,
    context_lens_ptr: tl.tensor,
    output_stride_row: tl.tensor,
    output_stride_head: tl.tensor,
    num_splits: tl.tensor,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_DIM: tl.constexpr,
    MIN_SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
) -> None:
    """Grid: (listed sequences, heads)."""
    place = tl.program_id(0)
    head = tl.program_id(1)
    sequence = tl.load(sequence_ids_ptr + place)
    context_len = tl.load(context_lens_ptr + sequence)
    used_splits = tl.cdiv(context_len, _split_tokens(context_len, MIN_SPLIT_TOKENS, MAX_SPLITS))
    splits = tl.arange(0, MAX_SPLITS)  # of fixed size, so that the order of the sums is too
    dims = tl.arange(0, TILE_DIM)
    used = splits < used_splits
    slots = (place.to(tl.int64) * NUM_HEADS + head) * num_splits + splits
    maxima = tl.load(maximum_ptr + slots, mask=used, other=float("-inf"))
    sums = tl.load(sum_ptr + slots, mask=used, other=0.0)
    partials = tl.load(
        partial_ptr + slots[:, None] * HEAD_DIM + dims[None, :],
        mask=used[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    # The last split always holds the query's own token, so the overall maximum is finite.
    factors = tl.exp(maxima - tl.max(maxima, 0))
    result = tl.sum(partials * factors[:, None], 0) / tl.sum(sums * factors, 0)
    row = tl.load(query_starts_ptr + sequence).to(tl.int64)
    target = output_ptr + row * output_stride_row + head * output_stride_head + dims
    tl.store(target, result.to(output_ptr.dtype.element_ty), mask=dims < HEAD_DIM)


def num_splits_of(context_tokens: int) -> int:
    """Return the number of splits of a context (the host's side of ``_split_tokens``; monotone up to _MAX_SPLITS)."""
    return min(_MAX_SPLITS, -(-context_tokens // _MIN_SPLIT_TOKENS))


def paged_decode(
    query: torch.Tensor,
    cache: torch.Tensor,
    output: torch.Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    *,
    tiles: Tiles | None = None,
) -> None:
    """Fill the row of ``output`` [T, num_heads, head_dim] of each listed sequence; these have one query token each.

    ``query`` is [T, num_heads, head_dim]; ``cache`` is a view of one layer [num_blocks, 2, block_size, num_kv_heads,
    head_dim] that already holds this pass's keys and values. Scratch memory: 64 splits at most of one fp32 row per
    listed sequence and head. Raises ValueError if the tensors do not fit or a sequence has more than one query token.
    """
    strides = cache_strides(cache)
    check_attention(query, cache, output)
    num_sequences = batch.sequence_ids.shape[0]
    if num_sequences == 0:
        return
    if batch.max_query_tokens != 1:
        raise ValueError(f"a sequence has {batch.max_query_tokens} query tokens; paged_decode takes one per sequence")
    num_heads, head_dim = query.shape[1], query.shape[2]
    num_kv_heads = cache.shape[3]
    group = num_heads // num_kv_heads
    tiles = tiles or decode_tiles(head_dim, query.dtype, group)
    if _MIN_SPLIT_TOKENS % tiles.keys:
        raise ValueError(f"tiles.keys is {tiles.keys}; it must divide {_MIN_SPLIT_TOKENS}, the tokens of a split")
    num_splits = num_splits_of(batch.max_context_tokens)
    per_split = (num_sequences, num_heads, num_splits)
    partials = torch.empty((*per_split, head_dim), dtype=torch.float32, device=query.device)
    maxima = torch.empty(per_split, dtype=torch.float32, device=query.device)
    sums = torch.empty(per_split, dtype=torch.float32, device=query.device)
    _partial_kernel[(num_sequences, num_kv_heads, num_splits)](
        query,
        cache,
        partials,
        maxima,
        sums,
        batch.sequence_ids,
        batch.query_starts,
        batch.context_lens,
        batch.block_tables,
        query.stride(0),
        query.stride(1),
        strides.block,
        strides.value,
        strides.token,
        strides.head,
        batch.block_tables.stride(0),
        scoring.scale,
        scoring.window_tokens or 0,
        scoring.softcap or 0.0,
        num_splits,
        GROUP=group,
        NUM_KV_HEADS=num_kv_heads,
        BLOCK_SIZE=cache.shape[2],
        HEAD_DIM=head_dim,
        TILE_HEADS=tiles.queries,
        TILE_KEYS=tiles.keys,
        TILE_DIM=tiles.dim,
        MIN_SPLIT_TOKENS=_MIN_SPLIT_TOKENS,
        MAX_SPLITS=_MAX_SPLITS,
        HAS_WINDOW=scoring.window_tokens is not None,
        HAS_SOFTCAP=scoring.softcap is not None,
        **tiles.launch_options(),
    )
    _combine_kernel[(num_sequences, num_heads)](
        partials,
        maxima,
        sums,
        output,
        batch.sequence_ids,
        batch.query_starts,
        batch.context_lens,
        output.stride(0),
        output.stride(1),
        num_splits,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        TILE_DIM=tiles.dim,
        MIN_SPLIT_TOKENS=_MIN_SPLIT_TOKENS,
        MAX_SPLITS=_MAX_SPLITS,
        **COMPILE_OPTIONS,
    )
