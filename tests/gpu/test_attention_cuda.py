"""The compiled attention kernels against their reference: the interpreter's cases, bf16, real sizes."""

import dataclasses

import pytest
import torch

from tandem.kernels.paged_decode import paged_decode
from tandem.kernels.paged_prefill import paged_prefill
from tandem.kernels.reference import paged_attention_reference, write_kv_reference
from tandem.kernels.write_kv import write_kv
from tests.unit.kernels.cases import DECODE_CASES, PREFILL_CASES, TOLERANCES, Case, Problem, build

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# Real heads at lengths that are no multiple of any tile.
LARGE_PREFILL = [
    Case(name="smollm2", query_lens=(513, 7), context_lens=(1000, 7), num_heads=9, num_kv_heads=3, head_dim=64),
    Case(name="llama3", query_lens=(300, 129), context_lens=(333, 900), num_heads=8, num_kv_heads=2, head_dim=128),
    Case(
        name="gemma2-local",
        query_lens=(200,),
        context_lens=(777,),
        num_heads=4,
        num_kv_heads=2,
        head_dim=256,
        window_tokens=100,
        softcap=50.0,
    ),
    Case(name="phi3", query_lens=(100,), context_lens=(300,), num_heads=4, num_kv_heads=4, head_dim=96),
]
LARGE_DECODE = [
    dataclasses.replace(case, query_lens=(1,) * 5, context_lens=(1, 300, 2049, 777, 256)) for case in LARGE_PREFILL
] + [
    Case(
        name="past-the-largest-number-of-splits",
        query_lens=(1, 1),
        context_lens=(20_000, 300),
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
    )
]


@pytest.fixture(autouse=True)
def _exact_fp32_reference() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def check(problem: Problem, result: torch.Tensor) -> None:
    expected = problem.blank_output()
    paged_attention_reference(problem.query, problem.cache, expected, problem.batch(), problem.case.scoring)
    tolerance = TOLERANCES[result.dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PREFILL_CASES + LARGE_PREFILL, ids=lambda case: case.name)
def test_prefill(case: Case, dtype: torch.dtype) -> None:
    problem = build(case, dtype, "cuda")
    result = problem.blank_output()
    paged_prefill(problem.query, problem.cache, result, problem.batch(), case.scoring)
    check(problem, result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DECODE_CASES + LARGE_DECODE, ids=lambda case: case.name)
def test_decode(case: Case, dtype: torch.dtype) -> None:
    problem = build(case, dtype, "cuda")
    result = problem.blank_output()
    paged_decode(problem.query, problem.cache, result, problem.batch(), case.scoring)
    check(problem, result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_gives_the_same_bits_beside_any_neighbour(dtype: torch.dtype) -> None:
    case = LARGE_DECODE[0]
    problem = build(case, dtype, "cuda")
    together = problem.blank_output()
    paged_decode(problem.query, problem.cache, together, problem.batch(), case.scoring)
    for sequence in range(len(case.query_lens)):
        alone = problem.blank_output()
        paged_decode(problem.query, problem.cache, alone, problem.batch((sequence,)), case.scoring)
        assert torch.equal(alone[sequence], together[sequence])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_prefill_gives_the_same_bits_however_it_is_chunked(dtype: torch.dtype) -> None:
    case = Case(name="one", query_lens=(700,), context_lens=(700,), num_heads=9, num_kv_heads=3, head_dim=64)
    problem = build(case, dtype, "cuda")
    whole = problem.blank_output()
    paged_prefill(problem.query, problem.cache, whole, problem.batch(), case.scoring)
    for start, stop in ((0, 1), (1, 130), (130, 700)):
        part = dataclasses.replace(
            problem,
            case=dataclasses.replace(case, query_lens=(stop - start,), context_lens=(stop,)),
            query=problem.query[start:stop],
        )
        result = part.blank_output()
        paged_prefill(part.query, part.cache, result, part.batch(), case.scoring)
        assert torch.equal(result, whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_write_kv(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn((500, 3, 80), generator=generator).to("cuda", dtype) for _ in range(2))
    slots = torch.randperm(64 * 16, generator=generator)[:500].to("cuda")
    written, expected = (torch.zeros((64, 2, 2, 16, 3, 80), dtype=dtype, device="cuda") for _ in range(2))
    write_kv(key, value, written[:, 1], slots)
    write_kv_reference(key, value, expected[:, 1], slots)
    assert torch.equal(written, expected)


def test_offsets_past_32_bits() -> None:
    """A pool of more than 2^31 elements: a block's offset no longer fits 32 bits."""
    free_bytes, _ = torch.cuda.mem_get_info()
    num_blocks, elements = 70_000, 2 * 16 * 8 * 128
    if free_bytes < num_blocks * elements * 2 * 1.2:
        pytest.skip("needs about 6 GB of free device memory")
    case = Case(name="far", query_lens=(1,), context_lens=(40,), num_heads=8, num_kv_heads=8, head_dim=128)
    near = build(case, torch.float16, "cuda")
    cache = torch.empty((num_blocks, 2, 16, 8, 128), dtype=torch.float16, device="cuda")
    shift = num_blocks - near.cache.shape[0]
    cache[shift:] = near.cache
    far = dataclasses.replace(near, cache=cache, block_tables=near.block_tables + shift)
    results = [problem.blank_output() for problem in (near, far, far)]
    paged_decode(near.query, near.cache, results[0], near.batch(), case.scoring)
    paged_decode(far.query, far.cache, results[1], far.batch(), case.scoring)
    paged_prefill(far.query, far.cache, results[2], far.batch(), case.scoring)
    assert torch.equal(results[0], results[1])
    check(far, results[2])
