"""Tiny random models of real architectures, saved like any model folder: the real code runs, in milliseconds.

Weights are drawn larger than a fresh model's, so that attention matters, greedy gaps are wide (logits spread over
several units) and the output wanders instead of repeating one token.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

from tests.fakes.tiny_tokenizer import PAD_ID, TURN_END_ID, VOCAB_SIZE, save_tiny_tokenizer

SLIDING_WINDOW = 24
MAX_CONTEXT_TOKENS = 1024
_INTERLEAVED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3TextConfig,
    "gpt_neox": GPTNeoXConfig,
    "phi3": Phi3Config,
    "olmo2": Olmo2Config,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": SLIDING_WINDOW},
    "gemma2": {
        "num_hidden_layers": 4,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": _INTERLEAVED,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 20.0,
    },
    "gemma3_text": {
        "num_hidden_layers": 4,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": _INTERLEAVED,
        "query_pre_attn_scalar": 16,
    },
    "gpt_neox": {"num_key_value_heads": None, "head_dim": None, "rope_parameters": None},
    "phi3": {"original_max_position_embeddings": MAX_CONTEXT_TOKENS, "head_dim": None},
    "olmo2": {"head_dim": None},
}
ARCHITECTURES = tuple(_CONFIGS)


def tiny_config(architecture: str, **overrides: Any) -> PreTrainedConfig:
    """Return the config of a tiny model: hidden 64, 4 heads over 2 kv heads, 3 or 4 layers, context 1024."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": MAX_CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": TURN_END_ID,
        "pad_token_id": PAD_ID,
    }
    settings |= _SETTINGS[architecture]
    settings = {name: value for name, value in settings.items() if value is not None or name.endswith("token_id")}
    return _CONFIGS[architecture](**(settings | overrides))


def make_tiny_model(architecture: str, folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Build a float32 model of one of ``ARCHITECTURES`` in ``folder``, with tokenizer; return the folder.

    ``overrides`` are config fields, e.g. ``vocab_size``, ``num_hidden_layers``, ``eos_token_id``, ``rope_parameters``.
    """
    config = tiny_config(architecture, **overrides)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            _draw(name, parameter.data, zero_centred_norm=architecture.startswith("gemma"))
    model.save_pretrained(folder, safe_serialization=True)
    save_tiny_tokenizer(folder)
    return folder


def _draw(name: str, weight: torch.Tensor, *, zero_centred_norm: bool) -> None:
    """Draw one parameter in place."""
    if "norm" in name:
        mean = 0.0 if zero_centred_norm or name.endswith("bias") else 1.0
        # Post-norms scale what a layer adds: let it outweigh the embedding, which alone would repeat the last token.
        boost = 4.0 if zero_centred_norm and ("post_attention" in name or "post_feedforward" in name) else 0.0
        weight.normal_(mean + boost, 0.2)
    elif name.endswith("bias"):
        weight.normal_(0.0, 0.05)
    elif "embed_tokens" in name or "embed_in" in name:
        weight.normal_(0.0, 0.5)
    elif "lm_head" in name or "embed_out" in name:
        weight.normal_(0.0, 4.0 / math.sqrt(weight.shape[1]))
    else:
        weight.normal_(0.0, 2.0 / math.sqrt(weight.shape[1]))
