"""Matrix products of the lean decoder: float32 weights on CPUs are packed once, which skinny batches need most.

Two libraries pack: MKL and oneDNN. Which is used follows from bits, not from timings, so that equal machines choose
alike: on some processors a library takes another kernel for a few rows than for many, and then a row alone has other
bits than the same row in company (docs/adr/0015). Each weight shape finds out how many rows it takes here; the library
that needs fewest is used, MKL among equals, and fewer rows than that are filled up. (Where MKL needs several, oneDNN
was also the faster one: docs/adr/0018.)

A packed weight replaces the plain one, so packing costs no memory. The packed formats are made for one row count and
hold for any other in every release tried; each weight shape proves that before it is used.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

_PACK_ROWS = 256  # what the packing is tuned for; smaller batches run as fast with it
_PROBE_ROWS = (1, 3, 17)
_FEW_ROWS = (1, 2, 4, 8, 16)  # what a product may be filled up to
_TRIED_ROWS = (1, 2, 3, 4, 5, 7, 8, 11, 16, 19)
_MANY_ROWS = 33

Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""x [T, inputs] and the bias (or None) -> x·Wᵀ + b [T, outputs]. It holds the weight in its own form."""
Pack = Callable[[torch.Tensor], Product]


class Linear:
    """y = x·Wᵀ + b for x [T, inputs]."""

    __slots__ = ("_bias", "_min_rows", "_product")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, packing: "Packing") -> None:
        self._bias = bias
        self._product, self._min_rows = packing.pack(weight)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return [T, outputs]; on a CPU in float32 a row's bits do not depend on the others or their number."""
        num_rows = inputs.shape[0]
        if 0 < num_rows < self._min_rows:
            return self._product(F.pad(inputs, (0, 0, 0, self._min_rows - num_rows)), self._bias)[:num_rows]
        return self._product(inputs, self._bias)


class Packing:
    """Packs weights where that is possible and proven; one object per model, so that each shape is proven once."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[int, ...], tuple[Pack, int]] = {}

    def pack(self, weight: torch.Tensor) -> tuple[Product, int]:
        """Return the product with a weight, and how many rows it takes to give each row the bits it has in company."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return plain(weight), 1
        shape = tuple(weight.shape)
        if shape not in self._chosen:
            self._chosen[shape] = _choose(weight)
        pack, min_rows = self._chosen[shape]
        return pack(weight), min_rows


def plain(weight: torch.Tensor) -> Product:
    """Use the weight as it is."""
    return lambda inputs, bias: F.linear(inputs, weight, bias)


def mkl(weight: torch.Tensor) -> Product:
    """Pack for MKL."""
    packed: torch.Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _PACK_ROWS)
    shape_only = weight.new_zeros(1).expand(weight.shape)  # the operator reads the plain weight's shape and no more

    def product(inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkl._mkl_linear(inputs, packed, shape_only, bias, inputs.shape[0])
        return result

    return product


def onednn(weight: torch.Tensor) -> Product:
    """Pack for oneDNN."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_ROWS)
    num_outputs = weight.shape[0]

    def product(inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not inputs.shape[0]:
            return inputs.new_empty(0, num_outputs)
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
        return result

    return product


def packers() -> tuple[Pack, ...]:
    """Return what this build of torch can pack for, preferred first."""
    with_mkl = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    with_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return (*((mkl,) if with_mkl else ()), *((onednn,) if with_onednn else ()))


def _choose(weight: torch.Tensor) -> tuple[Pack, int]:
    best: tuple[Pack, int] | None = None
    for pack in packers():
        product = pack(weight)
        if not _agrees(weight, product):
            continue
        min_rows = _min_rows(product, weight.shape[1])
        if best is None or min_rows < best[1]:
            best = pack, min_rows
        if min_rows == 1:
            break
    return best or (plain, _min_rows(plain(weight), weight.shape[1]))


def _agrees(weight: torch.Tensor, product: Product) -> bool:
    generator = torch.Generator().manual_seed(0)
    for rows in _PROBE_ROWS:
        inputs = torch.randn(rows, weight.shape[1], generator=generator)
        expected = F.linear(inputs, weight)
        if not torch.allclose(product(inputs, None), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().mean())):
            return False
    return True


def _min_rows(product: Product, num_inputs: int) -> int:
    inputs = torch.randn(_MANY_ROWS, num_inputs, generator=torch.Generator().manual_seed(0))
    expected = product(inputs, None)
    differs = [rows for rows in _TRIED_ROWS if not torch.equal(product(inputs[:rows], None), expected[:rows])]
    return next((few for few in _FEW_ROWS if few > max(differs, default=0)), _FEW_ROWS[-1])
