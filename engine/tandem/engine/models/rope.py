"""Rotary position embedding: inverse frequencies from a config, and the rotation itself.

``x'_i = x_i·cos(p·f_i) + rotate_half(x)_i·sin(p·f_i)`` with ``rotate_half(x) = (-x_upper, x_lower)``.

Two scalings depend on the longest sequence of a *batch*: "dynamic" and "longrope" change their frequencies beyond the
original context, which would change KV already written. Tandem serves them within the original context, where they are
constant: see ``context_limit``.
"""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tandem.core.errors import ModelError


class Rope:
    """cos and sin tables of one model, made for a batch's positions."""

    def __init__(self, config: PreTrainedConfig, *, device: str, dtype: torch.dtype) -> None:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        parameters = rope_parameters(config)
        kind = parameters["rope_type"]
        self._scaling = 1.0
        if kind in ("default", "dynamic"):
            exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
            frequencies = 1.0 / (parameters["rope_theta"] ** exponents)
        else:
            frequencies, self._scaling = ROPE_INIT_FUNCTIONS[kind](config)
        self._frequencies = frequencies.to(device)
        self._dtype = dtype

    def tables(self, positions: torch.Tensor) -> "RopeTables":
        """Return the tables of positions [T], computed in float32."""
        angles = positions[:, None].float() * self._frequencies
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        cosines = torch.cat((cos, cos), dim=-1).to(self._dtype)[:, None]
        return RopeTables(cosines, torch.cat((-sin, sin), dim=-1).to(self._dtype)[:, None])


class RopeTables:
    """cos [T, 1, head_dim], and sin whose lower half is negated so that a roll does the work of ``rotate_half``."""

    __slots__ = ("_cos", "_half", "_signed_sin")

    def __init__(self, cos: torch.Tensor, signed_sin: torch.Tensor) -> None:
        self._cos = cos
        self._signed_sin = signed_sin
        self._half = cos.shape[-1] // 2

    def rotate(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotate [T, num_heads, head_dim] into a new tensor."""
        return torch.addcmul(heads * self._cos, heads.roll(self._half, -1), self._signed_sin)


def rope_parameters(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the standardised rope parameters; {} for a model without rotary positions."""
    parameters = getattr(config, "rope_parameters", None)
    return dict(parameters) if parameters else {}


def rope_kinds(config: PreTrainedConfig) -> set[str]:
    """Return every rope type in use; interleaved models have one set of parameters per kind of layer."""
    parameters = rope_parameters(config)
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each["rope_type"]) for each in nested or [parameters] if "rope_type" in each}


def context_limit(config: PreTrainedConfig) -> int:
    """Return the longest context whose KV never depends on other sequences of the batch.

    Raises ModelError when the config names none.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        raise ModelError(
            f"the model's config names no context length (max_position_embeddings is {limit!r})",
            remedy="get config.json again from the model's source, or serve a model with a bounded context",
        )
    if "longrope" in rope_kinds(config):
        original = rope_parameters(config).get("original_max_position_embeddings")
        limit = min(limit, int(original or getattr(config, "original_max_position_embeddings", None) or limit))
    return limit


def rope_digest(config: PreTrainedConfig) -> str:
    """Hash every setting that changes how positions enter the KV (hex sha256)."""
    facts = {
        "rope": rope_parameters(config),
        "partial": getattr(config, "partial_rotary_factor", None),
        "limit": context_limit(config),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def serve_within_original_context(config: PreTrainedConfig) -> None:
    """Turn "dynamic" scaling, which does nothing within the original context, into plain rotation."""
    parameters = rope_parameters(config)
    if parameters.get("rope_type") == "dynamic":
        config.rope_parameters = {"rope_type": "default", "rope_theta": parameters["rope_theta"]}
