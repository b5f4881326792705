"""From a prepared folder to an engine: device, type, pool size, the layout's fingerprint, and models that can't run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.core.clock import MonotonicClock
from tandem.core.errors import EnvironmentProblem, ModelError
from tandem.core.prepared_model import WEIGHTS_NAME, PreparedModel
from tandem.engine.config import EngineConfig
from tandem.worker_host.assembly import build_engine, resolve_device
from tandem.worker_host.built import BuiltEngine
from tests.fakes.prepared_tiny import prepare_tiny

SMALL = EngineConfig(num_blocks=8)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    return prepare_tiny("llama", tmp_path_factory.mktemp("llama"))


def _build(prepared: PreparedModel, config: EngineConfig = SMALL) -> BuiltEngine:
    return build_engine(prepared, config, clock=MonotonicClock())


def _copy(prepared: PreparedModel, folder: Path) -> PreparedModel:
    shutil.copytree(prepared.folder, folder)
    return replace(prepared, folder=folder)


@pytest.mark.parametrize(
    ("name", "has_gpu", "expected"),
    [
        ("auto", True, "cuda:0"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
        ("cuda:3", True, "cuda:3"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, name: str, has_gpu: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device(name) == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_a_named_problem(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match=rf"engine\.device is '{name}'") as caught:
        resolve_device(name)
    assert "cpu" in caught.value.remedy


def test_a_gpu_beyond_those_there_are_is_a_named_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(EnvironmentProblem, match=r"'cuda:4', and torch sees 4"):
        resolve_device("cuda:4")


def test_the_engine_is_idle_whole_and_warm_when_it_is_handed_out(llama: PreparedModel) -> None:
    built = _build(llama)
    load = built.engine.load()
    assert (load.free_blocks, load.total_blocks) == (8, 8)
    assert (load.num_running, load.num_waiting, load.receiving_blocks) == (0, 0, 0)
    assert not built.engine.has_work()
    built.engine.check_integrity()
    assert bool((built.engine.pool.data != 0).any())  # it has computed something: nothing is left for the first request


@pytest.mark.parametrize(
    ("stored", "configured", "expected"),
    [
        ("float32", "auto", torch.float32),
        ("bfloat16", "auto", torch.float32),  # on a CPU the default keeps tokens equal to a single process
        ("float32", "bfloat16", torch.bfloat16),
    ],
)
def test_the_type_of_weights_and_kv(llama: PreparedModel, stored: str, configured: str, expected: torch.dtype) -> None:
    built = _build(replace(llama, dtype=stored), SMALL.model_copy(update={"dtype": configured}))
    assert built.engine.pool.data.dtype == expected
    assert built.layout.dtype == str(expected).removeprefix("torch.")


@pytest.mark.parametrize(("num_whole", "rest_bytes"), [(1, 0), (2, -1), (2, 0), (5, 1), (7, 12_000)])
def test_a_pool_of_bytes_holds_the_whole_blocks_that_fit(llama: PreparedModel, num_whole: int, rest_bytes: int) -> None:
    block_bytes = _build(llama).engine.pool.block_bytes
    total_bytes = num_whole * block_bytes + rest_bytes
    built = _build(llama, EngineConfig(kv_memory_bytes=total_bytes))
    assert built.engine.num_blocks == total_bytes // block_bytes
    assert built.layout.block_bytes == built.engine.pool.block_bytes == block_bytes
    assert built.engine.pool.data.nbytes <= total_bytes


def test_half_the_type_is_twice_the_blocks(llama: PreparedModel) -> None:
    sizes = {
        dtype: _build(llama, EngineConfig(kv_memory_bytes=1 << 20, dtype=dtype)).engine.num_blocks
        for dtype in ("float32", "bfloat16")
    }
    assert sizes["bfloat16"] in (2 * sizes["float32"], 2 * sizes["float32"] + 1)


def test_memory_for_no_block_is_a_named_problem(llama: PreparedModel) -> None:
    block_bytes = _build(llama).engine.pool.block_bytes
    with pytest.raises(EnvironmentProblem, match=f"{block_bytes - 1} bytes .* no block of {block_bytes}") as caught:
        _build(llama, EngineConfig(kv_memory_bytes=block_bytes - 1))
    assert "kv_memory_bytes" in caught.value.remedy


def test_without_a_size_a_cpu_gets_half_a_gibibyte(llama: PreparedModel) -> None:
    pool = _build(llama, EngineConfig()).engine.pool
    assert pool.num_blocks == (512 << 20) // pool.block_bytes


def test_equal_workers_have_one_layout_whatever_their_size(llama: PreparedModel, tmp_path: Path) -> None:
    moved = _copy(llama, tmp_path / "elsewhere")
    others = [
        _build(llama),
        _build(llama, EngineConfig(num_blocks=40, max_batched_tokens=16, max_sequences=3)),
        _build(moved),
        _build(replace(llama, name="another name", source="somewhere")),
    ]
    assert len({built.layout.fingerprint for built in others}) == 1


def test_every_fact_about_the_kv_changes_the_fingerprint(llama: PreparedModel, tmp_path: Path) -> None:
    other_text = _copy(llama, tmp_path / "text")
    path = other_text.folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    first, second, *rest = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [second, first, *rest]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    other_rope = _copy(llama, tmp_path / "rope")
    path = other_rope.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_parameters"] = (config.get("rope_parameters") or {"rope_type": "default"}) | {"rope_theta": 123.0}
    path.write_text(json.dumps(config), encoding="utf-8")
    built = {
        "as it is": _build(llama),
        "block size": _build(llama, EngineConfig(num_blocks=8, block_size=8)),
        "type": _build(llama, EngineConfig(num_blocks=8, dtype="bfloat16")),
        "weights": _build(replace(llama, digest="e" * 64)),
        "tokenizer": _build(other_text),
        "positions": _build(other_rope),
        "shape": _build(prepare_tiny("qwen3", tmp_path / "qwen3")),
    }
    fingerprints = {name: one.layout.fingerprint for name, one in built.items()}
    assert len(set(fingerprints.values())) == len(fingerprints), fingerprints


def test_a_model_that_computes_nonsense_is_refused_before_it_serves(llama: PreparedModel, tmp_path: Path) -> None:
    broken = _copy(llama, tmp_path / "broken")
    path = broken.folder / WEIGHTS_NAME
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path)
    with pytest.raises(ModelError, match="failed its first request: NUMERICS") as caught:
        _build(broken)
    assert caught.value.remedy


def test_a_missing_tensor_is_named(llama: PreparedModel, tmp_path: Path) -> None:
    broken = _copy(llama, tmp_path / "missing")
    path = broken.folder / WEIGHTS_NAME
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"norm\.weight"):
        _build(broken)
