"""Writes tiny GGUF files: a whole llama model with its tokenizer, or a header alone."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from tests.fakes.tiny_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, TURN_END_ID

_TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_header_only(path: Path, architecture: str) -> Path:
    """Write a GGUF file that names an architecture and holds nothing else."""
    writer = gguf.GGUFWriter(path, architecture)
    _close(writer)
    return path


def write_llama_gguf(model: Path, path: Path) -> Path:
    """Write the tiny llama model of folder ``model`` as an unquantised GGUF file."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny Llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, json.loads((model / "tokenizer.json").read_text()))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(model / "model.safetensors").items():
        permuted = next((_permute(tensor, count) for part, count in heads.items() if part in name), tensor)
        writer.add_tensor(_gguf_name(name), permuted.numpy().astype(np.float32))
    _close(writer)
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, dict[str, object]]) -> None:
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]  # type: ignore[assignment]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    )
    merges: list[list[str]] = tokenizer["model"]["merges"]  # type: ignore[assignment]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(TURN_END_ID)
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_TENSORS[rest]}.weight"


def _permute(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Interleave the two halves of each head, as llama.cpp's converter does for the rotation it uses."""
    halves = weight.view(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
