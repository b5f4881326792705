"""One draw per row from softmax(logits / temperature), filtered, by inverse CDF in token-id order.

Probabilities are held as integers in float64: w_t = round(2^s · exp((x_t - max x) / T)), with s so small that no sum
over the vocabulary reaches 2^53. Sums of them are exact in any order, so neither the device, nor the shape of the
batch, nor the way a library adds numbers up can change which token is drawn. What rounding loses is at
most 2^(2b-54) of the mass for a vocabulary of b bits (2^-22 for 49152 tokens), and in practice nothing.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tandem.core.types import SamplingParams
from tandem.engine.sampling.filters import has_rank_filter, rank_mask

# Elements worked on at a time: in cache on a CPU, bounded memory on a GPU.
_CPU_CHUNK = 1 << 18
_GPU_CHUNK = 1 << 26


def weight_scale(vocab_size: int) -> float:
    """Return the weight of a row's likeliest token: a power of two, times ``vocab_size`` below 2^53."""
    return float(2 ** (53 - vocab_size.bit_length()))


def token_weights(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """Return w [R, vocab] (see the module) from fp32 ``logits`` [R, vocab] and positive ``temperatures`` [R, 1]."""
    weights = logits.double()
    weights -= weights.amax(1, keepdim=True)
    weights /= temperatures
    return weights.exp_().mul_(weight_scale(logits.shape[1])).round_()


def _draw_chunk(
    logits: torch.Tensor, params: Sequence[SamplingParams], uniform: npt.NDArray[np.float64]
) -> torch.Tensor:
    device, vocab_size = logits.device, logits.shape[1]

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(1)

    weights = token_weights(logits, column([row.temperature for row in params]))
    dropped: torch.Tensor | None = None
    if any(row.min_p > 0.0 for row in params):
        dropped = weights < column([row.min_p for row in params]) * weight_scale(vocab_size)
    ranked = [index for index, row in enumerate(params) if has_rank_filter(row, vocab_size)]
    if len(ranked) == len(params):
        weights = weights.masked_fill_(~rank_mask(logits, weights, params), 0.0)
    elif ranked:
        index = torch.tensor(ranked, dtype=torch.int64, device=device)
        chosen = weights[index]
        keep = rank_mask(logits[index], chosen, [params[i] for i in ranked])
        weights[index] = chosen.masked_fill_(~keep, 0.0)
    if dropped is not None:
        weights.masked_fill_(dropped, 0.0)
    mass = weights.cumsum_(1)
    # At most 1 - 2^-53 of an exact total: the product rounds to less than the total, so there is always such a token.
    target = (column(uniform.tolist()) * mass[:, -1:]).floor_()
    return torch.searchsorted(mass, target, right=True).squeeze(1)


def draw(logits: torch.Tensor, params: Sequence[SamplingParams], uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Return one token id per row [R] (int64, on the logits' device).

    ``logits`` [R, vocab] fp32, finite, after bias and penalties; every ``temperature`` is positive; ``uniform`` [R] in
    [0, 1). The token is the first, by id, whose cumulative weight exceeds ``uniform`` times the total.
    """
    num_rows, vocab_size = logits.shape
    elements = _CPU_CHUNK if logits.device.type == "cpu" else _GPU_CHUNK
    step = max(1, elements // vocab_size)
    return torch.cat(
        [
            _draw_chunk(logits[start : start + step], params[start : start + step], uniform[start : start + step])
            for start in range(0, num_rows, step)
        ]
    )
