"""`check_task` accepts a task exactly when a second, independent reading of the limits does."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.limits import ModelLimits, RequestLimits, check_sampling, check_stop, check_task
from tandem.core.types import GenerationTask, SamplingParams, StopParams

MODEL = ModelLimits(vocab_size=20, max_context_tokens=12)
LIMITS = RequestLimits(
    max_sequences=3,
    max_stop_strings=2,
    max_stop_string_bytes=4,
    max_stop_token_ids=2,
    max_logit_bias=2,
    max_abs_logit_bias=5.0,
    max_logprobs=4,
    max_temperature=2.0,
    max_penalty=1.5,
)

# --- the oracle: one list of plain facts, in no particular order ------------------------------------------------------


def _sampling_is_good(s: SamplingParams) -> bool:
    numbers = [s.temperature, s.top_p, s.min_p, s.repetition_penalty, s.presence_penalty, s.frequency_penalty]
    return not any(
        (
            any(math.isnan(number) or math.isinf(number) for number in [*numbers, *s.logit_bias.values()]),
            s.temperature < 0 or s.temperature > 2,
            s.top_k not in range(21),
            s.top_p <= 0 or s.top_p > 1,
            s.min_p < 0 or s.min_p > 1,
            s.repetition_penalty <= 0 or s.repetition_penalty > 1.5,
            abs(s.presence_penalty) > 1.5,
            abs(s.frequency_penalty) > 1.5,
            s.seed not in range(2**64),
            s.num_logprobs is not None and s.num_logprobs not in range(5),
            len(s.logit_bias) > 2,
            not set(s.logit_bias) <= set(range(20)),
            any(abs(bias) > 5 for bias in s.logit_bias.values()),
        )
    )


def _stop_is_good(stop: StopParams) -> bool:
    return not any(
        (
            stop.max_tokens <= 0,
            len(stop.stop) > 2,
            any(len(text.encode()) not in range(1, 5) for text in stop.stop),
            len(stop.stop_token_ids) > 2,
            not set(stop.stop_token_ids) <= set(range(20)),
        )
    )


def _task_is_good(task: GenerationTask) -> bool:
    return not any(
        (
            not task.prompt_token_ids,
            not set(task.prompt_token_ids) <= set(range(20)),
            len(task.prompt_token_ids) + task.stop.max_tokens > 12,
            task.num_sequences not in (1, 2, 3),
            len(task.emitted) not in (0, task.num_sequences),
            any(len(tokens) > task.stop.max_tokens for tokens in task.emitted),
            not {token for tokens in task.emitted for token in tokens} <= set(range(20)),
            not _stop_is_good(task.stop),
            not _sampling_is_good(task.sampling),
        )
    )


# --- tasks around the borders: at most two fields are drawn from what may be bad -------------------------------------

TOKEN = st.integers(0, 19)
TOKEN_OR_NOT = st.sampled_from([-1, 0, 19, 20, 2**40])


def _near(low: float, high: float) -> st.SearchStrategy[float]:
    below, above = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    return st.sampled_from([low, high, below, above, math.nan, math.inf, -math.inf])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    good: st.SearchStrategy[Any]
    border: st.SearchStrategy[Any]


def _number(low: float, high: float) -> _Field:
    return _Field(good=st.floats(low, high), border=_near(low, high))


def _few(item: st.SearchStrategy[Any], border_item: st.SearchStrategy[Any], most: int) -> _Field:
    crowded = st.lists(item, min_size=most, max_size=most + 1)
    return _Field(
        good=st.lists(item, max_size=most).map(tuple),
        border=(crowded | st.lists(border_item, min_size=1, max_size=most)).map(tuple),
    )


SAMPLING_FIELDS = {
    "temperature": _number(0.0, 2.0),
    "top_k": _Field(good=st.integers(0, 20), border=st.sampled_from([-1, 0, 20, 21])),
    "top_p": _Field(good=st.floats(0.0, 1.0, exclude_min=True), border=_near(0.0, 1.0)),
    "min_p": _number(0.0, 1.0),
    "repetition_penalty": _Field(good=st.floats(0.1, 1.5), border=_near(0.0, 1.5)),
    "presence_penalty": _number(-1.5, 1.5),
    "frequency_penalty": _number(-1.5, 1.5),
    "logit_bias": _Field(
        good=st.dictionaries(TOKEN, st.floats(-5.0, 5.0), max_size=2),
        border=st.dictionaries(TOKEN_OR_NOT, st.just(1.0), min_size=1, max_size=2)
        | st.dictionaries(TOKEN, _near(-5.0, 5.0), min_size=1, max_size=2)
        | st.dictionaries(TOKEN, st.just(1.0), min_size=2, max_size=3),
    ),
    "seed": _Field(good=st.integers(0, 2**64 - 1), border=st.sampled_from([-1, 0, 2**64 - 1, 2**64])),
    "num_logprobs": _Field(good=st.none() | st.integers(0, 4), border=st.sampled_from([-1, 0, 4, 5])),
}
STOP_FIELDS = {
    "max_tokens": _Field(good=st.integers(1, 6), border=st.sampled_from([-5, 0, 1, 12])),
    "stop": _few(
        st.sampled_from(["x", "abcd", "é!", "日", "🙂"]), st.sampled_from(["", "x", "abcde", "日é", "🙂", "ééé"]), 2
    ),
    "stop_token_ids": _few(TOKEN, TOKEN_OR_NOT, 2),
}
OTHER_FIELDS = ("prompt", "prompt length", "n", "emitted", "emitted length", "emitted number")
FIELDS = (*SAMPLING_FIELDS, *STOP_FIELDS, *OTHER_FIELDS)
BORDERS = st.sets(st.sampled_from(FIELDS), max_size=2)


def _drawn(draw: st.DrawFn, fields: dict[str, _Field], borders: set[str]) -> dict[str, Any]:
    return {name: draw(field.border if name in borders else field.good) for name, field in fields.items()}


@st.composite
def _samplings(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(**_drawn(draw, SAMPLING_FIELDS, draw(BORDERS)))


@st.composite
def _stops(draw: st.DrawFn) -> StopParams:
    return StopParams(**_drawn(draw, STOP_FIELDS, draw(BORDERS)))


@st.composite
def _tasks(draw: st.DrawFn, at: st.SearchStrategy[set[str]] = BORDERS) -> GenerationTask:
    borders = draw(at)
    stop = StopParams(**_drawn(draw, STOP_FIELDS, borders))
    room_tokens = max(1, MODEL.max_context_tokens - stop.max_tokens)
    num_prompt = draw(st.sampled_from([0, room_tokens, room_tokens + 1])) if "prompt length" in borders else 0
    prompt_token = TOKEN_OR_NOT if "prompt" in borders else TOKEN
    prompt = st.lists(prompt_token, min_size=num_prompt or 1, max_size=num_prompt or min(6, room_tokens))
    num_sequences = draw(st.sampled_from([-1, 0, 1, 3, 4])) if "n" in borders else draw(st.integers(1, 3))
    num_listed = draw(st.sampled_from([0, max(0, num_sequences)]))
    if "emitted number" in borders:
        num_listed = draw(st.integers(0, 4))
    longest = max(0, stop.max_tokens) + ("emitted length" in borders)
    shortest = longest if "emitted length" in borders else 0
    emitted_token = TOKEN_OR_NOT if "emitted" in borders else TOKEN
    emitted = st.lists(emitted_token, min_size=shortest, max_size=longest).map(tuple)
    return GenerationTask(
        request_id=RequestId("r"),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw(prompt)) if num_prompt or "prompt length" not in borders else (),
        num_sequences=num_sequences,
        sampling=SamplingParams(**_drawn(draw, SAMPLING_FIELDS, borders)),
        stop=stop,
        emitted=tuple(draw(st.lists(emitted, min_size=num_listed, max_size=num_listed))),
    )


def _blamed(check: Callable[[], None]) -> str | None:
    """Return the field that a check refuses; None when it accepts."""
    try:
        check()
    except InvalidArgument as error:
        return error.field if str(error).startswith(f"{error.field}: ") else ""
    return None


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=150)
@given(data=st.data())
def test_a_task_passes_exactly_when_the_oracle_says_so(field: str, data: st.DataObject) -> None:
    """One field at its border, all others good: a check that is off by one has nothing to hide behind."""
    task = data.draw(_tasks(st.just({field})))
    blamed = _blamed(lambda: check_task(task, MODEL, LIMITS))
    assert (blamed is None) == _task_is_good(task)
    assert blamed != ""


@settings(max_examples=300)
@given(_tasks())
def test_two_fields_at_their_borders(task: GenerationTask) -> None:
    good = _task_is_good(task)
    event(f"good: {good}")
    assert (_blamed(lambda: check_task(task, MODEL, LIMITS)) is None) == good


@given(_tasks())
def test_what_a_refused_task_names_is_what_is_wrong_with_it(task: GenerationTask) -> None:
    """Putting the blamed part right changes the blame, so a caller who follows the messages comes to an end."""
    sound = GenerationTask(
        request_id=RequestId("r"),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=(1,),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=1),
    )
    history: list[str] = []
    while (field := _blamed(lambda: check_task(task, MODEL, LIMITS))) is not None:  # noqa: B023 - called at once
        part = field.split(".")[0].split("[")[0]
        assert part not in history, f"{part} was put right and is blamed again: {history}"
        history.append(part)
        if part == "sampling":
            task = replace(task, sampling=sound.sampling)
        elif part == "prompt":
            task = replace(task, prompt_token_ids=sound.prompt_token_ids)
        elif part == "n":
            task = replace(task, num_sequences=1)
        elif part == "emitted":
            task = replace(task, emitted=())
        else:
            assert part in ("max_tokens", "stop", "stop_token_ids")
            task = replace(task, stop=sound.stop)


@settings(max_examples=300)
@given(_tasks(), st.data())
def test_wider_limits_refuse_nothing_more(task: GenerationTask, data: st.DataObject) -> None:
    if not _task_is_good(task):
        return
    wider = replace(
        LIMITS,
        max_sequences=LIMITS.max_sequences + data.draw(st.integers(0, 5)),
        max_stop_strings=LIMITS.max_stop_strings + data.draw(st.integers(0, 5)),
        max_penalty=LIMITS.max_penalty + data.draw(st.floats(0, 5)),
        max_temperature=LIMITS.max_temperature + data.draw(st.floats(0, 5)),
    )
    larger = ModelLimits(
        vocab_size=MODEL.vocab_size + data.draw(st.integers(0, 50)),
        max_context_tokens=MODEL.max_context_tokens + data.draw(st.integers(0, 50)),
    )
    check_task(task, larger, wider)


@given(_samplings(), _stops())
def test_the_parts_agree_with_the_whole(sampling: SamplingParams, stop: StopParams) -> None:
    assert (_blamed(lambda: check_sampling(sampling, MODEL, LIMITS)) is None) == _sampling_is_good(sampling)
    assert (_blamed(lambda: check_stop(stop, MODEL, LIMITS)) is None) == _stop_is_good(stop)
