"""Attention by the Triton kernels: for CUDA devices (and for the CPU only under Triton's interpreter, in tests)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.spec import LayerSpec
from tandem.kernels.batch import PagedBatch, Scoring
from tandem.kernels.paged_decode import paged_decode
from tandem.kernels.paged_prefill import paged_prefill
from tandem.kernels.write_kv import write_kv


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A batch split by kernel: sequences with one new token, and sequences with several. None where there are none."""

    batch: ForwardBatch  # held, so that no other batch can take its identity
    decode: PagedBatch | None
    prefill: PagedBatch | None


def _part(batch: ForwardBatch, wanted: Callable[[int], bool]) -> PagedBatch | None:
    chosen = [index for index, length in enumerate(batch.query_lens_list) if wanted(length)]
    if not chosen:
        return None
    return PagedBatch(
        query_starts=batch.query_starts,
        context_lens=batch.context_lens,
        block_tables=batch.block_tables,
        sequence_ids=torch.tensor(chosen, dtype=torch.int32, device=batch.query_starts.device),
        max_query_tokens=max(batch.query_lens_list[index] for index in chosen),
        max_context_tokens=max(batch.context_lens_list[index] for index in chosen),
    )


class TritonAttentionBackend:
    """AttentionBackend over the paged pool. One engine thread at a time: it remembers the plan of the last batch."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._plan: _Plan | None = None

    def attend(
        self, layer: LayerSpec, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: ForwardBatch
    ) -> torch.Tensor:
        """See AttentionBackend. Computes in the pool's element type, accumulates in fp32."""
        cache = self._pool.layer(layer.index)
        inner = query.to(cache.dtype)
        output = torch.empty_like(inner, memory_format=torch.contiguous_format)
        scoring = Scoring(scale=layer.scale, window_tokens=layer.window_tokens, softcap=layer.softcap)
        plan = self._plan_for(batch)
        with torch.cuda.device_of(inner):  # type: ignore[no-untyped-call]  # kernels start on the current device
            write_kv(key.to(cache.dtype), value.to(cache.dtype), cache, batch.slots)
            if plan.decode is not None:
                paged_decode(inner, cache, output, plan.decode, scoring)
            if plan.prefill is not None:
                paged_prefill(inner, cache, output, plan.prefill, scoring)
        return output.to(query.dtype)

    def _plan_for(self, batch: ForwardBatch) -> _Plan:
        """Split once per forward pass; every layer asks with the same batch."""
        plan = self._plan
        if plan is None or plan.batch is not batch:
            plan = _Plan(
                batch=batch,
                decode=_part(batch, lambda length: length == 1),
                prefill=_part(batch, lambda length: length > 1),
            )
            self._plan = plan
        return plan
