"""Batches for the attention kernels out of plain numbers."""

from collections.abc import Sequence

import torch

from tandem.kernels.batch import PagedBatch


def batch_on(
    *,
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    block_tables: torch.Tensor,
    sequence_ids: Sequence[int],
) -> PagedBatch:
    """Build a PagedBatch from host numbers, on the device of ``block_tables``."""
    device = block_tables.device
    starts = [0]
    for length in query_lens:
        starts.append(starts[-1] + length)
    return PagedBatch(
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
        block_tables=block_tables,
        sequence_ids=torch.tensor(sequence_ids, dtype=torch.int32, device=device),
        max_query_tokens=max((query_lens[s] for s in sequence_ids), default=0),
        max_context_tokens=max((context_lens[s] for s in sequence_ids), default=0),
    )
