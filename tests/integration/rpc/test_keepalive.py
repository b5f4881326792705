"""A peer that is gone without a word is noticed by both ends, in the time that the keepalive says.

Through a relay that stops passing bytes on while both connections stand: no FIN, no reset. The times are a tenth of the
product's; the options are the product's own.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tandem.rpc import channels
from tandem.rpc.channels import INTERNAL_LIMITS, client_options, server_options

PATH = "/test.Echo/Count"
TIME_MS, TIMEOUT_MS = 1_000, 600


@pytest.fixture(autouse=True)
def _a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "KEEPALIVE_TIME_MS", TIME_MS)
    monkeypatch.setattr(channels, "KEEPALIVE_TIMEOUT_MS", TIMEOUT_MS)


class Relay:
    """Passes bytes on both ways until it is told to swallow them."""

    def __init__(self, port: int) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for one in (self._pass_on(reader, far_writer), self._pass_on(far_reader, writer)):
            self._tasks.add(asyncio.create_task(one))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("pause_s", [0.02, 60.0])
async def test_both_ends_notice_a_peer_that_is_gone_without_a_word(pause_s: float) -> None:
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def count(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            while True:
                await context.write(b"x" * 50)
                await asyncio.sleep(pause_s)
        finally:
            ended.set_result(time.monotonic())

    handler = grpc.stream_stream_rpc_method_handler(count)
    server = grpc.aio.server(options=server_options(INTERNAL_LIMITS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Count": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    relay = Relay(port)
    try:
        async with (
            relay.serve() as relay_port,
            grpc.aio.insecure_channel(f"127.0.0.1:{relay_port}", options=client_options()) as channel,
        ):
            call = channel.stream_stream(PATH, None, None)(None)
            assert await call.read() == b"x" * 50
            relay.passes.clear()
            gone_s = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(10.0):
                    while True:
                        await call.read()
            client_s = time.monotonic() - gone_s
            async with asyncio.timeout(10.0):
                server_s = await ended - gone_s
            relay.passes.set()
    finally:
        await server.stop(0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    bound_s = (TIME_MS + TIMEOUT_MS) / 1e3 + 1.5
    assert client_s < bound_s
    assert server_s < bound_s, "a caller that is gone keeps its decode slot"
