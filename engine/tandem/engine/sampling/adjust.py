"""Logit bias and penalties: the changes to single logits that depend on what a sequence holds so far.

For a token of the vocabulary with logit x (fp32), in this order::

    x ← x + bias
    x ← x / repetition_penalty   if x > 0, else x · repetition_penalty     (tokens of prompt or output)
    x ← x - presence_penalty - frequency_penalty · count                   (tokens of the output; count ≥ 1)

Only the touched logits are read and written, all rows in one gather and one scatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tandem.core.types import SamplingParams

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Ids = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    """The touched tokens of one row, and what happens to each."""

    token_ids: _Ids
    bias: _Values
    factor: _Values
    minus: _Values


def is_adjusted(params: SamplingParams) -> bool:
    """Whether these parameters change any logit."""
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )


def _distinct(*parts: _Ids) -> _Ids:
    """Sorted, without repeats. numpy's union1d builds a hash table, which takes ten times as long on a long prompt."""
    ids = np.sort(np.concatenate(parts))
    return ids[np.concatenate(([True], ids[1:] != ids[:-1]))] if len(ids) else ids


def _changes(params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> _Changes:
    bias_ids = np.array(list(params.logit_bias), dtype=np.int64)
    bias_values = np.array(list(params.logit_bias.values()), dtype=np.float32)
    output_ids, output_counts = np.unique(np.array(output, dtype=np.int64), return_counts=True)
    repeated = output_ids
    if params.repetition_penalty != 1.0:
        repeated = _distinct(np.array(prompt, dtype=np.int64), output_ids)
    token_ids = _distinct(bias_ids, repeated)
    bias = np.zeros(len(token_ids), dtype=np.float32)
    bias[np.searchsorted(token_ids, bias_ids)] = bias_values
    factor = np.ones(len(token_ids), dtype=np.float32)
    factor[np.searchsorted(token_ids, repeated)] = params.repetition_penalty
    minus = np.zeros(len(token_ids), dtype=np.float32)
    minus[np.searchsorted(token_ids, output_ids)] = (
        params.presence_penalty + params.frequency_penalty * output_counts
    ).astype(np.float32)
    return _Changes(token_ids=token_ids, bias=bias, factor=factor, minus=minus)


def adjust_logits(
    logits: torch.Tensor,
    params: Sequence[SamplingParams],
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
) -> None:
    """Apply bias and penalties in place to fp32 ``logits`` [R, vocab]; every row of the sequences matches a row."""
    changes = {
        row: _changes(row_params, prompts[row], outputs[row])
        for row, row_params in enumerate(params)
        if is_adjusted(row_params)
    }
    if not changes:
        return
    device = logits.device
    row_ids = np.concatenate([np.full(len(change.token_ids), row) for row, change in changes.items()])
    rows = torch.from_numpy(row_ids).to(device)
    columns = torch.from_numpy(np.concatenate([change.token_ids for change in changes.values()])).to(device)
    bias = torch.from_numpy(np.concatenate([change.bias for change in changes.values()])).to(device)
    factor = torch.from_numpy(np.concatenate([change.factor for change in changes.values()])).to(device)
    minus = torch.from_numpy(np.concatenate([change.minus for change in changes.values()])).to(device)
    touched = logits[rows, columns] + bias
    touched = torch.where(touched > 0, touched / factor, touched * factor) - minus
    # A tiny repetition penalty can push a finite logit past fp32; the row is still a good row.
    logits[rows, columns] = touched.clamp_(-_FLOAT32_MAX, _FLOAT32_MAX)
