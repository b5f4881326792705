"""Every limit refuses at its border, names the field, and lets the last good value through."""

import math
from dataclasses import replace

import pytest

from tandem.core.errors import InvalidArgument
from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.limits import ModelLimits, RequestLimits, check_sampling, check_stop, check_task
from tandem.core.types import GenerationTask, SamplingParams, StopParams

MODEL = ModelLimits(vocab_size=100, max_context_tokens=64)
LIMITS = RequestLimits()
TASK = GenerationTask(
    request_id=RequestId("r"),
    attempt=0,
    tenant=LOCAL_TENANT,
    prompt_token_ids=(1, 2, 3),
    num_sequences=1,
    sampling=SamplingParams(),
    stop=StopParams(max_tokens=8),
)


def _field_of(task: GenerationTask) -> str:
    with pytest.raises(InvalidArgument) as caught:
        check_task(task, MODEL, LIMITS)
    assert caught.value.metadata == {"field": caught.value.field}
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    return caught.value.field


def test_a_good_task_passes() -> None:
    check_task(TASK, MODEL, LIMITS)
    check_task(replace(TASK, num_sequences=LIMITS.max_sequences), MODEL, LIMITS)
    check_task(replace(TASK, stop=StopParams(max_tokens=61)), MODEL, LIMITS)


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (replace(TASK, prompt_token_ids=()), "prompt"),
        (replace(TASK, prompt_token_ids=(1,) * 64), "prompt"),
        (replace(TASK, prompt_token_ids=(1, 100)), "prompt.token_ids"),
        (replace(TASK, prompt_token_ids=(-1, 5)), "prompt.token_ids"),
        (replace(TASK, num_sequences=0), "n"),
        (replace(TASK, num_sequences=9), "n"),
        (replace(TASK, stop=StopParams(max_tokens=0)), "max_tokens"),
        (replace(TASK, stop=StopParams(max_tokens=-1)), "max_tokens"),
        (replace(TASK, stop=StopParams(max_tokens=62)), "max_tokens"),
        (replace(TASK, emitted=((1,), (2,))), "emitted"),
        (replace(TASK, emitted=((1,) * 9,)), "emitted[0]"),
        (replace(TASK, emitted=((100,),)), "emitted[0]"),
    ],
)
def test_bad_tasks_name_their_field(task: GenerationTask, field: str) -> None:
    assert _field_of(task) == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"temperature": math.inf}, "sampling.temperature"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"top_k": 101}, "sampling.top_k"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": 1.01}, "sampling.top_p"),
        ({"top_p": math.nan}, "sampling.top_p"),
        ({"min_p": -0.01}, "sampling.min_p"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty"),
        ({"repetition_penalty": math.nan}, "sampling.repetition_penalty"),
        ({"presence_penalty": 11.0}, "sampling.presence_penalty"),
        ({"frequency_penalty": -11.0}, "sampling.frequency_penalty"),
        ({"seed": 2**64}, "sampling.seed"),
        ({"seed": -1}, "sampling.seed"),
        ({"num_logprobs": 21}, "sampling.logprobs"),
        ({"num_logprobs": -1}, "sampling.logprobs"),
        ({"logit_bias": {100: 1.0}}, "sampling.logit_bias (token id)"),
        ({"logit_bias": {5: math.nan}}, "sampling.logit_bias[5]"),
        ({"logit_bias": {5: 1e30}}, "sampling.logit_bias[5]"),
        ({"logit_bias": dict.fromkeys(range(301), 0.0)}, "sampling.logit_bias"),
    ],
)
def test_bad_sampling_names_its_field(change: dict[str, object], field: str) -> None:
    params = replace(SamplingParams(), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        check_sampling(params, ModelLimits(vocab_size=100, max_context_tokens=64), LIMITS)
    assert caught.value.field == field
    assert caught.value.remedy


def test_sampling_borders_are_inclusive() -> None:
    check_sampling(
        SamplingParams(
            temperature=10.0, top_k=100, top_p=1.0, min_p=1.0, seed=2**64 - 1, num_logprobs=20, logit_bias={99: -100.0}
        ),
        MODEL,
        LIMITS,
    )


@pytest.mark.parametrize(
    ("stop", "field"),
    [
        (StopParams(max_tokens=1, stop=("x",) * 17), "stop"),
        (StopParams(max_tokens=1, stop=("ok", "")), "stop[1]"),
        (StopParams(max_tokens=1, stop=("é" * 33,)), "stop[0]"),
        (StopParams(max_tokens=1, stop_token_ids=(1,) * 65), "stop_token_ids"),
        (StopParams(max_tokens=1, stop_token_ids=(100,)), "stop_token_ids"),
    ],
)
def test_bad_stops_name_their_field(stop: StopParams, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_stop(stop, MODEL, LIMITS)
    assert caught.value.field == field


def test_stop_string_limit_counts_bytes() -> None:
    check_stop(StopParams(max_tokens=1, stop=("é" * 32,)), MODEL, LIMITS)
