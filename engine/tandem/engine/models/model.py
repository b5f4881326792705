"""What a loaded model is to the rest of the engine, whichever path executes it."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from tandem.engine.batch import ForwardBatch
from tandem.engine.spec import ModelSpec

PathChoice = Literal["auto", "lean", "transformers"]


class PagedModule(Protocol):
    """A decoder whose attention runs over the paged KV cache."""

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Return logits [R, vocab_size] of ``batch.logit_rows``; K and V of every token are in the pool afterwards."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to run; ``path`` says which implementation runs it."""

    spec: ModelSpec
    module: PagedModule
    path: Literal["lean", "transformers"]
