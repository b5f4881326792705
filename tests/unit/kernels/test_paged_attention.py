"""The attention kernels in Triton's interpreter against their reference."""

import dataclasses
import itertools

import pytest
import torch

from tandem.kernels.batch import PagedBatch, Scoring
from tandem.kernels.paged_decode import num_splits_of, paged_decode
from tandem.kernels.paged_prefill import paged_prefill
from tandem.kernels.reference import paged_attention_reference
from tandem.kernels.tiles import Tiles
from tests.fakes.paged_batches import batch_on
from tests.unit.kernels.cases import (
    DECODE_CASES,
    PREFILL_CASES,
    TOLERANCES,
    UNTOUCHED,
    Case,
    Problem,
    build,
    interpreted_only,
)

pytestmark = interpreted_only

# Much smaller than the real ones, so that tiny shapes have several tiles each way.
SMALL = Tiles(queries=16, keys=16, dim=32, num_warps=1, num_stages=1)

DTYPES = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(
        torch.bfloat16,
        id="bf16",
        marks=pytest.mark.skip(reason="Triton 3.9's interpreter computes tl.dot of bf16 wrongly; tests/gpu covers it"),
    ),
]


def check(problem: Problem, result: torch.Tensor) -> None:
    expected = problem.blank_output()
    paged_attention_reference(problem.query, problem.cache, expected, problem.batch(), problem.case.scoring)
    tolerance = TOLERANCES[result.dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PREFILL_CASES, ids=lambda case: case.name)
