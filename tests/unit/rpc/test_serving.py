"""From raw bytes to a handler and back, over a context that is not a connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import pytest
from structlog.testing import capture_logs

from tandem.core.errors import InvalidArgument, ModelError, Overloaded, Unavailable
from tandem.core.ids import Tenant
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.context import CallContext, attempt_of, current_tenant
from tandem.rpc.serving import Service, bidirectional, streaming, unary

PATH = "/s/m"


class FakeContext:
    """A call that never was on a wire."""

    def __init__(self, *, metadata: tuple[tuple[str, str | bytes], ...] = (), remaining_s: float | None = None) -> None:
        self._metadata = metadata
        self._remaining_s = remaining_s
        self.written: list[str] = []
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._remaining_s

    async def write(self, data: bytes) -> None:
        self.written.append(pb.DetokenizeResponse.FromString(data).text)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: object = ()) -> NoReturn:
        self.aborted = (code, details)
        raise grpc.aio.AbortError("aborted")


def _text(message: pb.DetokenizeResponse) -> str:
    return message.text


def _message(text: str) -> pb.DetokenizeResponse:
    return pb.DetokenizeResponse(text=text)


def _bytes(text: str) -> bytes:
    return _message(text).SerializeToString()


def _unary(handle: Callable[[str, CallContext], Awaitable[str]]) -> Any:
    return unary(PATH, pb.DetokenizeResponse, _text, handle, _message).unary_unary


async def test_a_good_call() -> None:
    async def shout(text: str, call: CallContext) -> str:
        return f"{text}!"

    context = FakeContext()
    assert await _unary(shout)(_bytes("hi"), context) == _bytes("hi!")
    assert context.aborted is None


async def test_the_handler_is_told_what_it_may_know() -> None:
    seen: list[CallContext] = []

    async def look(text: str, call: CallContext) -> str:
        seen.append(call)
        return ""

    token = current_tenant.set(Tenant("acme"))
    try:
        await _unary(look)(b"", FakeContext(metadata=(("traceparent", b"00-x"),), remaining_s=1.0))
        await _unary(look)(b"", FakeContext())
    finally:
        current_tenant.reset(token)
    first, second = seen
    assert (first.method, first.tenant, first.traceparent) == (PATH, "acme", "00-x")
    assert first.deadline_left_s == pytest.approx(0.94)
    assert (second.deadline_left_s, second.traceparent) == (None, "")
    assert first.request_id != second.request_id


@pytest.mark.parametrize(
    ("raised", "code", "num_logged"),
    [
        (InvalidArgument("n", "is 9"), grpc.StatusCode.INVALID_ARGUMENT, 0),
        (Overloaded("full"), grpc.StatusCode.UNAVAILABLE, 0),
        (ModelError("/secret"), grpc.StatusCode.INTERNAL, 1),
        (RuntimeError("secret"), grpc.StatusCode.INTERNAL, 1),
        (KeyError("secret"), grpc.StatusCode.INTERNAL, 1),
        (TimeoutError("secret"), grpc.StatusCode.INTERNAL, 1),
    ],
)
async def test_what_a_handler_raises(raised: Exception, code: grpc.StatusCode, num_logged: int) -> None:
    async def fail(text: str, call: CallContext) -> str:
        raise raised

    context = FakeContext()
    with capture_logs() as logs, pytest.raises(grpc.aio.AbortError):
        await _unary(fail)(b"", context)
    assert context.aborted is not None
    assert context.aborted[0] is code
    assert "secret" not in context.aborted[1]
    assert len(logs) == num_logged
    for line in logs:
        assert line["exc_info"] is raised
        assert line["request_id"] in context.aborted[1]


async def test_an_answer_that_cannot_be_encoded_is_a_defect() -> None:
    async def half(text: str, call: CallContext) -> str:
        return "\ud83d"

    context = FakeContext()
    with capture_logs(), pytest.raises(grpc.aio.AbortError):
        await _unary(half)(b"", context)
    assert context.aborted is not None
    assert context.aborted[0] is grpc.StatusCode.INTERNAL


async def test_bytes_that_cannot_be_read_never_reach_the_handler() -> None:
    async def never(text: str, call: CallContext) -> str:
        raise AssertionError("must not be called")

    context = FakeContext()
    with capture_logs() as logs, pytest.raises(grpc.aio.AbortError):
        await _unary(never)(b"\xff", context)
    assert context.aborted is not None
    assert context.aborted[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert logs == []


async def test_cancellation_is_not_an_error() -> None:
    async def wait(text: str, call: CallContext) -> str:
        await asyncio.sleep(60)
        return ""

    context = FakeContext()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_unary(wait)(b"", context))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert context.aborted is None


async def test_a_stream_is_written_in_order_and_closed() -> None:
    closed: list[str] = []

    async def count(text: str, call: CallContext) -> AsyncIterator[str]:
        try:
            for number in range(3):
                yield f"{text}{number}"
        finally:
            closed.append("yes")

    context = FakeContext()
    behaviour: Any = streaming(PATH, pb.DetokenizeResponse, _text, count, _message).unary_stream
    await behaviour(_bytes("n"), context)
    assert context.written == ["n0", "n1", "n2"]
    assert closed == ["yes"]


async def test_a_stream_keeps_what_it_wrote_before_it_failed() -> None:
    async def fail(text: str, call: CallContext) -> AsyncIterator[str]:
        yield "one"
        raise Unavailable("lost")

    context = FakeContext()
    behaviour: Any = streaming(PATH, pb.DetokenizeResponse, _text, fail, _message).unary_stream
    with pytest.raises(grpc.aio.AbortError):
        await behaviour(b"", context)
    assert context.written == ["one"]
    assert context.aborted == (grpc.StatusCode.UNAVAILABLE, "lost")


async def test_any_iterator_will_do_as_a_stream() -> None:
    class Plain:
        def __init__(self) -> None:
            self._left = ["a", "b"]

        def __aiter__(self) -> "Plain":
            return self

        async def __anext__(self) -> str:
            if not self._left:
                raise StopAsyncIteration
            return self._left.pop(0)

    context = FakeContext()
    behaviour: Any = streaming(PATH, pb.DetokenizeResponse, _text, lambda *_: Plain(), _message).unary_stream
    await behaviour(b"", context)
    assert context.written == ["a", "b"]


async def test_streams_both_ways() -> None:
    async def echo(texts: AsyncIterator[str], call: CallContext) -> AsyncIterator[str]:
        async for text in texts:
            yield text.upper()

    async def requests(*data: bytes) -> AsyncIterator[bytes]:
        for piece in data:
            yield piece

    behaviour: Any = bidirectional(PATH, pb.DetokenizeResponse, _text, echo, _message).stream_stream
    context = FakeContext()
    await behaviour(requests(_bytes("a"), _bytes("b")), context)
    assert context.written == ["A", "B"]
    broken = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        await behaviour(requests(_bytes("a"), b"\xff", _bytes("b")), broken)
    assert broken.written == ["A"]
    assert broken.aborted is not None
    assert broken.aborted[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_service_knows_its_paths() -> None:
    async def handle(text: str, call: CallContext) -> str:
        return text

    handler = unary("/a.B/C", pb.DetokenizeResponse, _text, handle, _message)
    assert Service(name="a.B", methods={"C": handler, "D": handler}).paths() == ["/a.B/C", "/a.B/D"]


@pytest.mark.parametrize(
    ("header", "attempt"),
    [(None, 0), ("", 0), ("0", 0), ("3", 3), ("-1", 0), ("x", 0), ("9999", 1000), ("99999", 0), ("\u0663", 0)],
)
def test_the_attempt_header_is_read_with_distrust(header: str | None, attempt: int) -> None:
    assert attempt_of(header) == attempt
