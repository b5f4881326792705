"""Preparing models: what comes out, that it is done once, and that a crash or a race leaves no half-made folder."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.core.errors import ModelError
from tandem.core.prepared_model import PreparedModel, read_prepared_model
from tandem.engine.loading import convert as convert_module
from tandem.engine.loading.prepare import prepare_model
from tandem.engine.loading.progress import SilentProgress
from tests.fakes.tiny_gguf import write_llama_gguf
from tests.fakes.tiny_models import make_tiny_model


class Recorder:
    """A progress sink that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, float, float]] = []

    def report(self, phase: str, fraction: float, elapsed_s: float) -> None:
        self.heard.append((phase, fraction, elapsed_s))


def prepare(source: Path | str, cache: Path, dtype: str = "float32", name: str | None = None) -> PreparedModel:
    return prepare_model(str(source), cache_folder=cache, dtype=dtype, progress=SilentProgress(), name=name)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("tiny-llama") / "Tiny Llama")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def folders(cache: Path) -> list[str]:
    """Prepared folders, and leftovers, in a cache."""
    models = cache / "models"
    left = [path.name for path in (models / ".work").iterdir()] if (models / ".work").is_dir() else []
    return sorted(path.name for path in models.iterdir() if not path.name.startswith(".")) + left


def test_a_folder_is_prepared(llama: Path, cache: Path) -> None:
    model = prepare(llama, cache)
    assert model == read_prepared_model(model.folder)
    assert model.folder.parent == cache / "models"
    assert model.folder.name == f"tiny-llama-{model.digest[:16]}"
    assert (model.name, model.dtype, model.architecture) == ("tiny-llama", "float32", "llama")
    assert (model.vocab_size, model.max_context_tokens, model.eos_token_ids) == (320, 1024, (2,))
    names = {path.name for path in model.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tandem.json"} <= names
    expected, found = load_file(llama / "model.safetensors"), load_file(model.folder / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_shards_become_one_file(llama: Path, cache: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(llama, sharded)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    weight_map = {name: f"model-{index % 2 + 1}.safetensors" for index, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = load_file(prepare(sharded, cache).folder / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_weights_are_stored_in_the_wanted_type(llama: Path, cache: Path, dtype: str, kind: torch.dtype) -> None:
    model = prepare(llama, cache, dtype)
    found, expected = load_file(model.folder / "model.safetensors"), load_file(llama / "model.safetensors")
    assert all(torch.equal(found[name], tensor.to(kind)) for name, tensor in expected.items())
    assert json.loads((model.folder / "config.json").read_text())["dtype"] == dtype
    assert model.digest != prepare(llama, cache).digest


def test_auto_keeps_the_own_type(llama: Path, cache: Path) -> None:
    assert prepare(llama, cache, "auto").dtype == "float32"


def test_unknown_type(llama: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int8' is not one of"):
        prepare(llama, cache, "int8")
    assert folders(cache) == []


def test_the_second_time_nothing_is_converted(llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(llama, cache)
    monkeypatch.setattr(convert_module, "convert", lambda *_, **__: pytest.fail("converted again"))
    assert prepare(llama, cache) == first


def test_a_changed_source_is_prepared_again(llama: Path, cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(llama, source)
    first = prepare(source, cache)
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, source / "model.safetensors")
    second = prepare(source, cache)
    assert second.digest != first.digest
    assert read_prepared_model(first.folder) == first


def test_equal_content_has_an_equal_digest(llama: Path, cache: Path, tmp_path: Path) -> None:
    """Also from another folder and into another cache: two machines must agree."""
    copy = tmp_path / "tiny-llama"
    shutil.copytree(llama, copy)
    assert prepare(copy, tmp_path / "other").digest == prepare(llama, cache).digest
    assert prepare(copy, cache).folder == prepare(llama, cache).folder


def test_a_name_of_ones_own(llama: Path, cache: Path) -> None:
    model = prepare(llama, cache, name="My Model!")
    assert model.name == "my-model"
    assert model.folder.name.startswith("my-model-")
    assert prepare(llama, cache).name == "tiny-llama"


def test_a_prepared_folder_is_a_source(llama: Path, cache: Path) -> None:
    model = prepare(llama, cache)
    assert prepare(model.folder, cache) == model
    assert prepare(model.folder, cache, "auto") == model
    with pytest.raises(ModelError, match="prepared as float32, bfloat16 is wanted"):
        prepare(model.folder, cache, "bfloat16")


@pytest.mark.parametrize("damage", ["manifest", "weights", "folder"])
def test_a_damaged_folder_is_made_again(llama: Path, cache: Path, damage: str) -> None:
    model = prepare(llama, cache)
    if damage == "manifest":
        (model.folder / "tandem.json").write_text("{")
    elif damage == "weights":
        (model.folder / "model.safetensors").write_bytes(b"short")
    else:
        shutil.rmtree(model.folder)
    assert prepare(llama, cache) == model


def test_progress_tells_phases_and_time(llama: Path, cache: Path) -> None:
    recorder = Recorder()
    prepare_model(str(llama), cache_folder=cache, dtype="float32", progress=recorder)
    phases = [phase for phase, _, _ in recorder.heard]
    assert phases[0] == "checking the model"
    assert phases[-1] == "the model is prepared"
    writing = [fraction for phase, fraction, _ in recorder.heard if phase == "writing the weights"]
    assert writing == sorted(writing)
    assert writing[-1] == 1.0
    times = [elapsed_s for _, _, elapsed_s in recorder.heard]
    assert times == sorted(times)


def test_a_failure_leaves_nothing(llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "merge_weights", full_disk)
        with pytest.raises(ModelError, match=r"No space left[\s\S]*free some disk space"):
            prepare(llama, cache)
    assert folders(cache) == []
    assert prepare(llama, cache).name == "tiny-llama"


DIE_HALF_WAY = """
import os, sys
from pathlib import Path
from tandem.engine.loading import convert
from tandem.engine.loading.prepare import prepare_model
from tandem.engine.loading.progress import SilentProgress

convert.merge_weights = lambda *_, **__: os._exit(9)
prepare_model(sys.argv[1], cache_folder=Path(sys.argv[2]), dtype="float32", progress=SilentProgress())
"""


def test_a_crash_is_cleaned_up_by_the_next(llama: Path, cache: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DIE_HALF_WAY, str(llama), str(cache)], check=False, timeout=120)
    assert died.returncode == 9
    assert len(folders(cache)) == 1, "the dead process leaves its work folder, and no prepared one"
    model = prepare(llama, cache)
    assert folders(cache) == [model.folder.name]


def test_two_at_once_convert_once(llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flock belongs to the open file, so threads contend as processes do."""
    inside, release = threading.Event(), threading.Event()
    original = convert_module.convert
    calls = []

    def slow(*args: object, **kwargs: object) -> PreparedModel:
        calls.append(1)
        inside.set()
        assert release.wait(30)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_module, "convert", slow)
    results: list[PreparedModel] = []
    recorder = Recorder()

    def run(sink: Recorder) -> None:
        results.append(prepare_model(str(llama), cache_folder=cache, dtype="float32", progress=sink))

    first = threading.Thread(target=run, args=(Recorder(),), daemon=True)
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=run, args=(recorder,), daemon=True)
    second.start()
    for _ in range(3000):
        second.join(0.01)
        if recorder.heard:
            break
    assert recorder.heard[0][0] == "waiting for another process that prepares this model"
    release.set()
    first.join(60)
    second.join(60)
    assert len(calls) == 1
    assert results[0] == results[1]


def test_a_cache_that_cannot_be_written(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"can't be written[\s\S]*XDG_CACHE_HOME"):
        prepare(llama, tmp_path / "file")


def test_gguf_is_dequantised_with_its_tokenizer(llama: Path, cache: Path, tmp_path: Path) -> None:
    model = prepare(write_llama_gguf(llama, tmp_path / "Tiny.gguf"), cache)
    assert (model.name, model.dtype, model.eos_token_ids) == ("tiny", "float32", (2,))
    expected, found = load_file(llama / "model.safetensors"), load_file(model.folder / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    assert "<|im_start|>" in (model.folder / "chat_template.jinja").read_text()
    own = json.loads((llama / "tokenizer.json").read_text())["model"]["vocab"]
    assert json.loads((model.folder / "tokenizer.json").read_text())["model"]["vocab"] == own
    assert prepare(tmp_path / "Tiny.gguf", cache) == model
