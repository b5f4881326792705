"""What a model folder must be before anything of it is loaded: no code, safetensors weights, all shards."""

import json
from pathlib import Path
from typing import Any

from tandem.core.errors import ModelError
from tandem.core.prepared_model import WEIGHTS_NAME

INDEX_NAME = WEIGHTS_NAME + ".index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NOT_MODEL_WEIGHTS = {"training_args.bin", "optimizer.bin", "scheduler.bin"}


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises ModelError when it is missing, broken, wants code run, or is quantised."""
    config = _read_object(folder / "config.json")
    if not config.get("model_type"):
        raise ModelError(
            f"{folder / 'config.json'} names no model_type", remedy="get config.json again from the model's source"
        )
    if "auto_map" in config:
        raise ModelError(
            f"{folder.name} brings its own code (auto_map in config.json), which Tandem never runs",
            remedy="use a model whose architecture is part of transformers",
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder.name} has quantised weights (quantization_config in config.json), which Tandem does not serve",
            remedy="use the unquantised model, or a GGUF file, which Tandem dequantises",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder. Raises ModelError when there are none, or shards are missing."""
    index = folder / INDEX_NAME
    if index.is_file():
        return _shards(folder, index)
    single = folder / WEIGHTS_NAME
    if single.is_file():
        return [single]
    others = sorted(folder.glob("*.safetensors"))
    if others:
        raise ModelError(
            f"{folder} has {others[0].name} but neither {WEIGHTS_NAME} nor {INDEX_NAME}",
            remedy="get the missing file from the model's source; adapters alone are not a model",
        )
    raise _without_safetensors(folder)


def _shards(folder: Path, index: Path) -> list[Path]:
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map", remedy="get it again from the model's source")
    names = sorted({str(name) for name in weight_map.values()})
    foreign = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if foreign:
        raise ModelError(
            f"{index} names {foreign[0]!r}, which is not a safetensors file of this folder",
            remedy="get the model again from a source you trust",
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files of its index: {', '.join(missing[:3])}",
            remedy="download the missing files",
        )
    return [folder / name for name in names]


def _without_safetensors(folder: Path) -> ModelError:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    pickled = [file for file in files if file.suffix in _PICKLED and file.name not in _NOT_MODEL_WEIGHTS]
    if pickled:
        return ModelError(
            f"{folder} has pickled weights only ({pickled[0].name}), which can run code when loaded",
            remedy="convert them to safetensors (transformers: save_pretrained) if you trust them,"
            " or use a safetensors revision of the model",
        )
    ggufs = [file for file in files if file.suffix == ".gguf"]
    if ggufs:
        return ModelError(f"{folder} has no safetensors weights", remedy=f"give the GGUF file itself: {ggufs[0]}")
    return ModelError(
        f"{folder} has no weights: neither {WEIGHTS_NAME} nor {INDEX_NAME}", remedy="download the model's weights too"
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} is not a model folder: it has no {path.name}",
            remedy="give the folder that holds config.json and model.safetensors",
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} can't be read: {error}", remedy="get it again from the model's source") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", remedy="get it again from the model's source")
    return value
