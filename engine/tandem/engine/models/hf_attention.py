"""The door between ``transformers`` and paged attention: one function registered in its ``AttentionInterface``.

Which layer and which batch a call belongs to hangs on the attention module itself (``module.tandem_port``), so that
several models, and several threads with a model each, never share state.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from tandem.core.errors import ModelError
from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.batch import ForwardBatch
from tandem.engine.spec import LayerSpec

IMPLEMENTATION = "tandem_paged"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """What a model hands to its attention function in one layer."""

    layer_index: int
    query: torch.Tensor  # [1, num_heads, T, head_dim]
    key: torch.Tensor  # [1, num_kv_heads, T, head_dim]
    value: torch.Tensor
    scale: float | None
    window_tokens: int | None
    softcap: float | None
    module_name: str


class AttentionPort(Protocol):
    """Where calls go: the paged backend while serving, a recorder while the model's shape is found out."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Return [T, num_heads, head_dim]."""
        ...


class PagedPort:
    """Sends every layer's call to the paged backend, with the batch of the running forward pass."""

    def __init__(self, backend: AttentionBackend, layers: tuple[LayerSpec, ...]) -> None:
        self._backend = backend
        self._layers = layers
        self.batch: ForwardBatch | None = None

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """See AttentionPort."""
        if self.batch is None:
            raise RuntimeError("attention was called outside a forward pass")
        num_tokens = self.batch.num_tokens
        query, key, value = (each.squeeze(0).transpose(0, 1) for each in (call.query, call.key, call.value))
        num_padded = query.shape[0] - num_tokens
        query, key, value = query[:num_tokens], key[:num_tokens], value[:num_tokens]
        attended = self._backend.attend(self._layers[call.layer_index], query, key, value, self.batch)
        return F.pad(attended, (0, 0, 0, 0, 0, num_padded)) if num_padded else attended


def connect(model: torch.nn.Module, port: AttentionPort) -> None:
    """Give every attention module of ``model`` its way to ``port``."""
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.tandem_port = port  # type: ignore[assignment]  # a plain attribute, not a submodule


# Arguments that change the result in a way paged attention does not know, unless they are None or empty.
_FOREIGN = ("s_aux", "position_bias", "head_mask", "alibi", "block_table", "indices")


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function for ``transformers``: return ([1, T, num_heads, head_dim], no weights)."""
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if attention_mask is not None:
        foreign.append("attention_mask")
    if kwargs.get("is_causal", getattr(module, "is_causal", True)) is False:
        foreign.append("to look ahead")
    if foreign:
        kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
        raise unsupported(str(kind), f"its attention needs {', '.join(foreign)}")
    port: AttentionPort = module.tandem_port  # type: ignore[assignment]
    call = AttentionCall(
        layer_index=int(module.layer_idx),  # type: ignore[arg-type]
        query=query,
        key=key,
        value=value,
        scale=scaling,
        window_tokens=sliding_window,
        softcap=softcap,
        module_name=type(module).__name__,
    )
    return port.attend(call)[None], None


def unsupported(what: str, reason: str) -> ModelError:
    """Make the error for a model that can't run over paged attention."""
    return ModelError(
        f"{what} is not supported: {reason}",
        remedy="serve a decoder-only model with plain causal or sliding-window attention",
    )


# No mask function is registered beside it: transformers then builds no masks, and the backend needs none.
AttentionInterface.register(IMPLEMENTATION, paged_attention)
