"""Makes a prepared folder out of a plain model folder or a GGUF file. Loads torch; runs once per model."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tandem.core.errors import ModelError
from tandem.core.prepared_model import WEIGHTS_NAME, PreparedModel, write_manifest
from tandem.engine.loading.checks import read_config, weight_files
from tandem.engine.loading.gguf_source import unpack_gguf
from tandem.engine.loading.model_loader import check_supported, torch_dtype
from tandem.engine.loading.progress import Progress
from tandem.engine.loading.sources import Source, SourceKind
from tandem.engine.loading.weights_writer import merge_weights

_TOKENIZER_SOURCES = ("tokenizer.model", "spiece.model", "vocab.json")


def convert(source: Source, origin: Path, work: Path, *, dtype: str, name: str, progress: Progress) -> PreparedModel:
    """Build a prepared folder ``work/prepared`` from ``origin`` (a folder or a GGUF file); return its manifest.

    ``dtype`` "auto" keeps the origin's own type. Raises ModelError for everything that can't be served.
    """
    if source.kind is SourceKind.GGUF:
        unpacked = work / "unpacked"
        unpack_gguf(origin, unpacked, progress)
        origin = unpacked
    progress.at("checking the model")
    config = read_config(origin)
    files = weight_files(origin)
    stored = _dtype(config) if dtype == "auto" else dtype
    kind = torch_dtype(stored)
    facts = check_supported(origin)
    target = work / "prepared"
    target.mkdir()
    _copy_tokenizer(origin, target)
    _copy_generation_config(origin, target)
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": stored}
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    digest = hashlib.sha256(merge_weights(files, target / WEIGHTS_NAME, kind, progress).encode())
    for part in ("config.json", "tokenizer.json"):
        digest.update(hashlib.sha256((target / part).read_bytes()).digest())
    model = PreparedModel(
        folder=target,
        name=name,
        digest=digest.hexdigest(),
        source=source.given,
        dtype=stored,
        architecture=str(config["model_type"]),
        vocab_size=facts.vocab_size,
        max_context_tokens=facts.max_context_tokens,
        eos_token_ids=_eos_token_ids(target, config),
        weights_bytes=(target / WEIGHTS_NAME).stat().st_size,
    )
    write_manifest(model)
    return model


def _dtype(config: dict[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def _copy_tokenizer(origin: Path, target: Path) -> None:
    """Copy the tokenizer's files; build tokenizer.json where only the older files are there."""
    if (origin / "tokenizer.json").is_file():
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (origin / name).is_file():
                shutil.copyfile(origin / name, target / name)
    elif any((origin / name).is_file() for name in _TOKENIZER_SOURCES):
        try:
            tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
            tokenizer.save_pretrained(target)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"{origin} has no tokenizer.json, and it can't be built: {error}",
                remedy="save the tokenizer in the fast format: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
            ) from error
    if not (target / "tokenizer.json").is_file():
        raise ModelError(f"{origin} has no tokenizer.json", remedy="download the model's tokenizer files too")


def _copy_generation_config(origin: Path, target: Path) -> None:
    if (origin / "generation_config.json").is_file():
        shutil.copyfile(origin / "generation_config.json", target / "generation_config.json")


def _eos_token_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Return what ends an answer: generation_config.json decides, config.json where it is silent."""
    path = folder / "generation_config.json"
    found: Any = None
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise ModelError(f"{path} can't be read: {error}", remedy="get it again from the model's source") from error
    if found is None:
        found = config.get("eos_token_id")
    if found is None:
        return ()
    return tuple(int(token) for token in found) if isinstance(found, list) else (int(found),)
