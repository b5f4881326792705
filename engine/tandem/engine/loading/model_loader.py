"""From a prepared folder to a model that runs.

Order of a worker's start: ``read_model_spec`` (no weights) sizes the KV pool, the pool makes the attention backend, and
``load_model`` binds the weights to that backend.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from tandem.core.errors import ModelError
from tandem.core.prepared_model import WEIGHTS_NAME, PreparedModel
from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.models.lean import LeanDecoder
from tandem.engine.models.lean_config import lean_config, why_not_lean
from tandem.engine.models.model import LoadedModel, PathChoice
from tandem.engine.models.rope import context_limit, rope_digest, serve_within_original_context
from tandem.engine.models.tensors import TensorFile
from tandem.engine.spec import LayerSpec, ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_model_spec(prepared: PreparedModel, *, dtype: str | None = None, path: PathChoice = "auto") -> ModelSpec:
    """Return the model's shape without reading weights; ``dtype`` defaults to the stored one.

    Raises ModelError for a model or a path that is not supported.
    """
    config = _read_config(prepared.folder)
    return _spec(prepared, config, _layers(config, _choose(config, path)), dtype or prepared.dtype)


def load_model(
    prepared: PreparedModel,
    *,
    device: str,
    attention: AttentionBackend,
    dtype: str | None = None,
    path: PathChoice = "auto",
) -> LoadedModel:
    """Load the weights onto ``device`` as ``dtype`` (default: the stored one) and bind them to ``attention``.

    ``auto`` takes the lean decoder where it can. Raises ModelError for a model that is not supported, or whose weights
    are missing, unexpected or misshapen.
    """
    config = _read_config(prepared.folder)
    chosen = _choose(config, path)
    layers = _layers(config, chosen)
    spec = _spec(prepared, config, layers, dtype or prepared.dtype)
    kind = torch_dtype(spec.dtype)
    if chosen == "lean":
        tensors = TensorFile(prepared.folder / WEIGHTS_NAME, device=device, dtype=kind)
        return LoadedModel(
            spec=spec, module=LeanDecoder(config, tensors, attention, device=device, dtype=kind), path="lean"
        )
    # Half of a worker's start would be this import, and the lean decoder does not need it.
    from tandem.engine.models.hf import TransformersDecoder  # noqa: PLC0415

    module = TransformersDecoder(prepared, config, layers, attention, device=device, dtype=kind)
    return LoadedModel(spec=spec, module=module, path="transformers")


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch type of this name. Raises ModelError for one that Tandem does not serve."""
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is not one of {', '.join(DTYPES)}", remedy="set dtype to one of them")
    return DTYPES[name]


def _read_config(folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} can't be read: {error}",
            remedy="use a model whose architecture the installed transformers knows",
        ) from error
    serve_within_original_context(config)
    return config


def _choose(config: PreTrainedConfig, path: PathChoice) -> PathChoice:
    reason = why_not_lean(config)
    if path == "lean" and reason is not None:
        raise ModelError(f"the lean decoder can't run this model: {reason}", remedy="set the model path to auto")
    if path == "auto":
        return "lean" if reason is None else "transformers"
    return path


def _layers(config: PreTrainedConfig, path: PathChoice) -> tuple[LayerSpec, ...]:
    if path == "lean":
        return lean_config(config).layers
    from tandem.engine.models.probe import probe_layers  # noqa: PLC0415  # as above

    return probe_layers(config)


def _spec(prepared: PreparedModel, config: PreTrainedConfig, layers: tuple[LayerSpec, ...], dtype: str) -> ModelSpec:
    torch_dtype(dtype)
    return ModelSpec(
        architecture=str(config.model_type),
        digest=prepared.digest,
        dtype=dtype,
        vocab_size=int(config.vocab_size),
        max_context_tokens=context_limit(config),
        layers=layers,
        num_kv_heads=layers[0].num_kv_heads,
        head_dim=layers[0].head_dim,
        rope_digest=rope_digest(config),
        eos_token_ids=prepared.eos_token_ids,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a manifest says about a model's shape."""

    vocab_size: int
    max_context_tokens: int


def check_supported(folder: Path) -> ModelFacts:
    """Find out, from the config alone, whether Tandem can serve a model folder. Raises ModelError when it can't."""
    from tandem.engine.models.probe import refuse_by_config  # noqa: PLC0415  # as above

    config = _read_config(folder)
    refuse_by_config(config)
    _layers(config, _choose(config, "auto"))
    return ModelFacts(vocab_size=int(config.vocab_size), max_context_tokens=context_limit(config))
