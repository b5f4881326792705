"""What the engine knows about a model's shape, whatever path executes it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Attention facts of one layer."""

    index: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window_tokens: int | None = None  # a token sees itself and the ``window_tokens - 1`` before it; None = all
    softcap: float | None = None  # scores become softcap·tanh(scores / softcap)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Shape of a loaded model. All layers share ``num_kv_heads`` and ``head_dim``, so one KV pool fits them all."""

    architecture: str  # e.g. "llama", as in the config's model_type
    digest: str  # of the prepared model folder
    dtype: str  # "float32" | "bfloat16" | "float16"
    vocab_size: int
    max_context_tokens: int
    layers: tuple[LayerSpec, ...]
    num_kv_heads: int
    head_dim: int
    rope_digest: str  # of every setting that changes how positions enter the KV
    eos_token_ids: tuple[int, ...] = ()
