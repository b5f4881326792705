"""Every fault of the proxy on plain streams does what it says, and says when it did not."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.proxy import ProxyThread, TcpProxy
from tandem.chaos.faults.stream_faults import Blackhole, Cut, Delay, FlipByte, RateLimit, Stall, StreamFault

UP, DOWN = Direction.TO_SERVER, Direction.TO_CLIENT


class EchoServer:
    """Sends back what comes."""

    def __init__(self) -> None:
        self.address = ""
        self.num_open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "127.0.0.1:" + str(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.num_open -= 1
            writer.close()


class Caller:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, address: str) -> "Caller":
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, data: bytes, *, num_bytes: int | None = None, timeout_s: float = 5.0) -> bytes:
        """Send; return what comes back."""
        self.writer.write(data)
        async with asyncio.timeout(timeout_s):
            return await self.reader.readexactly(len(data) if num_bytes is None else num_bytes)

    def close(self) -> None:
        self.writer.close()


async def ask_in_vain(proxy: TcpProxy) -> None:
    """A reset may come while the connection is made, or after."""
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        caller = await Caller.dial(proxy.address)
        try:
            await caller.ask(b"anybody?")
        finally:
            caller.close()


@pytest.fixture
def thread() -> Iterator[ProxyThread]:
    with ProxyThread() as thread:
        yield thread


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def proxy(thread: ProxyThread, server: EchoServer) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(thread, target=server.address)
    yield proxy
    proxy.close()


@pytest.fixture
async def caller(proxy: TcpProxy) -> AsyncIterator[Caller]:
    caller = await Caller.dial(proxy.address)
    yield caller
    caller.close()


async def test_without_a_fault_everything_passes_both_ways(proxy: TcpProxy, caller: Caller, server: EchoServer) -> None:
    data = bytes(range(256)) * 4000
    assert await caller.ask(data) == data
    assert (proxy.num_accepted, proxy.num_open()) == (1, 1)
    assert proxy.num_bytes(UP) == proxy.num_bytes(DOWN) == len(data)
    caller.writer.write_eof()
    assert await caller.reader.read() == b""  # the end comes through as well
    async with asyncio.timeout(5.0):
        while server.num_open or proxy.num_open():
            await asyncio.sleep(0.01)


async def test_a_fault_nobody_passes_did_not_take_effect(thread: ProxyThread, server: EchoServer) -> None:
    """The control: every kind of fault, armed on a proxy that nobody uses."""
    proxy = TcpProxy(thread, target=server.address)
    faults: list[StreamFault] = [
        Delay(UP, seconds=0.1),
        RateLimit(UP, bytes_per_s=1.0),
        Stall(UP),
        Blackhole(UP),
        Cut(UP),
        Cut(UP, how="reset"),
        FlipByte(UP, at=0),
    ]
    for fault in faults:
        proxy.add(fault)
    direct = await Caller.dial(server.address)
    assert await direct.ask(b"past it") == b"past it"
    direct.close()
    assert [fault.verify().took_effect for fault in faults] == [False] * len(faults)
    proxy.close()


async def test_delay(proxy: TcpProxy, caller: Caller) -> None:
    await caller.ask(b"warm")
    fault = Delay(DOWN, seconds=0.15)
    proxy.add(fault)
    began_s = time.monotonic()
    assert await caller.ask(b"late") == b"late"
    assert 0.15 <= time.monotonic() - began_s < 2.0
    assert fault.verify().took_effect
    proxy.remove(fault)
    began_s = time.monotonic()
    await caller.ask(b"soon")
    assert time.monotonic() - began_s < 0.15


async def test_rate_limit(proxy: TcpProxy, caller: Caller) -> None:
    fault = RateLimit(UP, bytes_per_s=200_000.0)
    proxy.add(fault)
    data = bytes(60_000)
    began_s = time.monotonic()
    assert await caller.ask(data) == data
    assert 0.28 <= time.monotonic() - began_s < 3.0
    assert fault.verify().took_effect


async def test_stall_and_release(proxy: TcpProxy, caller: Caller, thread: ProxyThread) -> None:
    fault = Stall(UP, after_bytes=3)
    proxy.add(fault)
    assert await caller.ask(b"abcdef", num_bytes=3) == b"abc"
    with pytest.raises(TimeoutError):
        await caller.ask(b"ghi", num_bytes=1, timeout_s=0.1)
    assert fault.verify().took_effect
    fault.release(thread)
    assert await caller.ask(b"", num_bytes=6) == b"defghi"


async def test_blackhole_is_one_way(proxy: TcpProxy, caller: Caller) -> None:
    fault = Blackhole(DOWN)
    proxy.add(fault)
    with pytest.raises(TimeoutError):
        await caller.ask(b"lost", timeout_s=0.1)
    assert proxy.num_bytes(UP) == 4, "the other direction works"
    proxy.remove(fault)
    assert await caller.ask(b"there") == b"there"
    assert fault.verify().took_effect


@pytest.mark.parametrize("num_bytes", [1, 1000, 100_000])
async def test_cut_after_exactly_so_many_bytes(proxy: TcpProxy, caller: Caller, num_bytes: int) -> None:
    fault = Cut(DOWN, after_bytes=num_bytes)
    proxy.add(fault)
    caller.writer.write(bytes(200_000))
    got = b""
    async with asyncio.timeout(5.0):
        try:
            while data := await caller.reader.read(65536):
                got += data
        except OSError:
            pass  # the rest of what was sent was refused
    assert len(got) == num_bytes
    assert fault.verify().took_effect
    again = await Caller.dial(proxy.address)
    assert await again.ask(bytes(200_000)) == bytes(200_000), "once, and spent"
    again.close()


async def test_reset_at_once(proxy: TcpProxy, caller: Caller, server: EchoServer) -> None:
    await caller.ask(b"stands")
    fault = Cut(UP, how="reset", times=None)
    proxy.add(fault)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await caller.ask(b"", num_bytes=1)
    await ask_in_vain(proxy)
    assert fault.num_cut == 2
    assert fault.verify().took_effect
    async with asyncio.timeout(5.0):
        while server.num_open:
            await asyncio.sleep(0.01)


async def test_flip_one_byte(proxy: TcpProxy, caller: Caller) -> None:
    fault = FlipByte(UP, at=70_000)
    proxy.add(fault)
    assert await caller.ask(bytes(70_000)) == bytes(70_000)
    assert not fault.verify().took_effect
    assert await caller.ask(b"abc") == bytes([ord("a") ^ 0x10]) + b"bc"
    assert fault.verify().took_effect
    assert await caller.ask(b"abc") == b"abc"


async def test_a_server_that_is_not_there(thread: ProxyThread, server: EchoServer) -> None:
    proxy = TcpProxy(thread, target="127.0.0.1:1")
    await ask_in_vain(proxy)
    proxy.retarget(server.address)
    caller = await Caller.dial(proxy.address)
    assert await caller.ask(b"now") == b"now"
    caller.close()
    proxy.close()
