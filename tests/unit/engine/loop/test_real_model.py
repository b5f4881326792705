"""The engine over real (tiny, random) models: equal to transformers' greedy generate, and to itself in any schedule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tandem.core.messages import PrefillDone
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.profile import profile_latency
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tests.fakes.engine_driver import TOKENIZER, Collected, make_cache, make_task, run_local, run_split
from tests.fakes.paged_models import load_paged, prepare_tiny

SAMPLED = SamplingParams(temperature=0.8, top_k=40, seed=21, repetition_penalty=1.1)
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 64)


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    return prepare_tiny(request.param, tmp_path_factory.mktemp(request.param))


def real_engine(
    prepared: PreparedModel, num_blocks: int = 128, *, cache: CacheSetup | None = None, **settings: object
) -> Engine:
    paged = load_paged(prepared, num_blocks=num_blocks)
    return Engine(
        runner=paged.runner,
        sampler=Sampler(),
        make_text=text_factory(TOKENIZER),
        config=EngineConfig(**settings),  # type: ignore[arg-type]
        cache=cache,
    )


def tasks(sampling: SamplingParams, n: int = 1) -> list[GenerationTask]:
    stop = StopParams(max_tokens=14, ignore_eos=True)
    return [make_task(f"r{size}", num_prompt=size, n=n, sampling=sampling, stop=stop) for size in LENGTHS]


def generate(folder: Path, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            eos_token_id=None,
        )
        outputs.append(whole[0, ids.shape[1] :].tolist())
    return outputs


def test_greedy_equals_transformers(prepared: PreparedModel) -> None:
    wanted = tasks(SamplingParams())
    out = run_local(real_engine(prepared, max_batched_tokens=24, mixed_prefill_tokens=10), wanted)
    expected = generate(prepared.folder, [task.prompt_token_ids for task in wanted], 14)
    assert [out.tokens[task.request_id, 0] for task in wanted] == expected


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_every_schedule_gives_the_same_tokens(prepared: PreparedModel, sampling: SamplingParams) -> None:
    wanted = tasks(sampling, n=2)
    outcomes: dict[str, Collected] = {
        "alone": run_local(real_engine(prepared, max_sequences=2), wanted),
        "continuous": run_local(real_engine(prepared), wanted),
        "dynamic": run_local(real_engine(prepared, batching="dynamic", batch_size=4), wanted),
        "static": run_local(real_engine(prepared, batching="static", batch_size=4, batch_timeout_s=0.0), wanted),
        "small chunks": run_local(real_engine(prepared, max_batched_tokens=7, mixed_prefill_tokens=3), wanted),
        "preempted": run_local(real_engine(prepared, num_blocks=8, growth_margin=0.0), wanted),
        "split": run_split(real_engine(prepared, max_batched_tokens=20), real_engine(prepared), wanted),
    }
    assert sum(result.stats.num_preempted for result in outcomes["preempted"].results) > 0
    for name, out in outcomes.items():
        assert out.tokens == outcomes["alone"].tokens, name
        assert out.text == outcomes["alone"].text, name


@pytest.mark.parametrize(("sampling", "num_blocks"), [(SamplingParams(), 128), (SAMPLED, 14)], ids=["greedy", "tight"])
def test_a_cached_prefix_changes_no_bit(prepared: PreparedModel, sampling: SamplingParams, num_blocks: int) -> None:
    """Three turns of several conversations, with evictions in the small pool: equal tokens and equal probabilities."""
    sampling = replace(sampling, num_logprobs=3)
    off = real_engine(prepared, num_blocks)
    on = real_engine(prepared, num_blocks, cache=make_cache(), max_batched_tokens=40, mixed_prefill_tokens=9)
    histories = [[*range(10, 10 + size), size] for size in (3, 17, 40, 40, 52)]
    num_cached = 0
    for turn in range(3):
        stop = StopParams(max_tokens=9, ignore_eos=True)
        asked = [
            make_task(f"t{turn}c{index}", prompt=history, n=1 + index % 2, sampling=sampling, stop=stop)
            for index, history in enumerate(histories)
        ]
        said = [run_local(engine, asked) for engine in (on, off)]
        assert said[0].tokens == said[1].tokens
        assert _probabilities(said[0]) == _probabilities(said[1])
        num_cached += sum(e.num_cached_tokens for e in said[0].events if isinstance(e, PrefillDone))
        for history, task in zip(histories, asked, strict=True):
            history += [*said[0].tokens[task.request_id, 0], 7 + turn]
    assert num_cached > (40 if num_blocks == 14 else 300)


def _probabilities(out: Collected) -> dict[tuple[str, int, int], object]:
    deltas = (delta for result in out.results for delta in result.tokens)
    return {(delta.request_id, delta.child, delta.position): delta.logprobs for delta in deltas}


def test_profile_of_a_real_runner(prepared: PreparedModel) -> None:
    paged = load_paged(prepared, num_blocks=64)
    profile = profile_latency(paged.runner, EngineConfig(profile_budget_s=0.3))
    assert min(*profile.coefficients.prefill, *profile.coefficients.step) >= 0.0
    assert max(profile.coefficients.prefill) > 0.0
    assert max(profile.coefficients.step) > 0.0
    assert not paged.pool.data.any()
