"""The kernels' meaning in plain torch, one sequence at a time in fp32: the oracle of their tests and benchmarks."""

import torch

from tandem.kernels.batch import PagedBatch, Scoring


def write_kv_reference(key: torch.Tensor, value: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Write key and value [T, num_kv_heads, head_dim] to ``slots`` [T] of ``cache``; negative slots are skipped."""
    block_size = cache.shape[2]
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            cache[slot // block_size, 0, slot % block_size] = key[row]
            cache[slot // block_size, 1, slot % block_size] = value[row]


def paged_attention_reference(
    query: torch.Tensor, cache: torch.Tensor, output: torch.Tensor, batch: PagedBatch, scoring: Scoring
) -> None:
    """Attend causally over the paged cache; both paged_prefill and paged_decode must agree with this."""
    starts, contexts = batch.query_starts.tolist(), batch.context_lens.tolist()
    for sequence in batch.sequence_ids.tolist():
        first, last, context = starts[sequence], starts[sequence + 1], contexts[sequence]
        if first < last:
            keys, values = _gather(cache, batch.block_tables[sequence], context)
            output[first:last] = _attend(query[first:last], keys, values, scoring)


def _gather(cache: torch.Tensor, table: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    block_size = cache.shape[2]
    blocks = cache[table[: -(-context // block_size)].long()].float()  # [n, 2, block_size, heads, dim]
    flat = blocks.transpose(0, 1).reshape(2, -1, *cache.shape[3:])[:, :context]
    return flat[0], flat[1]


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    num_queries, num_heads, _ = query.shape
    context, num_kv_heads, _ = keys.shape
    group = num_heads // num_kv_heads
    scores = torch.einsum("qhd,khd->hqk", query.float(), keys.repeat_interleave(group, dim=1)) * scoring.scale
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    positions = torch.arange(context, device=query.device)
    distance = positions[context - num_queries :, None] - positions[None, :]
    hidden = distance < 0
    if scoring.window_tokens is not None:
        hidden |= distance >= scoring.window_tokens
    weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, values.repeat_interleave(group, dim=1)).to(query.dtype)
