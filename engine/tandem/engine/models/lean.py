"""The lean decoder of the Llama family: few operators per layer, no modules, no hooks, no masks.

Per layer: RMSNorm, fused QKV, rotation, paged attention, output projection, RMSNorm, fused gate-up, SwiGLU, down. What
rounds (norms and softmax in float32) is done in the order of ``transformers``, so greedy tokens are equal.
"""

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.batch import ForwardBatch
from tandem.engine.models.lean_config import lean_config
from tandem.engine.models.lean_weights import LeanLayer, load_lean_weights
from tandem.engine.models.rope import Rope, RopeTables
from tandem.engine.models.tensors import TensorFile


class LeanDecoder:
    """A Llama-family decoder; holds its weights and nothing about sequences."""

    def __init__(
        self,
        config: PreTrainedConfig,
        tensors: TensorFile,
        attention: AttentionBackend,
        *,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        """Load the weights. Raises ModelError when they do not fit the config."""
        facts = lean_config(config)
        self._weights = load_lean_weights(facts, tensors)
        self._rope = Rope(config, device=device, dtype=dtype)
        self._attention = attention
        self._eps = facts.norm_eps
        self._wide = facts.intermediate_size

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Return logits [R, vocab_size]."""
        weights = self._weights
        hidden = F.embedding(batch.token_ids, weights.embedding)
        tables = self._rope.tables(batch.positions)
        for layer in weights.layers:
            hidden = self._layer(layer, hidden, tables, batch)
        return weights.head(self._norm(hidden.index_select(0, batch.logit_rows), weights.norm))

    def _layer(self, layer: LeanLayer, hidden: torch.Tensor, tables: RopeTables, batch: ForwardBatch) -> torch.Tensor:
        spec = layer.spec
        rotated = spec.num_heads + spec.num_kv_heads
        qkv = layer.qkv(self._norm(hidden, layer.attention_norm)).view(hidden.shape[0], -1, spec.head_dim)
        query_key = qkv[:, :rotated]
        if layer.query_norm is not None and layer.key_norm is not None:
            query = self._norm(qkv[:, : spec.num_heads], layer.query_norm)
            query_key = torch.cat((query, self._norm(qkv[:, spec.num_heads : rotated], layer.key_norm)), dim=1)
        query_key = tables.rotate(query_key)
        attended = self._attention.attend(
            spec, query_key[:, : spec.num_heads], query_key[:, spec.num_heads :], qkv[:, rotated:], batch
        )
        hidden = hidden + layer.output(attended.reshape(hidden.shape[0], -1))
        gate_up = layer.gate_up(self._norm(hidden, layer.mlp_norm))
        gate = F.silu(gate_up[:, : self._wide])
        return hidden + layer.down(gate.mul_(gate_up[:, self._wide :]))

    def _norm(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm over the last dimension: computed in float32, scaled in the model's dtype."""
        wide = values.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self._eps))
        return weight * (wide * scale).to(values.dtype)
