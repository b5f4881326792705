"""The two stream classes over scripted calls: retries, cancellation, deadlines, order. No sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from tandem.client import (
    AsyncGenerationStream,
    DeadlineExceeded,
    FailedPrecondition,
    FinishReason,
    Generation,
    GenerationStream,
    NotFound,
    OutputDelta,
    Overloaded,
    SequenceFinished,
    StreamCompleted,
    StreamStarted,
    TandemError,
    Unavailable,
)
from tandem.client.attempts import Attempts
from tandem.client.retry import RetryBudget
from tandem.client.settings import Settings
from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import KeepAlive, ServedBy, StreamEvent
from tandem.core.types import PhaseTimings, Usage
from tandem.rpc.codec.responses import encode_stream_event
from tandem.rpc.errors import status_of

GOOD: list[StreamEvent] = [
    StreamStarted(request_id=RequestId("r"), prompt_tokens=2, cached_tokens=0),
    OutputDelta(index=0, position=0, text="a", token_ids=(1,)),
    KeepAlive(),
    OutputDelta(index=1, position=0, text="x", token_ids=(1,)),
    OutputDelta(index=0, position=1, text="", token_ids=(2,)),
    OutputDelta(index=0, position=2, text="b", token_ids=(3,)),
    SequenceFinished(index=0, finish_reason=FinishReason.STOP),
    SequenceFinished(index=1, finish_reason=FinishReason.LENGTH),
    StreamCompleted(
        usage=Usage(prompt_tokens=2, cached_tokens=0, output_tokens=4),
        timings=PhaseTimings(),
        workers=ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d")),
    ),
]
Step = StreamEvent | TandemError | bytes


class Failure(grpc.RpcError):
    """A failed call."""

    def __init__(self, error: TandemError) -> None:
        self._status = status_of(error)

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self) -> Any:
        return self._status.trailing_metadata


class ScriptedCall:
    """Plays its steps to whoever iterates, blocking or not; ends with the step that is an error."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.num_played = 0
        self.cancelled = False

    def __iter__(self) -> Iterator[bytes]:
        for step in self._steps:
            self.num_played += 1
            if isinstance(step, TandemError):
                raise Failure(step)
            yield step if isinstance(step, bytes) else encode_stream_event(step).SerializeToString()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for data in self:
            yield data

    def cancel(self) -> None:
        self.cancelled = True


class Script:
    """Opens one scripted call after the other and remembers what each was given."""

    def __init__(self, *calls: Sequence[Step]) -> None:
        self.calls = [ScriptedCall(steps) for steps in calls]
        self.timeouts_s: list[float] = []

    def open_call(self, timeout_s: float) -> ScriptedCall:
        self.timeouts_s.append(timeout_s)
        return self.calls[len(self.timeouts_s) - 1]


def _attempts(*, timeout_s: float = 30.0, retries: int = 2) -> Attempts:
    return Attempts(Settings(address="127.0.0.1:1", timeout_s=timeout_s, retries=retries), RetryBudget())


async def _blocking(script: Script, attempts: Attempts) -> list[StreamEvent]:
    with GenerationStream(script.open_call, attempts) as stream:
        return list(stream)


async def _for_asyncio(script: Script, attempts: Attempts) -> list[StreamEvent]:
    async with AsyncGenerationStream(script.open_call, attempts) as stream:
        return [event async for event in stream]


Run = Callable[[Script, Attempts], Awaitable[list[StreamEvent]]]
both = pytest.mark.parametrize("run", [_blocking, _for_asyncio])
WITHOUT_KEEPALIVES = [event for event in GOOD if not isinstance(event, KeepAlive)]


@both
async def test_events_in_order_and_one_call(run: Run) -> None:
    script = Script(GOOD)
    assert await run(script, _attempts()) == WITHOUT_KEEPALIVES
    assert len(script.timeouts_s) == 1


@both
@pytest.mark.parametrize("before", [[], [KeepAlive()]], ids=["nothing", "a keep-alive"])
async def test_a_retry_while_nothing_was_seen(run: Run, before: list[Step]) -> None:
    script = Script([*before, Unavailable("lost")], [Overloaded("full", retry_after_s=0.01)], GOOD)
    assert await run(script, _attempts()) == WITHOUT_KEEPALIVES
    assert len(script.timeouts_s) == 3


@both
async def test_the_call_that_runs_at_the_end_is_the_one_cancelled(run: Run) -> None:
    script = Script([Unavailable("lost")], GOOD)
    await run(script, _attempts())
    assert script.calls[1].cancelled


