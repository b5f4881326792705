"""The manifest of a prepared model folder: what the router, the workers and the command read without loading torch.

A prepared folder holds ``config.json, model.safetensors, tokenizer.json, tokenizer_config.json``, where the model has
them ``chat_template.jinja`` and ``generation_config.json``, and ``tandem.json``: this manifest, written last, so that a
folder without it is not a prepared model. ``tandem.engine.loading`` makes such folders.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.core.errors import ModelError

MANIFEST_NAME = "tandem.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """One prepared folder and the facts of its manifest."""

    folder: Path
    name: str  # what clients call it
    digest: str  # sha256 (hex) over weights, config and tokenizer; the identity that two workers compare
    source: str  # as the person gave it: a folder, a hub id, a .gguf file, builtin:...
    dtype: str  # of the stored weights: "float32" | "bfloat16" | "float16"
    architecture: str  # the config's model_type
    vocab_size: int
    max_context_tokens: int
    eos_token_ids: tuple[int, ...]
    weights_bytes: int


def write_manifest(model: PreparedModel) -> None:
    """Write ``tandem.json`` into the model's folder."""
    fields = asdict(model) | {"format": FORMAT, "eos_token_ids": list(model.eos_token_ids)}
    del fields["folder"]
    (model.folder / MANIFEST_NAME).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_prepared_model(folder: Path) -> PreparedModel:
    """Read the manifest of a prepared folder.

    Raises ModelError when the folder or the manifest is missing, broken, of another format, or without its weights.
    """
    path = folder / MANIFEST_NAME
    remedy = "prepare the model again: delete the folder and start Tandem with the model's source"
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a prepared model: it has no {MANIFEST_NAME}", remedy=remedy) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} can't be read: {error}", remedy=remedy) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ModelError(f"{path} is not of format {FORMAT}", remedy=remedy)
    try:
        model = _from_fields(folder, fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is broken: {error!r}", remedy=remedy) from error
    try:
        found_bytes = (folder / WEIGHTS_NAME).stat().st_size
    except OSError:
        raise ModelError(f"{folder} has lost its {WEIGHTS_NAME}", remedy=remedy) from None
    if found_bytes != model.weights_bytes:
        raise ModelError(
            f"{folder / WEIGHTS_NAME} has {found_bytes} bytes, its manifest says {model.weights_bytes}", remedy=remedy
        )
    return model


def _from_fields(folder: Path, fields: dict[str, Any]) -> PreparedModel:
    return PreparedModel(
        folder=folder,
        name=str(fields["name"]),
        digest=str(fields["digest"]),
        source=str(fields["source"]),
        dtype=str(fields["dtype"]),
        architecture=str(fields["architecture"]),
        vocab_size=int(fields["vocab_size"]),
        max_context_tokens=int(fields["max_context_tokens"]),
        eos_token_ids=tuple(int(token) for token in fields["eos_token_ids"]),
        weights_bytes=int(fields["weights_bytes"]),
    )
