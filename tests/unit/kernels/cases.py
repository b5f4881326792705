"""Attention problems with odd shapes, used by the interpreter's tests and by tests/gpu."""

from dataclasses import dataclass, field

import pytest
import torch
import triton

from tandem.kernels.batch import PagedBatch, Scoring
from tests.fakes.paged_batches import batch_on

# What an output row holds before a kernel runs: a row that nobody listed must still hold it afterwards.
UNTOUCHED = 77.0

# Tolerance per dtype: the kernels and the reference add the same numbers up in another order, and the kernels round
# the softmax weights to the element type before the second product.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention problem. ``context_lens`` include the queries."""

    name: str
    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    block_size: int = 16
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    window_tokens: int | None = None
    softcap: float | None = None

    @property
    def scoring(self) -> Scoring:
        """How this case scores."""
        return Scoring(scale=self.head_dim**-0.5, window_tokens=self.window_tokens, softcap=self.softcap)


PREFILL_CASES = [
    Case(name="one-token", query_lens=(1,), context_lens=(1,)),
    Case(name="no-prefix", query_lens=(37,), context_lens=(37,)),
    Case(name="prefix-to-block-edge", query_lens=(5,), context_lens=(37,)),
    Case(name="many-short", query_lens=(1, 2, 3, 1, 2, 5, 1), context_lens=(1, 2, 3, 9, 18, 16, 17)),
    Case(name="empty-sequence-between", query_lens=(3, 0, 4), context_lens=(3, 5, 20)),
    Case(name="block-size-1", query_lens=(7, 3), context_lens=(7, 21), block_size=1),
    Case(name="block-size-3", query_lens=(7, 3), context_lens=(8, 35), block_size=3),
    Case(name="block-size-32", query_lens=(33,), context_lens=(65,), block_size=32),
    Case(name="dim-20-heads-6-of-2", query_lens=(5, 9), context_lens=(13, 9), head_dim=20, num_heads=6),
    Case(name="dim-80-mha", query_lens=(6,), context_lens=(19,), head_dim=80, num_heads=3, num_kv_heads=3),
    Case(name="dim-7", query_lens=(6,), context_lens=(19,), head_dim=7, num_heads=9, num_kv_heads=1),
    Case(name="window-1", query_lens=(6, 2), context_lens=(40, 40), window_tokens=1),
    Case(name="window-5", query_lens=(35, 2), context_lens=(70, 40), window_tokens=5),
    Case(name="window-33-past-a-tile", query_lens=(2,), context_lens=(100,), window_tokens=33),
    Case(name="window-wider-than-context", query_lens=(9,), context_lens=(20,), window_tokens=4096),
    Case(name="softcap", query_lens=(9, 4), context_lens=(20, 4), softcap=2.5),
    Case(name="softcap-window", query_lens=(9, 4), context_lens=(40, 4), softcap=1.0, window_tokens=7),
]

DECODE_CASES = [
    Case(name="one-token", query_lens=(1,), context_lens=(1,)),
    Case(name="block-edges", query_lens=(1,) * 4, context_lens=(15, 16, 17, 33)),
    Case(name="split-edges", query_lens=(1,) * 3, context_lens=(255, 256, 257)),
    Case(name="three-splits-beside-short", query_lens=(1, 1, 1), context_lens=(3, 700, 64)),
    Case(name="block-size-1", query_lens=(1, 1), context_lens=(7, 40), block_size=1),
    Case(name="block-size-3", query_lens=(1, 1), context_lens=(8, 35), block_size=3),
    Case(name="block-size-32", query_lens=(1,), context_lens=(65,), block_size=32),
    Case(name="dim-20-heads-6-of-2", query_lens=(1, 1), context_lens=(13, 9), head_dim=20, num_heads=6),
    Case(name="dim-80-mha", query_lens=(1,), context_lens=(19,), head_dim=80, num_heads=3, num_kv_heads=3),
    Case(name="dim-7-group-17", query_lens=(1,), context_lens=(19,), head_dim=7, num_heads=17, num_kv_heads=1),
    Case(name="window-1", query_lens=(1, 1), context_lens=(40, 1), window_tokens=1),
    Case(name="window-leaves-splits-empty", query_lens=(1, 1), context_lens=(600, 20), window_tokens=5),
    Case(name="window-over-a-split-edge", query_lens=(1,), context_lens=(300,), window_tokens=100),
    Case(name="softcap", query_lens=(1, 1), context_lens=(20, 4), softcap=2.5),
    Case(name="softcap-window", query_lens=(1, 1), context_lens=(300, 4), softcap=1.0, window_tokens=70),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Tensors of a case. Everything in the cache that no sequence owns is NaN: whoever reads it shows."""

    case: Case
    query: torch.Tensor
    cache: torch.Tensor  # a strided view of the second layer of three
    block_tables: torch.Tensor
    all_sequences: tuple[int, ...] = field(default=())

    def batch(self, sequence_ids: tuple[int, ...] | None = None) -> PagedBatch:
        """The batch that lists ``sequence_ids``, or every sequence."""
        return batch_on(
            query_lens=self.case.query_lens,
            context_lens=self.case.context_lens,
            block_tables=self.block_tables,
            sequence_ids=self.all_sequences if sequence_ids is None else sequence_ids,
        )

    def blank_output(self) -> torch.Tensor:
        """A fresh output, every element UNTOUCHED."""
        return torch.full_like(self.query, UNTOUCHED)


def build(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Problem:
    """Make a case's tensors: blocks scattered over the pool, table rows padded with the id of a block of NaN."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-context // case.block_size) for context in case.context_lens]
    num_blocks = sum(needed) + 3
    shuffled = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()
    pool = torch.full((num_blocks, 3, 2, case.block_size, case.num_kv_heads, case.head_dim), float("nan"))
    tables = torch.zeros((len(needed), max(needed) + 1), dtype=torch.int32)
    for sequence, count in enumerate(needed):
        blocks = [shuffled.pop() for _ in range(count)]
        tables[sequence, :count] = torch.tensor(blocks)
        for position in range(case.context_lens[sequence]):
            shape = (2, case.num_kv_heads, case.head_dim)
            token = torch.randn(shape, generator=generator)
            pool[blocks[position // case.block_size], 1, :, position % case.block_size] = token
    query = torch.randn((sum(case.query_lens), case.num_heads, case.head_dim), generator=generator)
    return Problem(
        case=case,
        query=query.to(device=device, dtype=dtype),
        cache=pool.to(device=device, dtype=dtype)[:, 1],
        block_tables=tables.to(device),
        all_sequences=tuple(range(len(needed))),
    )


# tests/conftest.py asks for the interpreter where there is no CUDA device.
interpreted_only = pytest.mark.skipif(
    not triton.knobs.runtime.interpret,
    reason="the kernels are compiled here and tested by tests/gpu; TRITON_INTERPRET=1 runs these tests as well",
)