@both
@pytest.mark.parametrize("num_seen", [1, 2, 5])
async def test_no_retry_once_something_was_seen(run: Run, num_seen: int) -> None:
    script = Script([*GOOD[:num_seen], Unavailable("lost")], GOOD)
    with pytest.raises(Unavailable):
        await run(script, _attempts())
    assert len(script.timeouts_s) == 1
    assert script.calls[0].cancelled


@both
async def test_other_errors_come_at_once(run: Run) -> None:
    script = Script([NotFound("no model 'x'")], GOOD)
    with pytest.raises(NotFound, match="no model 'x'"):
        await run(script, _attempts())
    assert len(script.timeouts_s) == 1


@both
async def test_every_attempt_gets_what_is_left(run: Run) -> None:
    script = Script([Overloaded("full", retry_after_s=0.1)], GOOD)
    await run(script, _attempts(timeout_s=5.0))
    first, second = script.timeouts_s
    assert 4.9 < first <= 5.0
    assert second <= first - 0.1


@both
async def test_a_wish_longer_than_the_deadline_ends_the_call_now(run: Run) -> None:
    script = Script([Overloaded("full", retry_after_s=60.0)])
    begin_s = time.monotonic()
    with pytest.raises(Overloaded):
        await run(script, _attempts(timeout_s=5.0))
    assert time.monotonic() - begin_s < 1


@both
async def test_no_retries_when_told_so(run: Run) -> None:
    script = Script([Unavailable("lost")], GOOD)
    with pytest.raises(Unavailable):
        await run(script, _attempts(retries=0))


@both
async def test_an_event_of_another_release_is_named(run: Run) -> None:
    script = Script([b"\xff\xff"])
    with pytest.raises(FailedPrecondition, match="different releases"):
        await run(script, _attempts())


@both
async def test_a_spent_deadline_opens_no_call(run: Run) -> None:
    script = Script(GOOD)
    with pytest.raises(DeadlineExceeded):
        await run(script, _attempts(timeout_s=1e-9))
    assert script.timeouts_s == []


def test_leaving_in_the_middle_cancels_and_reads_no_further() -> None:
    script = Script(GOOD)
    with GenerationStream(script.open_call, _attempts()) as stream:
        next(iter(stream))
        assert not script.calls[0].cancelled
    assert script.calls[0].cancelled
    assert script.calls[0].num_played == 1


def test_an_exception_of_the_callers_cancels_and_passes() -> None:
    script = Script(GOOD)
    with (
        pytest.raises(KeyboardInterrupt),
        GenerationStream(script.open_call, _attempts()) as stream,
    ):
        next(iter(stream))
        raise KeyboardInterrupt
    assert script.calls[0].cancelled


async def test_a_cancelled_task_cancels_the_call() -> None:
    script = Script(GOOD)
    entered = asyncio.Event()

    async def use() -> None:
        async with AsyncGenerationStream(script.open_call, _attempts()) as stream:
            await anext(aiter(stream))
            entered.set()
            await asyncio.sleep(60)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(use())
        await entered.wait()
        task.cancel()
    assert script.calls[0].cancelled


def test_iteration_goes_on_where_it_stopped() -> None:
    with GenerationStream(Script(GOOD).open_call, _attempts()) as stream:
        events = iter(stream)
        assert [type(next(events)), type(next(events))] == [StreamStarted, OutputDelta]
        assert list(stream.texts()) == ["b"]
        assert list(stream) == []


async def test_texts_are_those_of_the_first_sequence() -> None:
    with GenerationStream(Script(GOOD).open_call, _attempts()) as stream:
        assert list(stream.texts()) == ["a", "b"]
    async with AsyncGenerationStream(Script(GOOD).open_call, _attempts()) as other:
        assert [text async for text in other.texts()] == ["a", "b"]


async def test_collect_gives_one_answer_in_both() -> None:
    with GenerationStream(Script(GOOD).open_call, _attempts()) as stream:
        blocking: Generation = stream.collect()
    async with AsyncGenerationStream(Script(GOOD).open_call, _attempts()) as other:
        assert await other.collect() == blocking
    assert [(sequence.text, sequence.token_ids) for sequence in blocking.sequences] == [("ab", (1, 2, 3)), ("x", (1,))]


def test_a_stream_that_stops_without_completing_has_no_answer() -> None:
    with (
        GenerationStream(Script(GOOD[:-1]).open_call, _attempts()) as stream,
        pytest.raises(FailedPrecondition, match="has not completed"),
    ):
        stream.collect()
