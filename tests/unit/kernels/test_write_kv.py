"""The scatter kernel in Triton's interpreter against its reference."""

import pytest
import torch

from tandem.kernels.reference import write_kv_reference
from tandem.kernels.write_kv import write_kv
from tests.unit.kernels.cases import interpreted_only

pytestmark = interpreted_only


def make_pool(block_size: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((6, 3, 2, block_size, num_heads, head_dim), 7.0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("block_size", "num_heads", "head_dim"), [(1, 1, 1), (3, 2, 20), (16, 3, 80), (32, 5, 7)])
def test_matches_reference(block_size: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    last = 6 * block_size - 1
    slots = torch.cat((torch.tensor([last]), torch.randperm(last, generator=generator)[:5]))
    key = torch.randn((len(slots), num_heads, head_dim), generator=generator).to(dtype)
    value = torch.randn((len(slots), num_heads, head_dim), generator=generator).to(dtype)
    written, expected = (make_pool(block_size, num_heads, head_dim, dtype) for _ in range(2))
    write_kv(key, value, written[:, 1], slots)
    write_kv_reference(key, value, expected[:, 1], slots)
    assert torch.equal(written, expected)  # the neighbouring layers as well
    assert (written[:, 1] != 7.0).any()


def test_rows_with_a_negative_slot_are_skipped() -> None:
    pool = make_pool(4, 2, 8, torch.float32)
    key = torch.randn(3, 2, 8)
    write_kv(key, -key, pool[:, 0], torch.tensor([-1, 5, -1], dtype=torch.int32))
    assert torch.equal(pool[1, 0, 0, 1], key[1])
    assert torch.equal(pool[1, 0, 1, 1], -key[1])
    assert (pool != 7.0).sum() == 2 * 2 * 8


def test_keys_may_be_a_view_of_a_fused_projection() -> None:
    fused = torch.randn(4, 6, 8)  # [T, q heads + k heads + v heads, dim]
    pool = make_pool(4, 2, 8, torch.float32)
    write_kv(fused[:, 2:4], fused[:, 4:6], pool[:, 2], torch.tensor([0, 9, 3, 23]))
    assert torch.equal(pool[2, 2, 0, 1], fused[1, 2:4])
    assert torch.equal(pool[5, 2, 1, 3], fused[3, 4:6])


def test_nothing_to_write() -> None:
    pool = make_pool(4, 2, 8, torch.float32)
    write_kv(torch.empty(0, 2, 8), torch.empty(0, 2, 8), pool[:, 0], torch.empty(0, dtype=torch.int64))
    assert (pool == 7.0).all()


def test_tensors_that_do_not_fit_are_refused() -> None:
    cache, slots = make_pool(4, 2, 8, torch.float32)[:, 0], torch.tensor([0])
    good = torch.zeros(1, 2, 8)
    with pytest.raises(ValueError, match="do not fit"):
        write_kv(good, good, cache, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="do not fit"):
        write_kv(torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), cache, slots)
    with pytest.raises(ValueError, match="must be the same"):
        write_kv(good.half(), good.half(), cache, slots)
    with pytest.raises(ValueError, match="side by side"):
        write_kv(good, torch.zeros(1, 8, 2).transpose(1, 2), cache, slots)
    with pytest.raises(ValueError, match="expected"):
        write_kv(good, good, cache[:, 0], slots)
