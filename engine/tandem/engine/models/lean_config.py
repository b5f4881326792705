"""Which models the lean decoder runs, and the facts it needs of their config."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from tandem.engine.models.rope import rope_kinds, rope_parameters
from tandem.engine.spec import LayerSpec

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "mistral"})
_ROPE_KINDS = frozenset({"default", "linear", "dynamic", "llama3", "yarn", "longrope"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeanConfig:
    """Shape of a Llama-family decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    norm_eps: float
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool  # RMSNorm over each query and key head, before the rotation
    tied_embeddings: bool
    layers: tuple[LayerSpec, ...]


def why_not_lean(config: PreTrainedConfig) -> str | None:
    """Return the reason why the lean decoder can't run this model, None when it can."""
    if config.model_type not in ARCHITECTURES:
        return f"model_type {config.model_type!r} is not of the Llama family"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r} is not silu"
    if rope_kinds(config) - _ROPE_KINDS:
        return f"rope type {sorted(rope_kinds(config))}"
    if rope_parameters(config).get("partial_rotary_factor", 1.0) != 1.0:
        return "partial rotary embedding"
    return None


def lean_config(config: PreTrainedConfig) -> LeanConfig:
    """Read the facts of a config for which ``why_not_lean`` is None."""
    kind = config.model_type
    bias = bool(getattr(config, "attention_bias", False))
    return LeanConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        norm_eps=config.rms_norm_eps,
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias and kind in ("llama", "qwen3"),
        mlp_bias=kind == "llama" and bool(getattr(config, "mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tied_embeddings=bool(config.tie_word_embeddings),
        layers=tuple(_layer(config, index) for index in range(config.num_hidden_layers)),
    )


def _layer(config: PreTrainedConfig, index: int) -> LayerSpec:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = None
    if config.model_type == "mistral" or (
        config.model_type in ("qwen2", "qwen3") and config.layer_types[index] == "sliding_attention"
    ):
        window = config.sliding_window
    return LayerSpec(
        index=index,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        window_tokens=window,
    )
