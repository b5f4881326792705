"""The engine's Triton backend (interpreted) against the engine's oracle, and how a backend is chosen."""

import sys

import pytest
import torch

from tandem.core.errors import EnvironmentProblem
from tandem.engine.attention.reference import reference_attention, write_kv
from tandem.engine.attention.select import AttentionName, select_backend
from tandem.engine.attention.torch_backend import TorchAttentionBackend
from tandem.engine.attention.triton_backend import TritonAttentionBackend
from tandem.engine.kv.pool import KvPool
from tandem.engine.spec import LayerSpec, ModelSpec
from tests.unit.kernels.cases import Case, build, interpreted_only
from tests.unit.kernels.test_reference import forward_batch, layer_of

CASES = [
    Case(name="mixed", query_lens=(3, 1, 4, 1), context_lens=(9, 20, 4, 31), num_heads=6, head_dim=20),
    Case(name="decode-only", query_lens=(1, 1), context_lens=(9, 1)),
    Case(name="prefill-only", query_lens=(9, 2), context_lens=(9, 20), block_size=3),
    Case(name="mixed-window-softcap", query_lens=(3, 1), context_lens=(19, 20), window_tokens=6, softcap=3.0),
]


def make_pool(case: Case, num_blocks: int, dtype: torch.dtype, device: str = "cpu") -> KvPool:
    layers: tuple[LayerSpec, ...] = tuple(layer_of(case, index) for index in range(3))
    spec = ModelSpec(
        architecture="llama",
        digest="",
        dtype="float32",
        vocab_size=8,
        max_context_tokens=64,
        layers=layers,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        rope_digest="",
    )
    return KvPool(spec, num_blocks=num_blocks, block_size=case.block_size, device=device, dtype=dtype)


@interpreted_only
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attend_equals_the_oracle_in_every_layer(case: Case) -> None:
    problem = build(case, torch.float32)
    batch = forward_batch(problem)
    pool, expected_pool = (make_pool(case, problem.cache.shape[0], torch.float32) for _ in range(2))
    for one in (pool, expected_pool):  # the prefixes, in every layer
        one.data.copy_(problem.cache.nan_to_num(0.25).unsqueeze(1).expand_as(one.data))
    backend = TritonAttentionBackend(pool)
    generator = torch.Generator().manual_seed(5)
    shape = (batch.num_tokens, case.num_kv_heads, case.head_dim)
    for layer in (layer_of(case, 0), layer_of(case, 2)):
        key, value = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        result = backend.attend(layer, problem.query, key, value, batch)
        write_kv(expected_pool.layer(layer.index), key, value, batch, case.block_size)
        expected = reference_attention(layer, problem.query, expected_pool.layer(layer.index), batch, case.block_size)
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=2e-6)
    assert torch.equal(pool.data, expected_pool.data)


@interpreted_only
def test_a_new_batch_gets_a_new_plan() -> None:
    """Two batches of different make-up through one backend; a stale plan would leave rows uncomputed."""
    for first, second in ((CASES[1], CASES[3]), (CASES[3], CASES[1])):
        pool = make_pool(first, 32, torch.float32)
        backend = TritonAttentionBackend(pool)
        for case in (first, second):
            problem = build(case, torch.float32)
            batch, layer = forward_batch(problem), layer_of(case)
            key = torch.ones(batch.num_tokens, case.num_kv_heads, case.head_dim)
            result = backend.attend(layer, problem.query, key, key, batch)
            expected = reference_attention(layer, problem.query, pool.layer(0), batch, case.block_size)
            torch.testing.assert_close(result, expected, atol=2e-6, rtol=2e-6)


@interpreted_only
def test_computes_in_the_pools_type_and_answers_in_the_querys() -> None:
    case = CASES[1]
    problem = build(case, torch.float32)
    pool = make_pool(case, problem.cache.shape[0], torch.float16)
    key = torch.ones(2, case.num_kv_heads, case.head_dim)
    result = TritonAttentionBackend(pool).attend(layer_of(case), problem.query, key, key, forward_batch(problem))
    assert result.dtype == torch.float32
    assert pool.data.dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "device", "chosen"),
    [
        ("auto", "cpu", TorchAttentionBackend),
        ("auto", "mps", TorchAttentionBackend),
        ("torch", "cuda:1", TorchAttentionBackend),
        ("auto", "cuda", TritonAttentionBackend),
        ("auto", "cuda:1", TritonAttentionBackend),
        ("triton", "cuda:0", TritonAttentionBackend),
    ],
)
def test_choice_by_name_and_device(name: AttentionName, device: str, chosen: type) -> None:
    assert select_backend(name, device) is chosen


def test_triton_on_a_cpu_is_refused_with_what_to_do() -> None:
    with pytest.raises(EnvironmentProblem, match="needs a CUDA device; this worker runs on 'cpu'") as caught:
        select_backend("triton", "cpu")
    assert "'torch'" in caught.value.remedy


def test_missing_triton_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tandem.engine.attention.triton_backend", raising=False)
    monkeypatch.setitem(sys.modules, "tandem.kernels.paged_decode", None)
    with pytest.raises(EnvironmentProblem, match="not installed"):
        select_backend("auto", "cuda")
