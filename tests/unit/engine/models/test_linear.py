"""Packed matrix products agree with plain ones at every batch size, and are given up where they do not."""

import pytest
import torch
import torch.nn.functional as F

from tandem.engine.models import linear
from tandem.engine.models.linear import Linear, Packing


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 48), (64, 320), (576, 960), (7, 3)])
def test_every_batch_size(inputs: int, outputs: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator) if with_bias else None
    product = Linear(weight, bias, packing=Packing())
    for rows in (1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 255, 256, 257, 600):
        values = torch.randn(rows, inputs, generator=generator)
        torch.testing.assert_close(product(values), F.linear(values, weight, bias), rtol=1e-4, atol=1e-3)


def test_strided_inputs() -> None:
    weight = torch.randn(32, 16)
    values = torch.randn(5, 40)[:, 8:24]
    torch.testing.assert_close(Linear(weight, None, packing=Packing())(values), values @ weight.T, rtol=1e-4, atol=1e-4)


def test_no_rows() -> None:
    assert Linear(torch.randn(32, 16), None, packing=Packing())(torch.empty(0, 16)).shape == (0, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_stay_plain(dtype: torch.dtype) -> None:
    weight = torch.randn(32, 16).to(dtype)
    assert Packing().pack(weight) is None
    values = torch.randn(3, 16).to(dtype)
    assert torch.equal(Linear(weight, None, packing=Packing())(values), F.linear(values, weight))


def test_a_packing_that_disagrees_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_packed_linear", lambda values, *_: torch.zeros(values.shape[0], 32))
    assert Packing().pack(torch.randn(32, 16)) is None


def test_without_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_has_mkl", lambda: False)
    weight = torch.randn(32, 16)
    values = torch.randn(3, 16)
    assert torch.equal(Linear(weight, None, packing=Packing())(values), F.linear(values, weight))
