"""The server's own behaviour over real sockets: ports, health, reflection, limits, deadlines, what errors show."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tandem.core.errors import ConfigError, DeadlineExceeded, EnvironmentProblem, InvalidArgument
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.access import AccessControl
from tandem.rpc.channels import ServerLimits, open_channel
from tandem.rpc.context import CallContext
from tandem.rpc.errors import error_from_rpc
from tandem.rpc.server import RpcServer
from tandem.rpc.serving import Service, streaming, unary

NAME = "tandem.inference.v1.InferenceService"
Handle = Callable[[str, CallContext], Awaitable[str]]


async def _echo(text: str, call: CallContext) -> str:
    return text


def service_of(handle: Handle, events: Callable[[str, CallContext], AsyncIterator[str]] | None = None) -> Service:
    """A service with the names of the real one, over plain texts."""

    async def nothing(text: str, call: CallContext) -> AsyncIterator[str]:
        return
        yield

    def encode(text: str) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=text)

    return Service(
        name=NAME,
        methods={
            "Generate": unary(f"/{NAME}/Generate", pb.DetokenizeResponse, lambda m: m.text, handle, encode),
            "StreamGenerate": streaming(
                f"/{NAME}/StreamGenerate", pb.DetokenizeResponse, lambda m: m.text, events or nothing, encode
            ),
        },
    )


@asynccontextmanager
async def running(service: Service, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer(address="127.0.0.1:0", **options)
    server.add(service)
    channel = open_channel(await server.start())
    try:
        yield channel
    finally:
        await channel.close(None)
        await server.stop(grace_s=0)


async def call(channel: grpc.aio.Channel, data: bytes, **options: Any) -> bytes:
    method = channel.unary_unary(f"/{NAME}/Generate", request_serializer=None, response_deserializer=None)
    answer: bytes = await method(data, **options)
    return answer


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def test_a_port_in_use_is_named_with_a_remedy(taken_port: int) -> None:
    server = RpcServer(address=f"127.0.0.1:{taken_port}")
    with pytest.raises(EnvironmentProblem, match=str(taken_port)) as caught:
        await server.start()
    assert "another port" in caught.value.remedy


async def test_two_servers_cannot_share_a_port() -> None:
    """gRPC turns SO_REUSEPORT on by default, and then the second server takes half of the first one's connections."""
    first = RpcServer(address="127.0.0.1:0")
    address = await first.start()
    try:
        with pytest.raises(EnvironmentProblem):
            await RpcServer(address=address).start()
    finally:
        await first.stop(grace_s=0)


