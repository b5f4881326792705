"""Any other decoder-only model: the modelling code of ``transformers``, our paged attention in its attention layers."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from tandem.core.errors import ModelError
from tandem.core.prepared_model import PreparedModel
from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.batch import ForwardBatch
from tandem.engine.models.hf_attention import IMPLEMENTATION, PagedPort, connect, unsupported
from tandem.engine.spec import LayerSpec

_MIN_CPU_ROWS = 16


class TransformersDecoder:
    """Runs a ``transformers`` causal language model over one flattened row of tokens, without its cache and masks."""

    def __init__(
        self,
        prepared: PreparedModel,
        config: PreTrainedConfig,
        layers: tuple[LayerSpec, ...],
        attention: AttentionBackend,
        *,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        """Load the weights. Raises ModelError when they do not fit the config."""
        self._model = _load(prepared, config, dtype)
        self._model.to(device).train(False)
        self._port = PagedPort(attention, layers)
        connect(self._model, self._port)

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Return logits [R, vocab_size]."""
        self._port.batch = batch
        try:
            output = self._model(
                input_ids=_padded(batch.token_ids)[None],
                position_ids=_padded(batch.positions)[None],
                use_cache=False,
                logits_to_keep=_padded(batch.logit_rows),
            )
        finally:
            self._port.batch = None
        logits: torch.Tensor = output.logits[0]
        return logits[: batch.logit_rows.shape[0]]


def _padded(rows: torch.Tensor) -> torch.Tensor:
    """Zeros behind a few rows on a CPU: products of fewer rows have other last bits there than those of many."""
    missing = _MIN_CPU_ROWS - rows.shape[0] if rows.device.type == "cpu" else 0
    return F.pad(rows, (0, missing)) if missing > 0 else rows


def _load(prepared: PreparedModel, config: PreTrainedConfig, dtype: torch.dtype) -> torch.nn.Module:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        prepared.folder,
        config=config,
        attn_implementation=IMPLEMENTATION,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are named in the loading info, and refused below
        output_loading_info=True,
    )
    model: torch.nn.Module = loaded[0]
    info: dict[str, Any] = loaded[1]
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise unsupported(str(config.model_type), "its forward pass can't limit the logits to some rows")
    problems = {label: info.get(label) for label in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    found = [f"{label.replace('_keys', '')} {sorted(map(str, keys))[:5]}" for label, keys in problems.items() if keys]
    if found:
        raise ModelError(
            f"{prepared.folder}: weights do not fit config.json: {'; '.join(found)}",
            remedy="the checkpoint is incomplete or of another model: get it again from its source",
        )
    return model
