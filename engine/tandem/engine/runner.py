"""Runs forward passes: lays rows of many sequences out as one batch, and turns a batch into logits."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch

from tandem.core.errors import FailedPrecondition
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.models.model import LoadedModel
from tandem.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What one sequence adds to a forward pass: a prefill chunk, or one decode token."""

    token_ids: Items[int]
    start_position: int  # of the first of ``token_ids``; everything before it is in the KV already
    block_ids: Items[int]  # the sequence's blocks from position 0; more than needed is fine
    num_logits: int  # logits are wanted for the last ``num_logits`` tokens
    owner: Sequence | None = None  # whose row it is


def build_batch(rows: Items[RunRow], *, block_size: int, device: str = "cpu") -> ForwardBatch:
    """Lay ``rows`` end to end.

    Raises ValueError for an empty batch or row, too few blocks, or more logits than tokens: defects of the scheduler.
    """
    _check(rows, block_size)
    query_lens = np.fromiter((len(row.token_ids) for row in rows), dtype=np.int64, count=len(rows))
    first_positions = np.fromiter((row.start_position for row in rows), dtype=np.int64, count=len(rows))
    context_lens = first_positions + query_lens
    num_blocks = -(-context_lens // block_size)
    tables = tuple(
        tuple(row.block_ids[:count]) if len(row.block_ids) > count else tuple(row.block_ids)
        for row, count in zip(rows, num_blocks.tolist(), strict=True)
    )
    padded = np.zeros((len(rows), int(num_blocks.max())), dtype=np.int64)
    for index, table in enumerate(tables):
        padded[index, : len(table)] = table
    ends = np.cumsum(query_lens)
    starts = ends - query_lens
    sequence = np.repeat(np.arange(len(rows)), query_lens)
    positions = np.arange(int(ends[-1])) + (first_positions - starts)[sequence]
    slots = padded[sequence, positions // block_size] * block_size + positions % block_size
    wanted = np.fromiter((row.num_logits for row in rows), dtype=np.int64, count=len(rows))
    wanted_ends = np.cumsum(wanted)
    logit_rows = np.arange(int(wanted_ends[-1])) + np.repeat(ends - wanted_ends, wanted)
    token_ids = np.concatenate([np.asarray(row.token_ids, dtype=np.int64) for row in rows])

    def tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.int64]], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(values).to(device=device, dtype=dtype)

    return ForwardBatch(
        token_ids=tensor(token_ids, torch.int64),
        positions=tensor(positions, torch.int64),
        slots=tensor(slots, torch.int64),
        query_starts=tensor(np.concatenate([[0], ends]), torch.int32),
        context_lens=tensor(context_lens, torch.int32),
        block_tables=tensor(padded, torch.int32),
        logit_rows=tensor(logit_rows, torch.int64),
        query_lens_list=tuple(query_lens.tolist()),
        context_lens_list=tuple(context_lens.tolist()),
        block_tables_list=tables,
        owners=tuple(row.owner for row in rows),
    )


def _check(rows: Items[RunRow], block_size: int) -> None:
    if not rows:
        raise ValueError("a batch needs at least one row")
    for row in rows:
        end = row.start_position + len(row.token_ids)
        if not row.token_ids or row.start_position < 0:
            raise ValueError(f"a row has {len(row.token_ids)} tokens from position {row.start_position}")
        if len(row.block_ids) * block_size < end:
            raise ValueError(f"{len(row.block_ids)} blocks of {block_size} can't hold {end} tokens")
        if not 0 <= row.num_logits <= len(row.token_ids):
            raise ValueError(f"{row.num_logits} logits wanted of {len(row.token_ids)} tokens")


class ModelRunner:
    """One model over one KV pool. Not thread-safe: the engine thread owns it."""

    def __init__(self, model: LoadedModel, pool: KvPool) -> None:
        """Raise FailedPrecondition when the pool was laid out for another model."""
        spec = model.spec
        expected = (len(spec.layers), 2, pool.block_size, spec.num_kv_heads, spec.head_dim)
        if tuple(pool.data.shape[1:]) != expected:
            raise FailedPrecondition(
                f"the KV pool's blocks have shape {tuple(pool.data.shape[1:])}, the model needs {expected}"
            )
        self.spec = spec
        self.pool = pool
        self._model = model

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Write the batch's KV into the pool and return float32 logits [R, vocab_size], R = len(batch.logit_rows)."""
        with torch.inference_mode():
            return self._model.module.forward(batch).float()
