"""Contract of the sampler (the implementation is being written here)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tandem.core.types import PositionLogprobs, SamplingParams


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
