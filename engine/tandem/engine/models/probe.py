"""Finds out a model's attention layers by running it once without weights (meta device) and watching the calls.

What the modelling code passes to its attention function is the truth about scale, window and soft-cap; names in a
config are only checked against it.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tandem.core.errors import ModelError
from tandem.engine.models.hf_attention import IMPLEMENTATION, AttentionCall, connect, unsupported
from tandem.engine.spec import LayerSpec


class _Recorder:
    """An attention port that answers with zeros and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """See AttentionPort."""
        self.calls.append(call)
        tokens = call.query.shape[2]
        return call.query.new_zeros(tokens, call.query.shape[1], call.value.shape[3])


def probe_layers(config: PreTrainedConfig) -> tuple[LayerSpec, ...]:
    """Return the attention layers of a decoder. Raises ModelError when paged attention can't serve it."""
    refuse_by_config(config)
    kind = str(config.model_type)
    recorder = _Recorder()
    try:
        with torch.device("meta"), torch.inference_mode():
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=IMPLEMENTATION
            )
            connect(model, recorder)
            ids = torch.zeros(1, 2, dtype=torch.int64)
            model(input_ids=ids, position_ids=torch.arange(2)[None], use_cache=False)
    except ModelError:
        raise
    except Exception as error:
        # Whatever modelling code raises here means the same: it does not run over our attention.
        raise unsupported(
            kind, f"its code does not run over paged attention ({type(error).__name__}: {error})"
        ) from error
    return _layers(kind, config, recorder.calls)


def refuse_by_config(config: PreTrainedConfig) -> None:
    """Raise ModelError for what the config says: no decoder, looking ahead, chunked, shared or recurrent layers."""
    kind = str(config.model_type)
    if config.is_encoder_decoder:
        raise unsupported(kind, "it is an encoder-decoder model")
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        raise unsupported(kind, "it attends in both directions")
    if getattr(config, "num_kv_shared_layers", 0):
        raise unsupported(kind, "some of its layers share the KV of others")
    strange = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if strange:
        raise unsupported(kind, f"it has layers of type {', '.join(sorted(strange))}")


def _layers(kind: str, config: PreTrainedConfig, calls: list[AttentionCall]) -> tuple[LayerSpec, ...]:
    if not calls:
        raise unsupported(kind, "its code does not run over paged attention")
    if [call.layer_index for call in calls] != list(range(config.num_hidden_layers)):
        raise unsupported(
            kind, f"{len(calls)} attention calls in {config.num_hidden_layers} layers: it is not all attention"
        )
    shapes = {(call.key.shape[1], call.key.shape[3]) for call in calls}
    if len(shapes) != 1 or any(call.value.shape != call.key.shape for call in calls):
        raise unsupported(kind, "its layers have keys and values of different shapes")
    if any(call.query.shape[3] != call.key.shape[3] or call.query.shape[1] % call.key.shape[1] for call in calls):
        raise unsupported(kind, "its query heads do not group over its key heads")
    return tuple(_layer(kind, config, call) for call in calls)


def _layer(kind: str, config: PreTrainedConfig, call: AttentionCall) -> LayerSpec:
    _check_window(kind, config, call)
    return LayerSpec(
        index=call.layer_index,
        num_heads=call.query.shape[1],
        num_kv_heads=call.key.shape[1],
        head_dim=call.key.shape[3],
        scale=call.scale if call.scale is not None else call.key.shape[3] ** -0.5,
        window_tokens=call.window_tokens,
        softcap=call.softcap,
    )


def _check_window(kind: str, config: PreTrainedConfig, call: AttentionCall) -> None:
    """Refuse a layer whose window is in doubt: some models keep it in masks, which are never built here."""
    types: Any = getattr(config, "layer_types", None)
    if types:
        declared = types[call.layer_index] == "sliding_attention"
    else:
        used = getattr(config, "use_sliding_window", True)
        declared = bool(used and getattr(config, "sliding_window", None))
    if declared != (call.window_tokens is not None):
        raise unsupported(
            kind,
            f"layer {call.layer_index} {'slides' if declared else 'does not slide'} by its config,"
            f" and its attention is called with a window of {call.window_tokens}",
        )
