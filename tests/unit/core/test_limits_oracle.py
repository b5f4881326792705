"""`check_task` accepts a task exactly when a second, independent reading of the limits does."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.limits import ModelLimits, RequestLimits, check_sampling, check_stop, check_task
from tandem.core.types import GenerationTask, SamplingParams, StopParams

T = TypeVar("T")

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


# --- tasks around the borders: mostly good, each field sometimes bad --------------------------------------------------


def _mostly(good: st.SearchStrategy[T], bad: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return st.integers(0, 19).flatmap(lambda draw: bad if draw == 0 else good)


TOKEN = _mostly(st.integers(0, 19), st.sampled_from([-1, 20, 2**40]))


def _near(low: float, high: float) -> st.SearchStrategy[float]:
    borders = [low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf, -math.inf]
    return _mostly(st.floats(low, high), st.sampled_from(borders))


SAMPLING = st.builds(
    SamplingParams,
    temperature=_near(0.0, 2.0),
    top_k=_mostly(st.integers(0, 20), st.sampled_from([-1, 21])),
    top_p=_near(0.0, 1.0),
    min_p=_near(0.0, 1.0),
    repetition_penalty=_near(0.0, 1.5),
    presence_penalty=_near(-1.5, 1.5),
    frequency_penalty=_near(-1.5, 1.5),
    logit_bias=_mostly(
        st.dictionaries(TOKEN, _near(-5.0, 5.0), max_size=2),
        st.dictionaries(st.integers(0, 19), st.just(0.0), min_size=3, max_size=3),
    ),
    seed=_mostly(st.integers(0, 2**64 - 1), st.sampled_from([-1, 2**64])),
    num_logprobs=_mostly(st.none() | st.integers(0, 4), st.sampled_from([-1, 5])),
)
STOP = st.builds(
    StopParams,
    max_tokens=_mostly(st.integers(1, 6), st.sampled_from([-5, 0, 12])),
    stop=_mostly(
        st.lists(st.sampled_from(["x", "abcd", "é!", "日", "🙂"]), max_size=2),
        st.sampled_from([["", "x"], ["abcde"], ["日日"], ["a", "b", "c"]]),
    ).map(tuple),
    stop_token_ids=_mostly(st.lists(TOKEN, max_size=2), st.just([1, 2, 3])).map(tuple),
)


@st.composite
def _tasks(draw: st.DrawFn) -> GenerationTask:
    num_sequences = draw(_mostly(st.integers(1, 3), st.sampled_from([0, -1, 4])))
    emitted = st.lists(TOKEN, max_size=3).map(tuple)
    num_listed = draw(_mostly(st.sampled_from([0, max(0, num_sequences)]), st.integers(0, 4)))
    return GenerationTask(
        request_id=RequestId("r"),
        attempt=draw(st.integers(0, 3)),
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw(_mostly(st.lists(TOKEN, min_size=1, max_size=6), st.lists(TOKEN, max_size=14)))),
        num_sequences=num_sequences,
        sampling=draw(SAMPLING),
        stop=draw(STOP),
        emitted=tuple(draw(st.lists(emitted, min_size=num_listed, max_size=num_listed))),
    )


def _blamed(check: Callable[[], None]) -> str | None:
    """Return the field that a check refuses; None when it accepts."""
    try:
        check()
    except InvalidArgument as error:
        return error.field if str(error).startswith(f"{error.field}: ") else ""
    return None


@settings(max_examples=400)
@given(_tasks())
def test_a_task_passes_exactly_when_the_oracle_says_so(task: GenerationTask) -> None:
    good = _task_is_good(task)
    event(f"good: {good}")
    field = _blamed(lambda: check_task(task, MODEL, LIMITS))
    assert (field is None) == good
    assert field != ""


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


@given(SAMPLING, STOP)
def test_the_parts_agree_with_the_whole(sampling: SamplingParams, stop: StopParams) -> None:
    assert (_blamed(lambda: check_sampling(sampling, MODEL, LIMITS)) is None) == _sampling_is_good(sampling)
    assert (_blamed(lambda: check_stop(stop, MODEL, LIMITS)) is None) == _stop_is_good(stop)
