"""Clients that mean no good: streams opened and reset in crowds, half-open connections, bombs. The others go on."""

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import psutil
import pytest

from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.addresses import split_address
from tandem.rpc.channels import ServerLimits, open_channel
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.serving import Service, streaming, unary

NAME = "tandem.inference.v1.InferenceService"


class Waiting:
    """Waits for ever, and counts who waits."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.num_open = 0

    async def stream(self, text: str, call: CallContext) -> AsyncIterator[str]:
        self.num_begun += 1
        self.num_open += 1
        try:
            yield "first"
            await asyncio.sleep(3600)
        finally:
            self.num_open -= 1

    async def unary(self, text: str, call: CallContext) -> str:
        return text

    async def until_none_is_open(self) -> None:
        async with asyncio.timeout(20):
            while self.num_open:
                await asyncio.sleep(0.02)


@pytest.fixture
async def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
async def address(waiting: Waiting) -> AsyncIterator[str]:
    def encode(text: str) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=text)

    wire = pb.DetokenizeResponse
    service = Service(
        name=NAME,
        methods={
            "Generate": unary(f"/{NAME}/Generate", wire, lambda m: m.text, waiting.unary, encode),
            "StreamGenerate": streaming(f"/{NAME}/StreamGenerate", wire, lambda m: m.text, waiting.stream, encode),
        },
    )
    server = RpcServer(address="127.0.0.1:0", limits=ServerLimits(max_concurrent_streams=64, max_concurrent_calls=200))
    server.add(service)
    yield await server.start()
    await server.stop(grace_s=0)


async def _answers(channel: grpc.aio.Channel) -> bool:
    method = channel.unary_unary(f"/{NAME}/Generate", request_serializer=None, response_deserializer=None)
    return bool(await method(pb.DetokenizeResponse(text="x").SerializeToString(), timeout=5))


def _open_stream(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    method = channel.unary_stream(f"/{NAME}/StreamGenerate", request_serializer=None, response_deserializer=None)
    call: grpc.aio.UnaryStreamCall[bytes, bytes] = method(b"")
    return call


async def test_streams_reset_in_crowds_leave_nothing_behind(waiting: Waiting, address: str) -> None:
    channel, other = open_channel(address), open_channel(address)
    begin_bytes = psutil.Process().memory_info().rss
    for _round in range(20):
        calls = [_open_stream(channel) for _ in range(60)]
        if _round % 2:
            await calls[0].read()
        for call in calls:
            call.cancel()
        assert await _answers(other)
    await waiting.until_none_is_open()
    assert psutil.Process().memory_info().rss - begin_bytes < 50 * 1024 * 1024
    for each in (channel, other):
        await each.close(None)


async def test_one_connection_cannot_take_every_stream(waiting: Waiting, address: str) -> None:
    greedy, other = open_channel(address), open_channel(address)
    calls = [_open_stream(greedy) for _ in range(100)]
    # Which 64 of the 100 come first is gRPC's choice.
    async with asyncio.timeout(20):
        while waiting.num_open < 64:
            await asyncio.sleep(0.02)
    assert await _answers(other)
    assert (waiting.num_open, waiting.num_begun, len(calls)) == (64, 64, 100)
    await greedy.close(None)
    await other.close(None)
    await waiting.until_none_is_open()


async def test_calls_over_the_servers_limit_are_shed_at_once(waiting: Waiting, address: str) -> None:
    channels = [open_channel(address) for _ in range(5)]
    calls = [_open_stream(channel) for channel in channels for _ in range(60)]
    outcomes = await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
    shed = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
    assert len(shed) == 100
    assert {error.code() for error in shed} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for channel in channels:
        await channel.close(None)
    await waiting.until_none_is_open()


async def test_a_vanished_connection_ends_its_streams(waiting: Waiting, address: str) -> None:
    channel = open_channel(address)
    calls = [_open_stream(channel) for _ in range(10)]
    await asyncio.gather(*(call.read() for call in calls))
    assert waiting.num_open == 10
    await channel.close(None)
    await waiting.until_none_is_open()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" * 1000,
        b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR." * 100,
        bytes(range(256)) * 256,
    ],
    ids=["silence", "HTTP/1", "preface", "window updates", "pickle", "noise"],
)
async def test_what_is_not_grpc_disturbs_nobody(address: str, sent: bytes) -> None:
    host, port = split_address(address)
    strangers = [socket.create_connection((host, port)) for _ in range(20)]
    for stranger in strangers:
        stranger.sendall(sent)
    channel = open_channel(address)
    assert await _answers(channel)
    await channel.close(None)
    for stranger in strangers:
        stranger.close()
