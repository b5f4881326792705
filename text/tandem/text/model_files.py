"""Reads the text side of a prepared model folder into one value. The only file access of this component.

Every missing or broken file ends in a ModelError that names the file and says what to do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.core.errors import ModelError

# Above this a "maximum length" is the marker that a tokenizer writes when it knows none (transformers writes 1e30).
_NO_MAXIMUM = 10**9
_MAX_FILE_BYTES = 256 * 1024 * 1024
_PREPARE = "prepare the model again: give its Hugging Face folder, hub id or GGUF file as the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTextFiles:
    """What the files of a model folder say about text. A missing optional file is an empty mapping."""

    folder: Path
    tokenizer_json: str
    tokenizer_digest: str  # SHA-256 of tokenizer.json, hexadecimal
    tokenizer_config: Mapping[str, object]
    generation_config: Mapping[str, object]
    config: Mapping[str, object]
    chat_template: str | None


def read_model_text_files(folder: Path) -> ModelTextFiles:
    """Read the files of ``folder``. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder", remedy=_PREPARE)
    data = _read_bytes(folder / "tokenizer.json")
    if data is None:
        raise ModelError(
            f"{folder / 'tokenizer.json'}: missing",
            remedy="Tandem needs the fast-tokenizer file; save it with transformers' "
            "AutoTokenizer.from_pretrained(model).save_pretrained(folder)",
        )
    tokenizer_config = _read_json_object(folder / "tokenizer_config.json")
    return ModelTextFiles(
        folder=folder,
        tokenizer_json=_text(data, folder / "tokenizer.json"),
        tokenizer_digest=hashlib.sha256(data).hexdigest(),
        tokenizer_config=tokenizer_config,
        generation_config=_read_json_object(folder / "generation_config.json"),
        config=_read_json_object(folder / "config.json"),
        chat_template=_chat_template(folder, tokenizer_config),
    )


def integer_of(mapping: Mapping[str, object], *names: str) -> int | None:
    """The first of ``names`` that holds a positive, finite integer; also looks into a nested ``text_config``."""
    nested = mapping.get("text_config")
    for source in (mapping, nested if isinstance(nested, dict) else {}):
        for name in names:
            value = source.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_MAXIMUM:
                return value
    return None


def token_ids_of(mapping: Mapping[str, object], name: str, path: Path) -> tuple[int, ...]:
    """A field that may be absent, null, one id or a list of ids. Raises ModelError for anything else."""
    value = mapping.get(name)
    if value is None:
        nested = mapping.get("text_config")
        value = nested.get(name) if isinstance(nested, dict) else None
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if any(not isinstance(item, int) or isinstance(item, bool) or item < 0 for item in values):
        raise ModelError(f"{path}: {name} is {value!r}", remedy="it must be a token id or a list of token ids")
    return tuple(values)


def token_text_of(value: object) -> str | None:
    """The text of a special token as tokenizer_config.json writes it: a string, or an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _chat_template(folder: Path, tokenizer_config: Mapping[str, object]) -> str | None:
    path = folder / "chat_template.jinja"
    data = _read_bytes(path)
    if data is not None:
        return _text(data, path)
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list):  # several named templates; the one called "default" is for plain conversations
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: chat_template is a {type(value).__name__}",
            remedy="it must be the template's text; or put the template into chat_template.jinja",
        )
    return value


def _read_json_object(path: Path) -> Mapping[str, object]:
    data = _read_bytes(path)
    if data is None:
        return {}
    try:
        value = json.loads(_text(data, path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}", remedy=_PREPARE) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a {type(value).__name__} where an object belongs", remedy=_PREPARE)
    return value


def _read_bytes(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(f"{path}: larger than {_MAX_FILE_BYTES >> 20} MiB", remedy=_PREPARE)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}", remedy="make the file readable for this user") from None


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 at byte {error.start}", remedy=_PREPARE) from None
