"""Which path runs which model, what is found out about its layers, and what is refused with a reason."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    PreTrainedConfig,
    T5Config,
)

from tandem.core.errors import FailedPrecondition, ModelError
from tandem.core.prepared_model import PreparedModel
from tandem.engine.attention.torch_backend import TorchAttentionBackend
from tandem.engine.kv.pool import KvPool
from tandem.engine.loading.model_loader import load_model, read_model_spec
from tandem.engine.models.lean_config import why_not_lean
from tandem.engine.models.probe import probe_layers
from tandem.engine.runner import ModelRunner, RunRow
from tandem.engine.spec import ModelSpec
from tests.fakes.paged_models import load_paged, prepare_tiny
from tests.fakes.tiny_models import ARCHITECTURES, SLIDING_WINDOW, tiny_config

LEAN = ("llama", "qwen2", "qwen3", "mistral")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_auto_takes_the_lean_decoder_where_it_can(architecture: str, tmp_path: Path) -> None:
    paged = load_paged(prepare_tiny(architecture, tmp_path))
    assert paged.model.path == ("lean" if architecture in LEAN else "transformers")
    assert paged.model.spec.architecture == architecture


@pytest.mark.parametrize("architecture", LEAN)
def test_both_paths_agree_on_the_shape(architecture: str, tmp_path: Path) -> None:
    prepared = prepare_tiny(architecture, tmp_path)
    assert read_model_spec(prepared, path="lean") == read_model_spec(prepared, path="transformers")


def windows(spec: ModelSpec) -> list[int | None]:
    return [layer.window_tokens for layer in spec.layers]


def test_layers_as_the_model_uses_them(tmp_path: Path) -> None:
    gemma = read_model_spec(prepare_tiny("gemma2", tmp_path / "gemma2"))
    assert windows(gemma) == [SLIDING_WINDOW, None, SLIDING_WINDOW, None]
    assert [layer.softcap for layer in gemma.layers] == [5.0] * 4
    assert gemma.layers[0].scale == 16**-0.5
    assert (gemma.num_kv_heads, gemma.head_dim, gemma.layers[0].num_heads) == (2, 16, 4)
    assert windows(read_model_spec(prepare_tiny("mistral", tmp_path / "mistral"))) == [SLIDING_WINDOW] * 3
    assert windows(read_model_spec(prepare_tiny("llama", tmp_path / "llama"))) == [None] * 3
    assert [layer.index for layer in gemma.layers] == [0, 1, 2, 3]


def test_sliding_layers_of_qwen2(tmp_path: Path) -> None:
    slide: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    prepared = prepare_tiny("qwen2", tmp_path, **slide)
    assert windows(read_model_spec(prepared, path="lean")) == [None, 8, 8]
    assert read_model_spec(prepared, path="lean") == read_model_spec(prepared, path="transformers")


@pytest.mark.parametrize(("architecture", "field"), [("mistral", "window_tokens"), ("gemma2", "softcap")])
def test_window_and_softcap_change_the_logits(architecture: str, field: str, tmp_path: Path) -> None:
    """Guards the equality tests: without the window or the cap the models would answer something else."""

    class Ignoring(TorchAttentionBackend):
        def attend(self, layer: Any, *tensors: Any) -> torch.Tensor:
            return super().attend(dataclasses.replace(layer, **{field: None}), *tensors)

    prepared = prepare_tiny(architecture, tmp_path)
    tokens = list(range(10, 70))
    with_it = load_paged(prepared).prefill(tokens, [0, 1, 2, 3], (60,))
    without = load_paged(prepared, backend=Ignoring).prefill(tokens, [0, 1, 2, 3], (60,))
    assert (with_it - without).abs().max() > 0.1


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
        "rope_theta": 10000.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 256,
        "rope_theta": 10000.0,
    },
}


@pytest.mark.parametrize("path", ["lean", "transformers"])
@pytest.mark.parametrize("kind", ROPES)
def test_rope_scalings_equal_transformers(kind: str, path: Any, tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path, rope_parameters=ROPES[kind])
    tokens = list(range(10, 250))
    found = load_paged(prepared, path=path).prefill(tokens, list(range(15)), (100, 140))
    assert torch.allclose(found, reference_logits(prepared, tokens), atol=5e-4)
    plain = prepare_tiny("llama", tmp_path / "plain")
    differs = not torch.allclose(found, load_paged(plain).prefill(tokens, list(range(15)), (240,)), atol=0.1)
    assert differs == (kind != "dynamic"), "dynamic scaling does nothing within the original context"
    changed = read_model_spec(prepared).rope_digest != read_model_spec(plain).rope_digest
    assert changed == (kind != "dynamic")


def reference_logits(prepared: PreparedModel, tokens: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    with torch.inference_mode():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(prepared.folder)(torch.tensor([tokens])).logits[0]
    return logits


def test_longrope_is_served_within_the_original_context(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0 + index / 8 for index in range(8)],
        "long_factor": [4.0] * 8,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 256,
        "factor": 4.0,
    }
    prepared = prepare_tiny("phi3", tmp_path, rope_parameters=rope, original_max_position_embeddings=256)
    assert prepared.max_context_tokens == 256
    tokens = list(range(10, 110))
    found = load_paged(prepared).prefill(tokens, list(range(7)), (60, 40))
    assert torch.allclose(found, reference_logits(prepared, tokens), atol=5e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "gemma2"}, "not of the Llama family"),
    ],
)
def test_why_not_lean(changes: dict[str, Any], reason: str) -> None:
    config = tiny_config("llama")
    for name, value in changes.items():
        setattr(config, name, value)
    assert reason in (why_not_lean(config) or "")


def test_lean_asked_for_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the lean decoder can't run this model: model_type 'olmo2'"):
        read_model_spec(prepare_tiny("olmo2", tmp_path), path="lean")


def test_another_activation_takes_the_transformers_path(tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path, hidden_act="gelu")
    paged = load_paged(prepared)
    assert paged.model.path == "transformers"
    tokens = list(range(10, 40))
    assert torch.allclose(paged.prefill(tokens, [0, 1], (30,)), reference_logits(prepared, tokens), atol=5e-4)


@pytest.mark.parametrize(
    "extra", [{"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True}, {"head_dim": 24}], ids=str
)
def test_variants_of_llama(extra: dict[str, Any], tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path, **extra)
    tokens = list(range(10, 60))
    found = load_paged(prepared, path="lean").prefill(tokens, [0, 1, 2, 3], (31, 19))
    assert torch.allclose(found, reference_logits(prepared, tokens), atol=5e-4)


SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "encoder-decoder": (T5Config(), "encoder-decoder"),
    "looks ahead": (BertConfig(**SMALL, intermediate_size=64), "look ahead"),
    "no attention interface": (BloomConfig(**SMALL), "does not run over paged attention"),
    "recurrent": (MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=64), "layers of type linear_attention"),
    "chunked layers": (Llama4TextConfig(**SMALL, layer_types=["chunked_attention"] * 2), "chunked_attention"),
    "attention sinks": (
        GptOssConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=16, num_local_experts=2),
        "s_aux",
    ),
    "latent attention": (
        DeepseekV3Config(**SMALL, intermediate_size=64, num_key_value_heads=4, first_k_dense_replace=2),
        "keys and values of different shapes",
    ),
    "a window where none is declared": (
        Phi3Config(
            **(SMALL | {"pad_token_id": 0, "sliding_window": 8, "layer_types": ["full_attention"] * 2}),
        ),
        "layer 0 does not slide by its config, and its attention is called with a window of 8",
    ),
    "a window that masks alone know": (
        LlamaConfig(**(SMALL | {"sliding_window": 8})),
        "layer 0 slides by its config, and its attention is called with a window of None",
    ),
    "one direction missing": (LlamaConfig(**(SMALL | {"is_causal": False})), "both directions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case: str) -> None:
    config, reason = REFUSED[case]
    with pytest.raises(ModelError, match=r"is not supported[\s\S]*→ serve a decoder-only model") as caught:
        probe_layers(config)
    assert reason in caught.value.problem


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Add, replace or (None) remove tensors of a prepared folder."""
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("path", ["lean", "transformers"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "missing.*model.layers.1.mlp.up_proj"),
        ({"model.layers.9.strange": torch.zeros(2)}, "unexpected.*model.layers.9.strange"),
        ({"model.norm.weight": torch.zeros(65)}, "model.norm.weight|size mismatch"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_weights_that_do_not_fit(path: Any, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path)
    edit_weights(tmp_path, **changes)
    with pytest.raises(ModelError, match=problem):
        load_paged(prepared, path=path)


def test_pool_of_another_model(tmp_path: Path) -> None:
    paged = load_paged(prepare_tiny("llama", tmp_path / "llama"))
    other = read_model_spec(prepare_tiny("qwen3", tmp_path / "qwen3"))
    pool = KvPool(other, num_blocks=4, block_size=16, device="cpu", dtype=torch.float32)
    with pytest.raises(FailedPrecondition, match="the model needs"):
        ModelRunner(paged.model, pool)


def test_unknown_dtype(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int8'"):
        read_model_spec(prepare_tiny("llama", tmp_path), dtype="int8")


def test_broken_config(tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(ModelError, match="can't be read"):
        read_model_spec(prepared)


def test_two_models_do_not_share_state(tmp_path: Path) -> None:
    """Also on the transformers path, whose attention function is registered once per process."""
    first = load_paged(prepare_tiny("gpt_neox", tmp_path / "a", seed=1))
    second = load_paged(prepare_tiny("gpt_neox", tmp_path / "b", seed=2))
    tokens = list(range(10, 40))
    alone = first.greedy(tokens, [3, 1, 2], num_tokens=6)
    second.greedy(tokens, [0, 1, 2], num_tokens=6)
    assert first.greedy(tokens, [3, 1, 2], num_tokens=6) == alone
    assert second.pool.data[3].abs().sum() == 0


def test_no_logits_wanted(tmp_path: Path) -> None:
    """A chunk in the middle of a prompt asks for none."""
    for architecture in ("llama", "gpt_neox"):
        paged = load_paged(prepare_tiny(architecture, tmp_path / architecture))
        row = RunRow(token_ids=[5, 6, 7], start_position=0, block_ids=[2], num_logits=0)
        assert paged.forward([row]).shape == (0, 320)
        assert paged.pool.data[2].abs().sum() > 0


def test_spec_and_model_take_the_dtype(tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path)
    spec = read_model_spec(prepared, dtype="bfloat16")
    pool = KvPool(spec, num_blocks=4, block_size=16, device="cpu", dtype=torch.bfloat16)
    model = load_model(prepared, device="cpu", attention=TorchAttentionBackend(pool), dtype="bfloat16")
    assert model.spec == spec


def test_no_context_length(tmp_path: Path) -> None:
    prepared = prepare_tiny("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"max_position_embeddings": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="names no context length"):
        read_model_spec(prepared)