async def test_a_foreign_address_is_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem):
        await RpcServer(address="192.0.2.1:0", insecure=True).start()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_an_open_address_needs_protection(address: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        await RpcServer(address=address).start()


async def test_tls_without_authentication_is_not_protection() -> None:
    def never() -> Any:
        raise AssertionError("must be refused before files are read")

    with pytest.raises(ConfigError, match="--insecure"):
        await RpcServer(address="0.0.0.0:0", load_tls=never).start()


async def test_insecure_must_be_said() -> None:
    server = RpcServer(address="0.0.0.0:0", insecure=True)
    assert (await server.start()).startswith("0.0.0.0:")
    await server.stop(grace_s=0)


async def test_a_service_without_access_rules_is_not_served() -> None:
    server = RpcServer(address="127.0.0.1:0", access=AccessControl(rules={}))
    server.add(service_of(_echo))
    with pytest.raises(ConfigError, match="StreamGenerate"):
        await server.start()


async def test_health_follows_the_marks() -> None:
    server = RpcServer(address="127.0.0.1:0")
    server.add(service_of(_echo))
    channel = open_channel(await server.start())
    stub = health_pb2_grpc.HealthStub(channel)

    async def check(name: str) -> Any:
        return (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert [await check(""), await check(NAME)] == [not_serving, not_serving]
    await server.mark_serving(NAME)
    await server.mark_serving("pool/decode")
    assert [await check(""), await check(NAME), await check("pool/decode")] == [not_serving, serving, serving]
    await server.mark_not_serving(NAME)
    assert await check(NAME) == not_serving
    await channel.close(None)
    await server.stop(grace_s=0)


async def test_reflection_lists_the_services() -> None:
    async with running(service_of(_echo), with_reflection=True) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"], ids=["garbage", "cut", "bad UTF-8"])
async def test_bytes_that_are_no_message_are_a_bad_request(data: bytes) -> None:
    async with running(service_of(_echo)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, data)
    error = error_from_rpc(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.field == "request"
    assert len(error.metadata["request_id"]) == 32


async def test_too_large_a_message_is_refused() -> None:
    async with running(service_of(_echo), limits=ServerLimits(max_receive_bytes=1000)) as channel:
        assert await call(channel, pb.DetokenizeResponse(text="x" * 900).SerializeToString())
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, pb.DetokenizeResponse(text="x" * 1100).SerializeToString())
    assert isinstance(error_from_rpc(caught.value), InvalidArgument)


async def test_too_much_metadata_is_refused() -> None:
    async with running(service_of(_echo)) as channel:
        await call(channel, b"", metadata=(("x-small", "y" * 4000),), timeout=5)
        with pytest.raises(grpc.RpcError):
            await call(channel, b"", metadata=(("x-big", "y" * 40_000),), timeout=5)


async def test_a_handler_knows_its_call() -> None:
    seen: list[CallContext] = []

    async def remember(text: str, call: CallContext) -> str:
        seen.append(call)
        return text

    async with running(service_of(remember)) as channel:
        await call(channel, b"", timeout=10)
        await call(channel, b"", metadata=(("traceparent", "00-abc"), ("authorization", "Bearer x")))
    with_deadline, without = seen
    assert (with_deadline.method, with_deadline.tenant) == (f"/{NAME}/Generate", "local")
    assert with_deadline.deadline_left_s is not None
    assert 9 < with_deadline.deadline_left_s < 10
    assert (without.deadline_left_s, without.traceparent) == (None, "00-abc")
    assert with_deadline.request_id != without.request_id


async def test_a_handlers_deadline_error_arrives_before_the_callers_own() -> None:
    """The server keeps a part of the deadline for the answer, so the caller learns the stage."""

    async def slow(text: str, call: CallContext) -> str:
        await asyncio.sleep(call.deadline_left_s or 0)
        raise DeadlineExceeded("too late", stage="queue")

    async with running(service_of(slow)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, b"", timeout=1.0)
    error = error_from_rpc(caught.value)
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "queue"


@pytest.mark.parametrize("leaves", ["cancel", "deadline"])
async def test_a_caller_who_leaves_closes_the_stream(leaves: str) -> None:
    ended = asyncio.Event()

    async def endless(text: str, call: CallContext) -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with running(service_of(_echo, endless)) as channel:
        method = channel.unary_stream(f"/{NAME}/StreamGenerate", request_serializer=None, response_deserializer=None)
        stream = method(b"", timeout=0.3 if leaves == "deadline" else None)
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            async for _ in stream:
                if leaves == "cancel":
                    stream.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_caller_who_leaves_closes_a_stream_that_waits_for_its_reader() -> None:
    """The handler's iterator is closed, not left to the garbage collector, also when it is the write that waits."""
    kept: list[AsyncIterator[str]] = []
    ended = asyncio.Event()
    yielded = 0

    async def gush() -> AsyncIterator[str]:
        nonlocal yielded
        try:
            while True:
                yield "x" * 10_000
                yielded += 1
        finally:
            ended.set()

    def keep(text: str, call: CallContext) -> AsyncIterator[str]:
        kept.append(gush())
        return kept[0]

    async with running(service_of(_echo, keep)) as channel:
        method = channel.unary_stream(f"/{NAME}/StreamGenerate", request_serializer=None, response_deserializer=None)
        stream = method(b"")
        await stream.read()
        before = -1
        async with asyncio.timeout(10):  # ends when the reader who does not read holds the writer back
            while before != yielded:
                before = yielded
                await asyncio.sleep(0.3)
        stream.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_an_error_after_output_ends_the_stream_with_its_status() -> None:
    async def breaks(text: str, call: CallContext) -> AsyncIterator[str]:
        yield "one"
        raise InvalidArgument("n", "is 9")

    async with running(service_of(_echo, breaks)) as channel:
        method = channel.unary_stream(f"/{NAME}/StreamGenerate", request_serializer=None, response_deserializer=None)
        seen = []
        with pytest.raises(grpc.RpcError) as caught:
            async for data in method(b""):
                seen.append(pb.DetokenizeResponse.FromString(data).text)
    assert seen == ["one"]
    assert isinstance(error_from_rpc(caught.value), InvalidArgument)


async def test_an_unknown_method_is_unimplemented() -> None:
    async with running(service_of(_echo)) as channel:
        method = channel.unary_unary(f"/{NAME}/Nothing", request_serializer=None, response_deserializer=None)
        with pytest.raises(grpc.RpcError) as caught:
            await method(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
