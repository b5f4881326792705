"""What the attention kernels and their reference are told about a batch: tensors and numbers, no engine types."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a query scores a key: ``s = scale · q·k``, then ``s = softcap · tanh(s / softcap)`` if there is a softcap.

    With a window, a token sees itself and the ``window_tokens - 1`` tokens before it.
    """

    scale: float
    window_tokens: int | None = None
    softcap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedBatch:
    """S sequences laid end to end in T query rows, their KV in blocks, and which of them a kernel should handle.

    Query row ``r`` of sequence ``s`` (counted from ``query_starts[s]``) stands at position
    ``context_lens[s] - query_len[s] + r`` and sees the positions up to its own. Sequences that are not listed in
    ``sequence_ids`` keep their output rows untouched.
    """

    query_starts: torch.Tensor  # [S + 1] int32
    context_lens: torch.Tensor  # [S] int32, this pass's tokens included
    block_tables: torch.Tensor  # [S, max_blocks] int32
    sequence_ids: torch.Tensor  # [Z] int32
    max_query_tokens: int  # of the listed sequences
    max_context_tokens: int  # of the listed sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStrides:
    """Strides, in elements, of one layer's cache [num_blocks, 2, block_size, num_kv_heads, head_dim]."""

    block: int
    value: int  # from a block's keys to its values
    token: int
    head: int


def cache_strides(cache: torch.Tensor) -> CacheStrides:
    """Return the strides of ``cache``, a view of one layer. Raises ValueError if it does not have that layout."""
    if cache.ndim != 5 or cache.shape[1] != 2:
        raise ValueError(
            f"cache has the shape {tuple(cache.shape)}; expected [num_blocks, 2, block_size, num_kv_heads, head_dim]"
        )
    block, value, token, head, dim = cache.stride()
    if dim != 1:
        raise ValueError(f"cache has a stride of {dim} between the elements of a head; it must be 1")
    return CacheStrides(block=block, value=value, token=token, head=head)


def check_attention(query: torch.Tensor, cache: torch.Tensor, output: torch.Tensor) -> None:
    """Raise ValueError unless query and output [T, num_heads, head_dim] fit each other and the cache."""
    num_kv_heads, head_dim = cache.shape[3], cache.shape[4]
    if query.ndim != 3 or query.shape != output.shape or query.shape[2] != head_dim:
        raise ValueError(
            f"query {tuple(query.shape)} and output {tuple(output.shape)} must both be [T, num_heads, {head_dim}]"
        )
    if query.shape[1] % num_kv_heads:
        raise ValueError(f"{query.shape[1]} query heads can't share {num_kv_heads} kv heads evenly")
    if query.dtype != cache.dtype or output.dtype != query.dtype:
        raise ValueError(f"query is {query.dtype}, cache {cache.dtype}, output {output.dtype}; they must be the same")
    if query.stride(2) != 1 or output.stride(2) != 1:
        raise ValueError("the elements of a head must lie side by side in query and output")
