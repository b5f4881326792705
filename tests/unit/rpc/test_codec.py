"""Every core value survives the way over the wire and back; bad messages are refused by field."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.admin.v1 import cluster_pb2
from tandem.core.cluster import WorkerState
from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId
from tandem.core.inference import SamplingOptions
from tandem.core.types import (
    FinishReason,
    GenerationTask,
    KvSource,
    PrefixPin,
    PriorityClass,
    Role,
    SamplingParams,
    StopParams,
    TokenDelta,
)
from tandem.inference.v1 import inference_pb2
from tandem.rpc.codec import cluster, commands, description, reports, requests, responses, tasks, token_batch, workers
from tandem.rpc.codec.enums import EnumCodec
from tandem.worker.v1 import info_pb2, worker_pb2
from tests.unit.rpc import strategies

PAIRS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any], Any, Callable[[Any], Any]]] = {
    "generate": (
        strategies.generate_request,
        requests.encode_generate_request,
        inference_pb2.GenerateRequest,
        requests.decode_generate_request,
    ),
    "tokenize": (
        strategies.tokenize_request,
        requests.encode_tokenize_request,
        inference_pb2.TokenizeRequest,
        requests.decode_tokenize_request,
    ),
    "detokenize": (
        strategies.detokenize_request,
        requests.encode_detokenize_request,
        inference_pb2.DetokenizeRequest,
        requests.decode_detokenize_request,
    ),
    "generation": (
        strategies.generation,
        responses.encode_generation,
        inference_pb2.GenerateResponse,
        responses.decode_generation,
    ),
    "stream event": (
        strategies.stream_event,
        responses.encode_stream_event,
        inference_pb2.StreamGenerateResponse,
        responses.decode_stream_event,
    ),
    "model": (
        strategies.model_card,
        responses.encode_model_card,
        inference_pb2.Model,
        responses.decode_model_card,
    ),
    "task": (strategies.task, tasks.encode_task, worker_pb2.GenerationTask, tasks.decode_task),
    "command": (strategies.command, commands.encode_command, worker_pb2.AttachRequest, commands.decode_command),
    "worker message": (
        strategies.worker_message,
        reports.encode_worker_message,
        worker_pb2.AttachResponse,
        reports.decode_worker_message,
    ),
    "token batch": (
        strategies.token_deltas,
        token_batch.encode_token_batch,
        worker_pb2.TokenBatch,
        token_batch.decode_token_batch,
    ),
    "info": (strategies.info, workers.encode_info, info_pb2.WorkerInfo, workers.decode_info),
    "load": (strategies.load, workers.encode_load, info_pb2.WorkerLoad, workers.decode_load),
    "description": (
        strategies.description,
        description.encode_description,
        worker_pb2.GetInfoResponse,
        description.decode_description,
    ),
    "worker status": (
        strategies.worker_status,
        cluster.encode_worker_status,
        cluster_pb2.WorkerStatus,
        cluster.decode_worker_status,
    ),
    "cluster status": (
        strategies.cluster_status,
        cluster.encode_status,
        cluster_pb2.GetStatusResponse,
        cluster.decode_status,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None, max_examples=40)  # the machine may be busy; random values are not slow
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    strategy, encode, wire, decode = PAIRS[name]
    value = data.draw(strategy)
    assert decode(wire.FromString(encode(value).SerializeToString())) == value


def _delta(**changes: Any) -> TokenDelta:
    base = TokenDelta(request_id=RequestId("r"), attempt=0, child=0, position=0, token_ids=(1,), text="x")
    return dataclasses.replace(base, **changes)


def test_a_request_is_named_once_per_batch() -> None:
    deltas = [_delta(child=child) for child in range(4)] + [_delta(attempt=1)]
    batch = token_batch.encode_token_batch(deltas)
    assert (list(batch.request_ids), list(batch.attempts)) == (["r", "r"], [0, 1])
    assert list(batch.request_index) == [0, 0, 0, 0, 1]
    assert list(batch.num_tokens) == []  # one token each needs no counts
    assert list(batch.extras) == []


def test_only_deltas_with_more_have_extras() -> None:
    deltas = [_delta(), _delta(finish_reason=FinishReason.STOP, matched_stop="\n"), _delta(token_ids=())]
    batch = token_batch.encode_token_batch(deltas)
    assert [extra.delta_index for extra in batch.extras] == [1]
    assert list(batch.num_tokens) == [1, 1, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"child": [0]},
        {"position": [0, 0, 0]},
        {"text": ["x"]},
        {"token_ids": [1]},
        {"token_ids": [1, 2, 3]},
        {"num_tokens": [1, 2]},
        {"num_tokens": [2]},
        {"request_index": [0, 1]},
        {"attempts": []},
        {"extras": [worker_pb2.DeltaExtra(delta_index=2)]},
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, list[Any]]) -> None:
    batch = token_batch.encode_token_batch([_delta(), _delta(position=1)])
    assert len(token_batch.decode_token_batch(batch)) == 2
    for name, values in changes.items():
        batch.ClearField(name)
        getattr(batch, name).extend(values)
    with pytest.raises(InvalidArgument, match="tokens"):
        token_batch.decode_token_batch(batch)


@pytest.mark.parametrize(
    ("decode", "message", "field"),
    [
        (requests.decode_generate_request, inference_pb2.GenerateRequest(), "input"),
        (requests.decode_generate_request, inference_pb2.GenerateRequest.FromString(b"\x12\x01x\x60\x09"), "priority"),
        (
            requests.decode_generate_request,
            inference_pb2.GenerateRequest(chat=inference_pb2.Chat(template_variables={"v": inference_pb2.Scalar()})),
            "template_variables[v]",
        ),
        (requests.decode_tokenize_request, inference_pb2.TokenizeRequest(), "input"),
        (responses.decode_stream_event, inference_pb2.StreamGenerateResponse(), "event"),
        (
            responses.decode_stream_event,
            inference_pb2.StreamGenerateResponse(finished=inference_pb2.Finished()),
            "finish_reason",
        ),
        (commands.decode_command, worker_pb2.AttachRequest(), "command"),
        (
            commands.decode_command,
            worker_pb2.AttachRequest(start_prefill=worker_pb2.StartPrefill()),
            "task.request_id",
        ),
        (
            commands.decode_command,
            worker_pb2.AttachRequest(
                reserve_decode=worker_pb2.ReserveDecode(
                    task=worker_pb2.GenerationTask(request_id="r", priority=worker_pb2.PRIORITY_CLASS_BATCH)
                )
            ),
            "reserve_decode.source",
        ),
        (tasks.decode_task, worker_pb2.GenerationTask(request_id="r"), "task.priority"),
        (reports.decode_worker_message, worker_pb2.AttachResponse(), "message"),
        (
            reports.decode_worker_message,
            worker_pb2.AttachResponse(step=worker_pb2.StepReport(events=[worker_pb2.RequestEvent()])),
            "event",
        ),
        (reports.decode_worker_message, worker_pb2.AttachResponse(beat=worker_pb2.Beat()), "beat.role"),
        (workers.decode_info, info_pb2.WorkerInfo(role=info_pb2.ROLE_DECODE), "worker.worker_id"),
        (workers.decode_info, info_pb2.WorkerInfo(worker_id="w"), "worker.role"),
        (description.decode_description, worker_pb2.GetInfoResponse(), "latency.prefill"),
        (
            cluster.decode_worker_status,
            cluster_pb2.WorkerStatus(info=info_pb2.WorkerInfo(worker_id="w", role=info_pb2.ROLE_DECODE)),
            "state",
        ),
    ],
)
def test_what_means_nothing_is_refused_by_field(decode: Callable[[Any], Any], message: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(message)
    assert caught.value.field == field


def test_unset_fields_get_the_documented_defaults() -> None:
    request = requests.decode_generate_request(inference_pb2.GenerateRequest(text="x"))
    assert (request.num_sequences, request.max_tokens, request.priority) == (1, None, PriorityClass.STANDARD)
    assert request.sampling == SamplingOptions()
    chat = requests.decode_generate_request(inference_pb2.GenerateRequest(chat=inference_pb2.Chat()))
    assert chat.prompt.add_generation_prompt  # type: ignore[union-attr]
    tokens = requests.decode_tokenize_request(inference_pb2.TokenizeRequest(text="x"))
    assert tokens.add_special_tokens
    assert requests.decode_detokenize_request(inference_pb2.DetokenizeRequest()).skip_special_tokens


def test_a_zero_that_was_given_is_not_a_default() -> None:
    """An explicit 0 must reach the check that refuses it."""
    request = requests.decode_generate_request(inference_pb2.GenerateRequest(text="x", n=0, max_tokens=0))
    assert (request.num_sequences, request.max_tokens) == (0, 0)


def test_every_field_of_a_task_travels() -> None:
    """A field added to the task and forgotten in the codec would lose its value on the way."""
    task = GenerationTask(
        request_id=RequestId("r"),
        attempt=3,
        tenant="t",  # type: ignore[arg-type]
        prompt_token_ids=(1, 2),
        num_sequences=2,
        sampling=SamplingParams(
            temperature=0.5,
            top_k=1,
            top_p=0.25,
            min_p=0.125,
            repetition_penalty=2.0,
            presence_penalty=3.0,
            frequency_penalty=4.0,
            logit_bias={1: 2.0},
            seed=5,
            num_logprobs=0,
        ),
        stop=StopParams(max_tokens=7, stop=("s",), stop_token_ids=(9,), ignore_eos=True, include_stop=True),
        emitted=((1,), ()),
        done_children=frozenset({1}),
        deadline_left_s=0.0,
        priority=PriorityClass.BATCH,
        traceparent="00-x",
        pin=PrefixPin(num_tokens=1, ttl_s=60.0),
    )
    for value in (task, task.sampling, task.stop):
        for field in dataclasses.fields(value):
            if field.default is not dataclasses.MISSING:
                assert getattr(value, field.name) != field.default, f"{field.name} has its default here"
    assert tasks.decode_task(tasks.encode_task(task)) == task


def test_enum_codecs_know_every_member() -> None:
    codecs: list[tuple[Any, Any]] = [
        (PriorityClass, requests.PRIORITY),
        (PriorityClass, tasks.PRIORITY),
        (FinishReason, responses.FINISH),
        (FinishReason, token_batch.FINISH),
        (KvSource, commands.KV_SOURCE),
        (Role, workers.ROLE),
        (WorkerState, cluster.STATE),
    ]
    for members, codec in codecs:
        numbers = [codec.encode(member) for member in members]
        assert len(set(numbers)) == len(numbers)
        assert 0 not in numbers
        assert [codec.decode(number, field="f") for number in numbers] == list(members)


def test_an_enum_default_stands_for_zero_only() -> None:
    codec = EnumCodec({PriorityClass.BATCH: 3})
    assert codec.decode(0, field="f", default=PriorityClass.BATCH) is PriorityClass.BATCH
    with pytest.raises(InvalidArgument, match="f: is 7; use one of 3"):
        codec.decode(7, field="f", default=PriorityClass.BATCH)
