"""Weights of the lean decoder: QKV and gate-up fused, taken straight from the safetensors file."""

from dataclasses import dataclass

import torch

from tandem.engine.models.lean_config import LeanConfig
from tandem.engine.models.linear import Linear, Packing
from tandem.engine.models.tensors import TensorFile
from tandem.engine.spec import LayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LeanLayer:
    """Weights of one decoder layer."""

    spec: LayerSpec
    attention_norm: torch.Tensor
    qkv: Linear  # rows: query heads, key heads, value heads
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LeanWeights:
    """All weights of a lean decoder."""

    embedding: torch.Tensor  # [vocab_size, hidden_size]
    layers: tuple[LeanLayer, ...]
    norm: torch.Tensor
    head: Linear


def load_lean_weights(config: LeanConfig, tensors: TensorFile) -> LeanWeights:
    """Take every tensor the config calls for. Raises ModelError for missing, unexpected or misshapen tensors."""
    packing = Packing()
    embedding = tensors.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    layers = tuple(_layer(config, layer, tensors, packing) for layer in config.layers)
    norm = tensors.take("model.norm.weight", config.hidden_size)
    if config.tied_embeddings:
        tensors.ignore("lm_head.weight")
        head = embedding
    else:
        head = tensors.take("lm_head.weight", config.vocab_size, config.hidden_size)
    tensors.finish()
    return LeanWeights(embedding=embedding, layers=layers, norm=norm, head=Linear(head, None, packing=packing))


def _layer(config: LeanConfig, spec: LayerSpec, tensors: TensorFile, packing: Packing) -> LeanLayer:
    prefix = f"model.layers.{spec.index}"
    hidden, wide = config.hidden_size, config.intermediate_size
    query_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim

    def fused(names: tuple[str, ...], sizes: tuple[int, ...], inputs: int, *, bias: bool) -> Linear:
        pairs = list(zip(names, sizes, strict=True))
        weight = torch.cat([tensors.take(f"{prefix}.{name}.weight", size, inputs) for name, size in pairs])
        offsets = torch.cat([tensors.take(f"{prefix}.{name}.bias", size) for name, size in pairs]) if bias else None
        return Linear(weight, offsets, packing=packing)

    def norm(name: str, size: int) -> torch.Tensor:
        return tensors.take(f"{prefix}.{name}.weight", size)

    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return LeanLayer(
        spec=spec,
        attention_norm=norm("input_layernorm", hidden),
        qkv=fused(attention, (query_size, kv_size, kv_size), hidden, bias=config.qkv_bias),
        query_norm=norm("self_attn.q_norm", spec.head_dim) if config.qk_norm else None,
        key_norm=norm("self_attn.k_norm", spec.head_dim) if config.qk_norm else None,
        output=fused(("self_attn.o_proj",), (hidden,), query_size, bias=config.output_bias),
        mlp_norm=norm("post_attention_layernorm", hidden),
        gate_up=fused(("mlp.gate_proj", "mlp.up_proj"), (wide, wide), hidden, bias=config.mlp_bias),
        down=fused(("mlp.down_proj",), (hidden,), wide, bias=config.mlp_bias),
    )
