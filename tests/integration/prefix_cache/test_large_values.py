"""Large blocks in Redis are waited for in proportion to their size; what carries none keeps the short bound."""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from tandem.core.clock import MonotonicClock
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.breaker import BreakerPolicy, BreakerState
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tests.fakes.redis_server import RedisServer, redis_server

BLOCK_BYTES = 737_280  # 16 tokens, 30 layers, 3 heads of 64, float32
LAYOUT = hashlib.sha256(b"layout").hexdigest()
SLOW = GatePolicy(timeout_s=0.1, slowest_bytes_per_s=2e6, max_timeout_s=3.0, breaker=BreakerPolicy(max_failures=3))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server("valkey") as running:
        yield running


@asynccontextmanager
async def gate_to(url: str, policy: GatePolicy) -> AsyncIterator[RedisGate]:
    gate = RedisGate(url, policy=policy, clock=MonotonicClock())
    try:
        yield gate
    finally:
        await gate.close()


def over(gate: RedisGate) -> RemoteBlocks:
    return RemoteBlocks(gate, BlockEnvelope(b"s" * 32, layout_fingerprint=LAYOUT), namespace="t", ttl_s=60.0)


@asynccontextmanager
async def slow_link(port: int, bytes_per_s: float) -> AsyncIterator[str]:
    """A link to the server that carries so many bytes a second each way; yields a URL."""
    links: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(32_768):
                await asyncio.sleep(len(data) / bytes_per_s)
                writer.write(data)
                await writer.drain()

    async def carry(near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection("127.0.0.1", port)
        pumps = [asyncio.create_task(pump(near, far_writer)), asyncio.create_task(pump(far, near_writer))]
        try:
            await asyncio.gather(*pumps)
        finally:
            for each in pumps:
                each.cancel()
            for writer in (near_writer, far_writer):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links.add(asyncio.create_task(carry(reader, writer)))

    front = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{front.sockets[0].getsockname()[1]}/0"
    finally:
        front.close()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)


def test_the_bound_grows_with_the_bytes_and_ends() -> None:
    policy = GatePolicy(timeout_s=0.02, slowest_bytes_per_s=1e6, max_timeout_s=1.0)
    assert policy.bound_s(0) == 0.02
    assert policy.bound_s(100_000) == pytest.approx(0.12)
    assert policy.bound_s(10**9) == 1.0
    assert GatePolicy(timeout_s=2.0, max_timeout_s=1.0).bound_s(10**9) == 2.0, "never below that of a look-up"


async def test_large_blocks_go_over_a_link_on_which_they_take_longer_than_a_look_up_may(server: RedisServer) -> None:
    keys = [BlockKey(hashlib.sha256(bytes([number])).digest()) for number in range(4)]
    payloads = {key: random.Random(number).randbytes(BLOCK_BYTES) for number, key in enumerate(keys)}
    async with slow_link(server.port, 15e6) as url, gate_to(url, SLOW) as gate:
        blocks = over(gate)
        assert await blocks.put(payloads) == len(keys)  # 3 MB at 15 MB/s: 0.2 s
        began_s = time.monotonic()
        found = await blocks.get(keys, num_bytes=len(keys) * BLOCK_BYTES)
        assert not isinstance(found, Miss)
        assert [bytes(block) for block in found] == list(payloads.values())
        assert time.monotonic() - began_s > SLOW.timeout_s, "a look-up would have given up"
        assert gate.state(CallKind.READ) is BreakerState.CLOSED
        assert gate.state(CallKind.WRITE) is BreakerState.CLOSED


async def test_a_call_that_says_nothing_of_its_size_keeps_the_short_bound(server: RedisServer) -> None:
    name = BlockKey(hashlib.sha256(b"x").digest())
    async with slow_link(server.port, 4e6) as url, gate_to(url, SLOW) as gate:
        blocks = over(gate)
        assert await blocks.put({name: bytes(BLOCK_BYTES)}) == 1
        began_s = time.monotonic()
        assert isinstance(await blocks.get([name]), Miss)  # 0.18 s at this pace
        assert time.monotonic() - began_s < 1.5 * SLOW.timeout_s


async def test_look_ups_do_not_wait_for_a_block_on_its_way(server: RedisServer) -> None:
    name = BlockKey(hashlib.sha256(b"x").digest())
    async with slow_link(server.port, 4e6) as url, gate_to(url, SLOW) as gate:
        blocks = over(gate)
        await blocks.num_held([name])
        storing = asyncio.create_task(blocks.put({name: bytes(BLOCK_BYTES)}))
        await asyncio.sleep(0.01)
        began_s = time.monotonic()
        assert await blocks.num_held([name]) == 0
        assert time.monotonic() - began_s < SLOW.timeout_s
        assert not storing.done()
        assert await storing == 1


async def test_a_server_that_hangs_opens_the_breaker_at_the_callers_bound(server: RedisServer) -> None:
    policy = GatePolicy(
        timeout_s=0.05, slowest_bytes_per_s=1e7, max_timeout_s=20.0, breaker=BreakerPolicy(max_failures=2)
    )

    async def ping(client: redis.asyncio.Redis) -> int:
        return int(await client.dbsize())

    async with gate_to(server.url, policy) as gate:
        assert await gate.call(CallKind.READ, ping, num_bytes=1) == 0
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                began_s = time.monotonic()
                assert isinstance(await gate.call(CallKind.READ, ping, num_bytes=100_000), Miss)
                assert time.monotonic() - began_s < 1.0
            assert gate.state(CallKind.READ) is BreakerState.OPEN
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