def test_prefill(case: Case, dtype: torch.dtype) -> None:
    problem = build(case, dtype)
    result = problem.blank_output()
    paged_prefill(problem.query, problem.cache, result, problem.batch(), case.scoring)
    check(problem, result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", DECODE_CASES, ids=lambda case: case.name)
def test_decode(case: Case, dtype: torch.dtype) -> None:
    problem = build(case, dtype)
    result = problem.blank_output()
    paged_decode(problem.query, problem.cache, result, problem.batch(), case.scoring)
    check(problem, result)


@pytest.mark.parametrize("window_tokens", [None, 1, 16, 18])
def test_prefill_over_many_tiles(window_tokens: int | None) -> None:
    case = Case(
        name="tiles", query_lens=(50, 17), context_lens=(67, 33), head_dim=20, window_tokens=window_tokens, softcap=4.0
    )
    problem = build(case, torch.float32)
    result = problem.blank_output()
    paged_prefill(problem.query, problem.cache, result, problem.batch(), case.scoring, tiles=SMALL)
    check(problem, result)


def test_rows_of_unlisted_sequences_are_untouched() -> None:
    case = Case(name="mixed", query_lens=(3, 1, 4, 1), context_lens=(9, 20, 4, 300))
    problem = build(case, torch.float32)
    result = problem.blank_output()
    paged_prefill(problem.query, problem.cache, result, problem.batch((2, 0)), case.scoring)
    assert (result[3] == UNTOUCHED).all()
    assert (result[8] == UNTOUCHED).all()
    before = result.clone()
    paged_decode(problem.query, problem.cache, result, problem.batch((1, 3)), case.scoring)
    assert torch.equal(result[:3], before[:3])
    assert torch.equal(result[4:8], before[4:8])
    check(problem, result)


def test_no_listed_sequence_is_no_work() -> None:
    problem = build(Case(name="some", query_lens=(2,), context_lens=(2,)), torch.float32)
    result = problem.blank_output()
    paged_prefill(problem.query, problem.cache, result, problem.batch(()), problem.case.scoring)
    paged_decode(problem.query, problem.cache, result, problem.batch(()), problem.case.scoring)
    assert (result == UNTOUCHED).all()


def chunk(problem: Problem, start: int, stop: int, window_tokens: int | None) -> torch.Tensor:
    """Prefill rows [start, stop) of a one-sequence problem as a chunk of their own."""
    query = problem.query[start:stop]
    output = torch.empty_like(query)
    batch = batch_on(
        query_lens=[stop - start], context_lens=[stop], block_tables=problem.block_tables, sequence_ids=[0]
    )
    scoring = dataclasses.replace(problem.case.scoring, window_tokens=window_tokens)
    paged_prefill(query, problem.cache, output, batch, scoring, tiles=SMALL)
    return output


@pytest.mark.parametrize("window_tokens", [None, 19])
@pytest.mark.parametrize("cuts", [(0, 1, 70), (0, 16, 32, 70), (0, 33, 69, 70)])
def test_prefill_gives_the_same_bits_however_it_is_chunked(cuts: tuple[int, ...], window_tokens: int | None) -> None:
    problem = build(Case(name="one", query_lens=(70,), context_lens=(70,)), torch.float32)
    whole = chunk(problem, 0, 70, window_tokens)
    parts = [chunk(problem, start, stop, window_tokens) for start, stop in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)


def test_decode_gives_the_same_bits_beside_any_neighbour() -> None:
    problem = build(Case(name="three", query_lens=(1, 1, 1), context_lens=(300, 1100, 5)), torch.float32)
    together = problem.blank_output()
    paged_decode(problem.query, problem.cache, together, problem.batch(), problem.case.scoring)
    for sequence in range(3):
        alone = problem.blank_output()
        paged_decode(problem.query, problem.cache, alone, problem.batch((sequence,)), problem.case.scoring)
        assert torch.equal(alone[sequence], together[sequence])


def test_number_of_splits_is_bounded_and_never_too_small() -> None:
    assert [num_splits_of(n) for n in (1, 256, 257, 64 * 256, 10**6)] == [1, 1, 2, 64, 64]
    counts = [num_splits_of(n) for n in range(1, 40_000)]
    assert counts == sorted(counts)  # so a batch's longest sequence has room enough for every other


def test_contexts_beyond_the_largest_number_of_splits() -> None:
    """Over 64 x 256 tokens a split grows; one kv head and a wide block keep the interpreter quick."""
    case = Case(
        name="long",
        query_lens=(1, 1),
        context_lens=(16_500, 300),
        block_size=32,
        num_heads=1,
        num_kv_heads=1,
        head_dim=4,
    )
    problem = build(case, torch.float32)
    result = problem.blank_output()
    tiles = Tiles(queries=16, keys=256, dim=16, num_warps=1, num_stages=1)
    paged_decode(problem.query, problem.cache, result, problem.batch(), case.scoring, tiles=tiles)
    check(problem, result)


def test_large_scores_do_not_overflow() -> None:
    problem = build(Case(name="hot", query_lens=(5,), context_lens=(40,), softcap=30.0), torch.float32)
    query = problem.query * 1e4
    for scoring in (Scoring(scale=1.0), Scoring(scale=1.0, softcap=30.0)):
        result, expected = problem.blank_output(), problem.blank_output()
        paged_prefill(query, problem.cache, result, problem.batch(), scoring)
        paged_attention_reference(query, problem.cache, expected, problem.batch(), scoring)
        assert result.isfinite().all()
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def refuse(problem: Problem, batch: PagedBatch, message: str, **changes: torch.Tensor) -> None:
    tensors = {"query": problem.query, "cache": problem.cache, "output": problem.blank_output()} | changes
    for kernel in (paged_prefill, paged_decode):
        with pytest.raises(ValueError, match=message):
            kernel(tensors["query"], tensors["cache"], tensors["output"], batch, problem.case.scoring)


def test_tensors_that_do_not_fit_are_refused() -> None:
    problem = build(Case(name="fit", query_lens=(1,), context_lens=(3,)), torch.float32)
    batch = problem.batch()
    refuse(problem, batch, "must both be", output=torch.empty(1, 4, 8))
    refuse(problem, batch, "evenly", query=torch.empty(1, 3, 16), output=torch.empty(1, 3, 16))
    refuse(problem, batch, "must be the same", query=problem.query.half())
    refuse(problem, batch, "expected", cache=problem.cache[:, 0])
    refuse(problem, batch, "stride", cache=problem.cache.transpose(3, 4))
    refuse(problem, batch, "side by side", query=torch.empty(1, 16, 4).transpose(1, 2))


def test_decode_refuses_several_queries_per_sequence() -> None:
    problem = build(Case(name="two", query_lens=(2,), context_lens=(3,)), torch.float32)
    with pytest.raises(ValueError, match="one per sequence"):
        paged_decode(problem.query, problem.cache, problem.blank_output(), problem.batch(), problem.case.scoring)


def test_decode_refuses_key_tiles_that_would_straddle_splits() -> None:
    problem = build(Case(name="one", query_lens=(1,), context_lens=(3,)), torch.float32)
    tiles = dataclasses.replace(SMALL, keys=512)
    with pytest.raises(ValueError, match="must divide 256"):
        paged_decode(
            problem.query, problem.cache, problem.blank_output(), problem.batch(), problem.case.scoring, tiles=tiles
        )
