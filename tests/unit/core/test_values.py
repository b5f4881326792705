"""The values that cross components: immutable, comparable, by name only, and every one of them on one list per kind."""

import dataclasses
import inspect
from types import ModuleType
from typing import get_args

import pytest

from tandem.core import blocks, cluster, description, inference, messages, prepared_model, reasons, types
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.cluster import ClusterStatus, WorkerState
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.core.inference import GeneratedSequence, Generation, ServedBy
from tandem.core.types import FinishReason, Outcome, PhaseTimings, PriorityClass, SamplingParams, Usage

MODULES = (blocks, cluster, description, inference, messages, prepared_model, types)


def _values(module: ModuleType) -> list[type]:
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and dataclasses.is_dataclass(member) and member.__module__ == module.__name__
    ]


VALUES = [value for module in MODULES for value in _values(module)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_values_are_frozen_and_have_no_room_for_more(value: type) -> None:
    parameters = vars(value)["__dataclass_params__"]
    assert parameters.frozen
    assert "__slots__" in vars(value)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{value.__name__}(")  # the generated one says nothing


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_values_are_made_by_name(value: type) -> None:
    """Two fields of one type are never mixed up. The two keys of the hand-over, made per block, are the exception."""
    positional = [
        p.name
        for p in inspect.signature(value).parameters.values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert not positional or value in (AttemptKey, BlockRef)


def test_every_message_is_on_its_list() -> None:
    """A message that is in no union would pass the type checker and be dropped by every receiver."""
    listed = set(get_args(messages.AttachCommand)) | set(get_args(messages.RequestEvent))
    listed |= set(get_args(messages.WorkerMessage))
    assert listed == set(_values(messages))
    assert set(get_args(messages.Command)) == set(get_args(messages.AttachCommand)) - {messages.Hello}


def test_every_stream_event_and_prompt_is_on_its_list() -> None:
    events = {inference.StreamStarted, inference.OutputDelta, inference.SequenceFinished}
    events |= {inference.StreamCompleted, inference.KeepAlive}
    assert set(get_args(inference.StreamEvent)) == events
    prompts = {value for value in _values(inference) if value.__name__.endswith("Prompt")}
    assert set(get_args(inference.Prompt)) == prompts


@pytest.mark.parametrize("event", get_args(messages.RequestEvent), ids=lambda event: event.__name__)
def test_every_event_names_its_attempt(event: type) -> None:
    """A receiver drops what names another attempt than its own; it can't without both names."""
    names = [field.name for field in dataclasses.fields(event)]
    assert names[:2] == ["request_id", "attempt"]


def test_reasons_are_unique_and_upper_snake() -> None:
    values = [value for name, value in vars(reasons).items() if name.isupper()]
    assert len(values) == len(set(values)) > 10
    assert all(value == value.upper() and value.replace("_", "").isalpha() for value in values)


@pytest.mark.parametrize("enum", [Outcome, FinishReason, PriorityClass, types.Role, types.KvSource, WorkerState])
def test_words_on_the_wire_are_lower_case_and_stable(enum: type[Outcome]) -> None:
    assert all(member.value == member.name.lower() for member in enum)


def test_block_names_are_keys_that_tell_generations_and_attempts_apart() -> None:
    assert len({BlockRef(1, 1), BlockRef(1, 2), BlockRef(2, 1), BlockRef(1, 1)}) == 3
    first, second = AttemptKey(RequestId("a"), 1), AttemptKey(RequestId("b"), 0)
    assert sorted([second, first, AttemptKey(RequestId("a"), 0)])[0] == AttemptKey(RequestId("a"), 0)
    assert {first: 1}[AttemptKey(RequestId("a"), 1)] == 1


def test_a_key_can_not_be_changed_while_it_is_in_a_table() -> None:
    ref = BlockRef(1, 1)
    with pytest.raises(AttributeError):
        setattr(ref, "generation", 2)  # noqa: B010 - mypy would refuse the plain assignment


def _sequence(index: int, text: str, token_ids: tuple[int, ...]) -> GeneratedSequence:
    return GeneratedSequence(index=index, text=text, token_ids=token_ids, finish_reason=FinishReason.LENGTH)


def test_the_short_names_of_an_answer_are_those_of_its_first_sequence() -> None:
    answer = Generation(
        request_id=RequestId("r"),
        sequences=(_sequence(0, "first", (1, 2)), dataclasses.replace(_sequence(1, "second", (3,)), matched_stop="x")),
        usage=Usage(prompt_tokens=1, cached_tokens=0, output_tokens=3),
        timings=PhaseTimings(),
        workers=ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d")),
    )
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("first", (1, 2), FinishReason.LENGTH)
    assert answer.attempts == 1


def test_what_was_not_given_is_told_from_what_was_given_as_zero() -> None:
    options = inference.SamplingOptions(temperature=0.0, seed=0)
    given = {f.name for f in dataclasses.fields(options) if getattr(options, f.name) not in (None, {})}
    assert given == {"temperature", "seed"}
    assert SamplingParams().temperature == 0.0  # greedy, unless asked otherwise


def test_a_new_worker_and_a_new_status_have_said_nothing_yet() -> None:
    status = ClusterStatus(model="m", ready=False, router_id="r", uptime_s=0.0)
    assert (status.workers, dict(status.num_ended), status.num_queued, status.num_running) == ((), {}, 0, 0)
    info = types.WorkerInfo(
        worker_id=WorkerId("decode-0"),
        epoch=Epoch(1),
        role=types.Role.DECODE,
        address="127.0.0.1:1",
        model="m",
        model_digest="d",
        layout_fingerprint="f",
        block_size=16,
        total_blocks=1,
        max_context_tokens=1,
        max_sequences=1,
        pid=1,
        host="h",
    )
    worker = cluster.WorkerStatus(info=info, state=WorkerState.CONNECTING)
    assert worker.load is None
    assert worker.silent_ms is None
    assert dataclasses.replace(info, epoch=Epoch(2)) != info  # another life of the same slot is another worker
