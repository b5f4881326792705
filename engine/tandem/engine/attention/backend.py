"""The interface every attention backend has."""

from typing import Protocol

import torch

from tandem.engine.batch import ForwardBatch
from tandem.engine.spec import LayerSpec


class AttentionBackend(Protocol):
    """Writes the new K and V into the pool, then attends causally over each sequence's whole context."""

    def attend(
        self, layer: LayerSpec, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: ForwardBatch
    ) -> torch.Tensor:
        """Return [T, num_heads, head_dim] from query [T, num_heads, head_dim], key/value [T, num_kv_heads, head_dim].

        Keys come in already rotated. Grouped heads: query head h reads kv head h // (num_heads // num_kv_heads).
        """
        ...
