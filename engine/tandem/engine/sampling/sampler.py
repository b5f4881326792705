"""One next token per row of logits.

Order: logit bias → repetition, presence, frequency penalties → (temperature 0: argmax) → temperature → top-k → top-p →
min-p → draw. A row's result is a function of its logits and its ``SampleRow`` alone: not of the other rows, the device
or the worker. It is not the place that knows about stop conditions or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tandem.core.types import PositionLogprobs, SamplingParams
from tandem.engine.sampling.adjust import adjust_logits
from tandem.engine.sampling.draw import draw
from tandem.engine.sampling.logprobs import position_logprobs
from tandem.engine.sampling.philox import uniforms


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """What sampling one row needs to know about its sequence."""

    params: SamplingParams
    child: int
    position: int  # output position of the token to draw
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One row's result; ``token_id`` is None when the row's logits were not finite (that row fails alone)."""

    token_id: int | None
    logprobs: PositionLogprobs | None = None


class TokenSampler(Protocol):
    """What the engine needs of a sampler."""

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[SampledToken]:
        """Draw one token per row from fp32 ``logits`` [R, vocab]; may overwrite ``logits``."""
        ...


def _finite_rows(logits: torch.Tensor) -> list[bool]:
    # Two reductions, both of which let a NaN through, cost a tenth of isfinite() over every element on a CPU.
    extremes = torch.stack((logits.amin(1), logits.amax(1)))
    flags: list[bool] = torch.isfinite(extremes).all(0).tolist()
    return flags


def _argmax(logits: torch.Tensor) -> list[int]:
    """Return each row's best token, equal logits by lowest id."""
    if logits.device.type == "cpu":  # same rule as torch's, at a tenth of its time
        best: list[int] = logits.numpy().argmax(axis=1).tolist()
    else:
        best = logits.argmax(1).tolist()
    return best


def _select(logits: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Return the rows ``indices`` (ascending), copying only when they are not all rows."""
    if len(indices) == logits.shape[0]:
        return logits
    return logits[torch.tensor(indices, dtype=torch.int64, device=logits.device)]


class Sampler:
    """The TokenSampler of the engine. Stateless: one object may serve any number of batches and threads."""

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[SampledToken]:
        """Draw one token per row from fp32 ``logits`` [R, vocab], which it overwrites with bias and penalties applied.

        Raises ValueError if the rows do not match the logits, or the logits are not fp32.
        """
        if logits.dtype != torch.float32 or logits.ndim != 2 or logits.shape[0] != len(rows):
            raise ValueError(f"logits are {logits.dtype} {tuple(logits.shape)}; expected float32 [{len(rows)}, vocab]")
        if not rows:
            return []
        good = [index for index, finite in enumerate(_finite_rows(logits)) if finite]
        results = [SampledToken(token_id=None) for _ in rows]
        if not good:
            return results
        logits = _select(logits, good)
        good_rows = [rows[index] for index in good]
        adjust_logits(
            logits,
            [row.params for row in good_rows],
            [row.prompt_token_ids for row in good_rows],
            [row.output_token_ids for row in good_rows],
        )
        token_ids = _choose(logits, good_rows)
        logprobs = _logprobs(logits, good_rows, token_ids)
        for place, index in enumerate(good):
            results[index] = SampledToken(token_id=token_ids[place], logprobs=logprobs.get(place))
        return results


def _choose(logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[int]:
    drawn = [index for index, row in enumerate(rows) if row.params.temperature > 0.0]
    if not drawn:
        return _argmax(logits)
    token_ids = [0] * len(rows)
    chosen_rows = [rows[index] for index in drawn]
    uniform = uniforms(
        [row.params.seed for row in chosen_rows],
        [row.child for row in chosen_rows],
        [row.position for row in chosen_rows],
    )
    drawn_ids = draw(_select(logits, drawn), [row.params for row in chosen_rows], uniform).tolist()
    for index, token_id in zip(drawn, drawn_ids, strict=True):
        token_ids[index] = token_id
    greedy = [index for index, row in enumerate(rows) if row.params.temperature <= 0.0]
    if greedy:
        for index, token_id in zip(greedy, _argmax(_select(logits, greedy)), strict=True):
            token_ids[index] = token_id
    return token_ids


def _logprobs(logits: torch.Tensor, rows: Sequence[SampleRow], token_ids: Sequence[int]) -> dict[int, PositionLogprobs]:
    wanted = {index: row.params.num_logprobs for index, row in enumerate(rows) if row.params.num_logprobs is not None}
    if not wanted:
        return {}
    indices = list(wanted)
    found = position_logprobs(_select(logits, indices), [token_ids[i] for i in indices], list(wanted.values()))
    return dict(zip(indices, found, strict=True))
