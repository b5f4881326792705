"""The caller's eyes: what a scripted server does is what the record says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, cast

import pytest

from tandem.chaos.cluster import caller
from tandem.chaos.cluster.caller import call
from tandem.chaos.cluster.records import Ending, RequestRecord
from tandem.chaos.cluster.specs import RequestSpec
from tandem.client import AsyncClient
from tandem.core.errors import Unavailable
from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import (
    OutputDelta,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
)
from tandem.core.types import FinishReason, PhaseTimings, Usage
from tandem.rpc.trace import current_traceparent

Script = Callable[[], AsyncIterator[StreamEvent]]
STARTED = StreamStarted(request_id=RequestId("r1"), prompt_tokens=1, cached_tokens=0)
FINISHED = SequenceFinished(index=0, finish_reason=FinishReason.LENGTH)
COMPLETED = StreamCompleted(
    usage=Usage(prompt_tokens=1, cached_tokens=0, output_tokens=2),
    timings=PhaseTimings(),
    workers=ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d")),
    attempts=2,
)


def _delta(position: int, *token_ids: int, index: int = 0) -> OutputDelta:
    return OutputDelta(index=index, position=position, text="x" * len(token_ids), token_ids=token_ids)


class _Stream:
    """Plays a script; notes whether it was left."""

    def __init__(self, client: "_Client") -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        self._client.traceparent = current_traceparent()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.was_left = True

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._client.script()


class _Client:
    """The part of AsyncClient that a caller uses."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.options: dict[str, Any] = {}
        self.timeout_s = 0.0
        self.traceparent = ""
        self.was_left = False

    def with_options(self, *, timeout_s: float) -> Self:
        self.timeout_s = timeout_s
        return self

    def stream(self, **options: Any) -> _Stream:
        self.options = options
        return _Stream(self)


async def _run(script: Script, **spec: Any) -> tuple[RequestRecord, _Client]:
    client = _Client(script)
    record = await call(cast("AsyncClient", client), RequestSpec(prompt=(5,), **spec))
    assert client.was_left
    return record, client


async def _whole() -> AsyncIterator[StreamEvent]:
    for event in (STARTED, _delta(0, 7), _delta(1, 8), FINISHED, COMPLETED):
        yield event


async def _endless() -> AsyncIterator[StreamEvent]:
    yield STARTED
    for position in range(10_000):
        yield _delta(position, 7)
        await asyncio.sleep(0.005)


async def test_a_whole_answer() -> None:
    record, client = await _run(_whole, deadline_s=9.0)
    assert (record.ending, record.request_id, record.attempts) == (Ending.OK, "r1", 2)
    child = record.children[0]
    assert (child.token_ids, child.text, child.finish_reason, child.num_gaps) == ([7, 8], "xx", FinishReason.LENGTH, 0)
    assert record.was_in_time
    assert record.first_token_s is not None
    assert client.timeout_s == 9.0
    assert client.options["token_ids"] == (5,)
    assert client.options["max_tokens"] == 16


async def test_the_server_is_told_the_name_that_the_record_holds() -> None:
    record, client = await _run(_whole)
    other, _ = await _run(_whole)
    assert client.traceparent == record.traceparent != other.traceparent
    assert len(record.traceparent.split("-")) == 4


async def test_positions_that_do_not_follow_are_counted() -> None:
    async def repeats() -> AsyncIterator[StreamEvent]:
        for event in (STARTED, _delta(0, 7), _delta(0, 7), _delta(3, 8), _delta(0, 5, index=1), COMPLETED):
            yield event

    record, _ = await _run(repeats)
    assert record.children[0].num_gaps == 2
    assert record.children[1].num_gaps == 0


async def test_a_named_error_and_one_that_is_none_of_ours() -> None:
    async def lost() -> AsyncIterator[StreamEvent]:
        yield STARTED
        raise Unavailable("the worker is gone", reason="WORKER_LOST")

    async def broken() -> AsyncIterator[StreamEvent]:
        yield STARTED
        raise KeyError("client")

    record, _ = await _run(lost)
    assert (record.ending, record.error, record.reason, record.retryable) == (
        Ending.ERROR,
        "Unavailable",
        "WORKER_LOST",
        True,
    )
    record, _ = await _run(broken)
    assert (record.ending, record.error) == (Ending.BROKEN, "KeyError")


async def test_leaving_after_a_time_and_after_some_tokens() -> None:
    record, _ = await _run(_endless, cancel_after_s=0.05)
    assert record.ending is Ending.CANCELLED
    assert record.cancelled_s is not None
    assert 0.04 < record.cancelled_s - record.began_s < 1.0
    record, _ = await _run(_endless, cancel_after_tokens=3)
    assert (record.ending, record.num_tokens) == (Ending.CANCELLED, 3)


async def test_a_cancel_that_comes_after_the_end_is_none() -> None:
    async def lingers() -> AsyncIterator[StreamEvent]:
        for event in (STARTED, _delta(0, 7), FINISHED, COMPLETED):
            yield event
        await asyncio.sleep(1.0)

    record, _ = await _run(lingers, cancel_after_s=0.05)
    assert (record.ending, record.cancelled_s) == (Ending.OK, None)


async def test_what_is_not_over_a_while_after_its_deadline_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "_GRACE_S", 0.05)
    record, _ = await _run(_endless, deadline_s=0.05)
    assert record.ending is Ending.HANG
    record, _ = await _run(_endless, deadline_s=0.05, cancel_after_s=5.0)
    assert record.ending is Ending.HANG, "a hang before the cancel is one too"


async def test_a_slow_reader_pauses_after_each_event() -> None:
    record, _ = await _run(_whole, read_delay_s=0.02)
    assert record.ended_s is not None
    assert record.ended_s - record.began_s >= 5 * 0.02
    assert record.longest_gap_s >= 0.02


async def test_a_caller_whose_task_is_ended_has_left() -> None:
    records: list[RequestRecord] = []
    client = _Client(_endless)
    task = asyncio.create_task(call(cast("AsyncClient", client), RequestSpec(prompt=(5,)), begun=records.append))
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (record,) = records
    assert client.was_left
    assert record.ending is Ending.CANCELLED
    assert record.cancelled_s == record.ended_s is not None
    assert record.num_tokens > 0


async def test_a_caller_that_is_ended_after_its_answer_was_whole_saw_the_answer() -> None:
    async def lingers() -> AsyncIterator[StreamEvent]:
        for event in (STARTED, _delta(0, 7), FINISHED, COMPLETED):
            yield event
        await asyncio.sleep(5.0)

    records: list[RequestRecord] = []
    task = asyncio.create_task(
        call(cast("AsyncClient", _Client(lingers)), RequestSpec(prompt=(5,)), begun=records.append)
    )
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (records[0].ending, records[0].cancelled_s) == (Ending.OK, None)
    assert records[0].ended_s is not None
