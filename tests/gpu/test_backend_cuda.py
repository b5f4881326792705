"""The engine's Triton backend on a CUDA device against the engine's oracle."""

import pytest
import torch

from tandem.engine.attention.reference import reference_attention
from tandem.engine.attention.select import select_backend
from tandem.engine.attention.triton_backend import TritonAttentionBackend
from tests.unit.kernels.cases import TOLERANCES, Case, build
from tests.unit.kernels.test_reference import forward_batch, layer_of
from tests.unit.kernels.test_triton_backend import CASES, make_pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attend_equals_the_oracle(case: Case, dtype: torch.dtype) -> None:
    problem = build(case, dtype, "cuda")
    batch, layer = forward_batch(problem), layer_of(case, 1)
    pool = make_pool(case, problem.cache.shape[0], dtype, "cuda")
    backend = select_backend("auto", "cuda")(pool)
    assert isinstance(backend, TritonAttentionBackend)
    shape = (batch.num_tokens, case.num_kv_heads, case.head_dim)
    key, value = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    pool.data.copy_(problem.cache.nan_to_num(0.25).unsqueeze(1).expand_as(pool.data))
    result = backend.attend(layer, problem.query, key, value, batch)
    expected = reference_attention(layer, problem.query, pool.layer(1), batch, case.block_size)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)
