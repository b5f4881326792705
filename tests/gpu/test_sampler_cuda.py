"""The sampler on a CUDA device draws what it draws on the CPU."""

import pytest
import torch

from tandem.core.types import SamplingParams
from tandem.engine.sampling.sampler import Sampler, SampleRow

SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.0, top_k=50),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=1.2, top_k=100, top_p=0.95, min_p=0.02),
    SamplingParams(temperature=0.9, repetition_penalty=1.2, frequency_penalty=0.2, logit_bias={3: 5.0}),
]


def rows(seed: int) -> list[SampleRow]:
    return [
        SampleRow(
            params=SETTINGS[index % len(SETTINGS)],
            child=index,
            position=seed,
            prompt_token_ids=tuple(range(100)),
            output_token_ids=(1, 1, 7, index),
        )
        for index in range(24)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_same_tokens_as_on_the_cpu(seed: int) -> None:
    logits = torch.randn((24, 49_152), generator=torch.Generator().manual_seed(seed)) * 4
    logits[:, 500:600] = 3.0  # equal logits
    on_cpu = Sampler().sample(logits.clone(), rows(seed))
    on_gpu = Sampler().sample(logits.cuda(), rows(seed))
    assert on_gpu == on_cpu


def test_a_bad_row_fails_alone() -> None:
    logits = torch.randn((24, 1000), device="cuda")
    logits[5, 17] = float("nan")
    results = Sampler().sample(logits, rows(0))
    assert [index for index, result in enumerate(results) if result.token_id is None] == [5]


def test_logprobs_agree_with_the_cpu() -> None:
    one = SampleRow(
        params=SamplingParams(num_logprobs=5), child=0, position=0, prompt_token_ids=(), output_token_ids=()
    )
    logits = torch.randn((1, 49_152), generator=torch.Generator().manual_seed(0))
    [on_cpu] = Sampler().sample(logits.clone(), [one])
    [on_gpu] = Sampler().sample(logits.cuda(), [one])
    assert on_cpu.logprobs is not None
    assert on_gpu.logprobs is not None
    for ours, theirs in zip(on_gpu.logprobs.top, on_cpu.logprobs.top, strict=True):
        assert ours.token_id == theirs.token_id
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
