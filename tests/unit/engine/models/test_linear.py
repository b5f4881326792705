"""Packed matrix products agree with plain ones at every batch size, and give a row its bits whoever is beside it."""

import pytest
import torch
import torch.nn.functional as F

from tandem.engine.models import linear
from tandem.engine.models.linear import Linear, Pack, Packing, Product


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
    values = torch.randn(3, 16).to(dtype)
    assert torch.equal(Linear(weight, None, packing=Packing())(values), F.linear(values, weight))


def test_a_packing_that_disagrees_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(weight: torch.Tensor) -> Product:
        return lambda values, _: torch.zeros(values.shape[0], weight.shape[0])

    monkeypatch.setattr(linear, "packers", lambda: (wrong,))
    weight, values = torch.randn(32, 16), torch.randn(20, 16)
    assert torch.equal(Linear(weight, None, packing=Packing())(values), F.linear(values, weight))


@pytest.mark.parametrize("pack", [linear.plain, linear.mkl, linear.onednn])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (64, 320), (176, 64), (576, 960), (1536, 576)])
def test_bits_of_a_row_do_not_depend_on_its_company(
    inputs: int, outputs: int, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "packers", lambda: () if pack is linear.plain else (pack,))
    generator = torch.Generator().manual_seed(1)
    product = Linear(torch.randn(outputs, inputs, generator=generator), None, packing=Packing())
    values = torch.randn(300, inputs, generator=generator)
    whole = product(values)
    for rows in (*range(1, 20), 33, 64, 150, 256):
        assert torch.equal(product(values[:rows]), whole[:rows])
        assert torch.equal(product(values[-rows:]), whole[-rows:])


def uneven(worst: int, calls: list[int]) -> Pack:
    """A library whose kernel for up to ``worst`` rows adds up otherwise."""

    def pack(weight: torch.Tensor) -> Product:
        def product(values: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            calls.append(values.shape[0])
            exact = (values[:, None] * weight).sum(-1)  # row by row
            return exact.mul(1.0 + 1e-6 * (values.shape[0] <= worst)) + (0.0 if bias is None else bias)

        return product

    return pack


@pytest.mark.parametrize(("worst", "expected"), [(0, 1), (1, 2), (3, 4), (5, 8), (15, 16)])
def test_few_rows_are_filled_up_where_their_kernel_adds_up_otherwise(
    worst: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(linear, "packers", lambda: (uneven(worst, calls),))
    product, values = Linear(torch.ones(3, 8), None, packing=Packing()), torch.ones(40, 8)
    whole = product(values)
    for rows in (1, 2, 3, 5, 15, 16, 40):
        assert torch.equal(product(values[:rows]), whole[:rows])
        assert calls[-1] == max(rows, expected)


@pytest.mark.parametrize(("rows", "chosen"), [((0, 0), 0), ((3, 1), 1), ((3, 3), 0), ((1, 3), 0)])
def test_the_library_that_needs_fewest_rows_is_used(
    rows: tuple[int, int], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: tuple[list[int], list[int]] = [], []
    monkeypatch.setattr(linear, "packers", lambda: tuple(map(uneven, rows, calls)))
    product = Linear(torch.ones(3, 8), None, packing=Packing())
    before = tuple(map(len, calls))
    product(torch.ones(40, 8))
    assert [len(c) - b for c, b in zip(calls, before, strict=True)] == [chosen == 0, chosen == 1]
