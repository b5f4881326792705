"""The asyncio client against a real gRPC server on loopback; what both share is tested with the blocking one."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from tandem.client import (
    AsyncClient,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OutputDelta,
    Overloaded,
    StreamCompleted,
    StreamStarted,
    Unavailable,
)
from tests.fakes.inference_server import CARD, RunningServer, fake_inference_server


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with fake_inference_server() as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, timeout_s=10) as made:
        yield made


async def test_every_method(client: AsyncClient) -> None:
    assert (await client.generate("a b")).text == "a b"
    assert (await client.generate(token_ids=[7])).text == "7"
    assert (await client.chat([{"role": "user", "content": "hi"}])).text == "user hi"
    assert await client.tokenize("a b") == (0, 1)
    assert await client.detokenize([3, 4]) == "3 4"
    assert await client.models() == (CARD,)
    assert (await client.status()).model == "words"


async def test_stream_yields_typed_events(client: AsyncClient) -> None:
    async with client.stream("a b") as stream:
        events = [event async for event in stream]
    assert isinstance(events[0], StreamStarted)
    assert [event.text for event in events if isinstance(event, OutputDelta)] == ["a", " b"]
    assert isinstance(events[-1], StreamCompleted)


async def test_stream_texts_and_collect(client: AsyncClient) -> None:
    async with client.stream("a b") as stream:
        assert [text async for text in stream.texts()] == ["a", " b"]
    async with client.stream("a b", n=2) as stream:
        assert (await stream.collect()).sequences == (await client.generate("a b", n=2)).sequences


async def test_leaving_a_stream_cancels_the_request(client: AsyncClient, server: RunningServer) -> None:
    server.handler.delay_s = 0.05
    async with client.stream(" ".join(["word"] * 1000)) as stream:
        async for event in stream:
            if isinstance(event, OutputDelta):
                break
    assert await asyncio.to_thread(server.handler.closed.wait, 5)


async def test_cancelling_the_task_cancels_the_request(client: AsyncClient, server: RunningServer) -> None:
    server.handler.delay_s = 30
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(client.generate("a"))
        assert await asyncio.to_thread(server.handler.begun.wait, 5)
        task.cancel()
    assert task.cancelled()
    assert await asyncio.to_thread(server.handler.closed.wait, 5)


async def test_a_stream_outside_async_with_is_refused(client: AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        aiter(client.stream("a"))


async def test_retries_before_the_first_event_only(client: AsyncClient, server: RunningServer) -> None:
    server.handler.failures = [Overloaded("full", retry_after_s=0.05)]
    async with client.stream("a b") as stream:
        assert (await stream.collect()).text == "a b"
    assert len(server.handler.calls) == 2
    server.handler.failures = [Unavailable("lost")]
    server.handler.fail_after = 1
    async with client.stream("a b") as stream:
        with pytest.raises(Unavailable):
            await stream.collect()
    assert len(server.handler.calls) == 3


async def test_unary_calls_are_retried(client: AsyncClient, server: RunningServer) -> None:
    server.handler.failures = [Unavailable("lost")]
    assert (await client.generate("a")).text == "a"
    assert len(server.handler.calls) == 2


async def test_errors_come_as_ours(client: AsyncClient, server: RunningServer) -> None:
    server.handler.failures = [InvalidArgument("n", "is 9")]
    with pytest.raises(InvalidArgument) as caught:
        await client.generate("a")
    assert caught.value.field == "n"
    server.handler.delay_s = 5
    with pytest.raises(DeadlineExceeded):
        await client.with_options(timeout_s=0.1).generate("a")


async def test_many_streams_at_once(server: RunningServer) -> None:
    async with AsyncClient(server.address, num_connections=2) as client:

        async def one(number: int) -> str:
            async with client.stream(f"word {number}") as stream:
                return (await stream.collect()).text

        texts = await asyncio.gather(*(one(number) for number in range(100)))
    assert texts == [f"word {number}" for number in range(100)]


async def test_wait_until_ready(client: AsyncClient, server: RunningServer) -> None:
    with pytest.raises(Unavailable, match="did not become ready"):
        await client.wait_until_ready(timeout_s=0.2)
    server.serve()
    await client.wait_until_ready(timeout_s=5)


async def test_a_closed_client_says_so(server: RunningServer) -> None:
    client = AsyncClient(server.address)
    assert (await client.generate("a")).text == "a"
    await client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await client.generate("a")


def test_a_client_can_be_made_before_the_loop_runs(server: RunningServer) -> None:
    client = AsyncClient(server.address)

    async def use() -> str:
        async with client:
            return (await client.generate("a")).text

    assert asyncio.run(use()) == "a"


async def test_the_callers_trace_goes_along(client: AsyncClient, server: RunningServer) -> None:
    span = TracerProvider().get_tracer("test").start_span("caller")
    with trace.use_span(span, end_on_exit=True):
        await client.generate("a")
    assert f"{span.get_span_context().trace_id:032x}" in server.handler.calls[0].traceparent
    await client.generate("a")
    assert server.handler.calls[1].traceparent == ""
