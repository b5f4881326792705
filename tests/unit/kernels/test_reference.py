"""The kernels' oracle against torch's own attention and against the engine's oracle, so that a shared slip shows."""

import pytest
import torch

from tandem.engine.attention.reference import reference_attention, write_kv
from tandem.engine.batch import ForwardBatch
from tandem.engine.spec import LayerSpec
from tandem.kernels.reference import paged_attention_reference, write_kv_reference
from tests.unit.kernels.cases import DECODE_CASES, PREFILL_CASES, Case, Problem, build

SMALL_CASES = [case for case in PREFILL_CASES + DECODE_CASES if sum(case.context_lens) < 150]


def layer_of(case: Case, index: int = 0) -> LayerSpec:
    return LayerSpec(
        index=index,
        num_heads=case.num_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        scale=case.scoring.scale,
        window_tokens=case.window_tokens,
        softcap=case.softcap,
    )


def forward_batch(problem: Problem) -> ForwardBatch:
    """The engine's description of the same batch."""
    case, tables = problem.case, problem.block_tables
    positions = [
        position
        for query_len, context in zip(case.query_lens, case.context_lens, strict=True)
        for position in range(context - query_len, context)
    ]
    owners = [sequence for sequence, count in enumerate(case.query_lens) for _ in range(count)]
    slots = [
        int(tables[owner, position // case.block_size]) * case.block_size + position % case.block_size
        for owner, position in zip(owners, positions, strict=True)
    ]
    device = problem.query.device
    batch = problem.batch()
    return ForwardBatch(
        token_ids=torch.zeros(len(positions), dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        slots=torch.tensor(slots, dtype=torch.int64, device=device),
        query_starts=batch.query_starts,
        context_lens=batch.context_lens,
        block_tables=tables,
        logit_rows=torch.zeros(0, dtype=torch.int64, device=device),
        query_lens_list=case.query_lens,
        context_lens_list=case.context_lens,
        block_tables_list=tuple(tuple(row) for row in tables.tolist()),
    )


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_equals_the_engines_oracle(case: Case) -> None:
    problem = build(case, torch.float32)
    ours = problem.blank_output()
    paged_attention_reference(problem.query, problem.cache, ours, problem.batch(), case.scoring)
    theirs = reference_attention(layer_of(case), problem.query, problem.cache, forward_batch(problem), case.block_size)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


def test_equals_torchs_attention_on_a_contiguous_prompt() -> None:
    case = Case(name="plain", query_lens=(21,), context_lens=(21,), num_heads=6, num_kv_heads=2, head_dim=8)
    problem = build(case, torch.float32)
    ours = problem.blank_output()
    paged_attention_reference(problem.query, problem.cache, ours, problem.batch(), case.scoring)
    kv = problem.cache[problem.block_tables[0, :2].long()].transpose(0, 1).reshape(2, 32, 2, 8)[:, :21]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        problem.query.transpose(0, 1), kv[0].transpose(0, 1), kv[1].transpose(0, 1), is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs.transpose(0, 1), atol=1e-6, rtol=1e-6)


def test_scatter_equals_the_engines() -> None:
    problem = build(Case(name="two", query_lens=(5, 1), context_lens=(18, 16)), torch.float32)
    batch = forward_batch(problem)
    key, value = torch.randn(6, 2, 16), torch.randn(6, 2, 16)
    ours, theirs = torch.zeros(6, 2, 16, 2, 16), torch.zeros(6, 2, 16, 2, 16)
    write_kv_reference(key, value, ours, batch.slots)
    write_kv(theirs, key, value, batch, 16)
    assert torch.equal(ours, theirs)
    assert (ours != 0).sum() == 2 * key.numel()
