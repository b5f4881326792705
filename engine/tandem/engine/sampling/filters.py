"""Top-k and top-p as a mask over the vocabulary.

Tokens are ranked by logit, highest first, equal logits by lower token id: the order is total, so the kept set is the
same whatever the device or the neighbours in the batch. No permutation is ever built: a cut-off logit and the number
of tokens kept at exactly that logit say the same thing, and plain values sort ten times faster than (value, id) pairs.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tandem.core.types import SamplingParams


def has_rank_filter(params: SamplingParams, vocab_size: int) -> bool:
    """Whether top-k or top-p can drop a token."""
    return 0 < params.top_k < vocab_size or params.top_p < 1.0


def _ascending(values: torch.Tensor) -> torch.Tensor:
    if values.device.type == "cpu":  # numpy sorts with SIMD: 20 times faster than torch here
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def rank_mask(logits: torch.Tensor, weights: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return the tokens [F, vocab] (bool) that top-k and then top-p keep.

    ``logits`` [F, vocab] fp32 give the rank; ``weights`` [F, vocab] are the probabilities after temperature, scaled to
    integers in float64. Top-p is the smallest set of best tokens holding at least ``top_p`` of the mass left by top-k.
    """
    vocab_size = logits.shape[1]
    limits = [row.top_k if 0 < row.top_k < vocab_size else vocab_size for row in params]
    num_kept = torch.tensor(limits, dtype=torch.int64, device=logits.device).unsqueeze(1)
    ranked = _ascending(logits)
    if any(row.top_p < 1.0 for row in params):
        top_p = torch.tensor([row.top_p for row in params], dtype=torch.float64, device=logits.device).unsqueeze(1)
        mass = _ascending(weights).flip(1).cumsum_(1)  # exact: integers, and their sum is below 2**53
        target = (top_p * mass.gather(1, num_kept - 1)).ceil_()
        in_nucleus = torch.searchsorted(mass, target) + 1  # up to the first rank at which the mass reaches the target
        num_kept = torch.where(top_p < 1.0, in_nucleus, num_kept)
    cutoff = ranked.gather(1, vocab_size - num_kept)
    num_reaching = vocab_size - torch.searchsorted(ranked, cutoff)
    if bool((num_reaching == num_kept).all()):
        return logits >= cutoff
    level = logits == cutoff
    num_above = vocab_size - torch.searchsorted(ranked, cutoff, right=True)
    return (logits > cutoff) | (level & (level.cumsum(1) <= num_kept - num_above))
