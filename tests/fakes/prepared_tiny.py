"""A tiny model as a prepared folder, made once per architecture and test session."""

import json
from pathlib import Path

from tandem.core.prepared_model import PreparedModel, read_prepared_model, write_manifest
from tests.fakes.tiny_models import MAX_CONTEXT_TOKENS, make_tiny_model


def prepare_tiny(architecture: str, folder: Path, *, seed: int = 0) -> PreparedModel:
    """Build the model in ``folder`` and give it a manifest, as `tandem.engine.loading` would."""
    make_tiny_model(architecture, folder, seed=seed)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    eos = config["eos_token_id"]
    manifest = PreparedModel(
        folder=folder,
        name=f"tiny-{architecture}",
        digest=f"{architecture}-{seed}".encode().hex().ljust(64, "0")[:64],
        source="test",
        dtype="float32",
        architecture=config["model_type"],
        vocab_size=config["vocab_size"],
        max_context_tokens=MAX_CONTEXT_TOKENS,
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        weights_bytes=(folder / "model.safetensors").stat().st_size,
    )
    write_manifest(manifest)
    return read_prepared_model(folder)
