"""The Redis tier against real servers: healthy, down, hung, slow, flushed, full, read-only, locked, and lied to."""

import asyncio
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
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.breaker import BreakerPolicy, BreakerState
from tandem.prefix_cache.remote.envelope import BlockEnvelope, Refusal
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.reservations import Candidate, SharedReservations
from tests.fakes.redis_server import RedisServer, binaries, redis_server

LAYOUT = hashlib.sha256(b"layout").hexdigest()
SECRET = b"s" * 32
POLICY = GatePolicy(timeout_s=0.25, breaker=BreakerPolicy(max_failures=3, open_s=0.3))  # patient with a busy machine


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    if request.param not in binaries():
        pytest.skip(f"no {request.param}-server is installed")
    with redis_server(request.param) as running:
        yield running


def key(number: int) -> BlockKey:
    return BlockKey(hashlib.sha256(number.to_bytes(4, "big")).digest())


def payload(number: int) -> bytes:
    return random.Random(number).randbytes(512)


@asynccontextmanager
async def tier(url: str, policy: GatePolicy = POLICY, secret: bytes = SECRET) -> AsyncIterator[RemoteBlocks]:
    gate = RedisGate(url, policy=policy, clock=MonotonicClock())
    try:
        yield RemoteBlocks(gate, BlockEnvelope(secret, layout_fingerprint=LAYOUT), namespace="t", ttl_s=60.0)
    finally:
        await gate.close()


def gate_of(blocks: RemoteBlocks) -> RedisGate:
    return blocks._gate


async def until_open(blocks: RemoteBlocks, kind: CallKind) -> None:
    """Call until the breaker opens."""
    for _ in range(20):
        if gate_of(blocks).state(kind) is BreakerState.OPEN:
            return
        await (blocks.get([key(1)]) if kind is CallKind.READ else blocks.put({key(1): b"x"}))
        await asyncio.sleep(0.01)
    raise AssertionError("the breaker does not open")


async def until_back(blocks: RemoteBlocks, kind: CallKind, *, within_s: float = 5.0) -> None:
    """Call until it works again."""
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        answer = await (blocks.get([key(1)]) if kind is CallKind.READ else blocks.put({key(1): payload(1)}))
        if not isinstance(answer, Miss):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not back in time")


async def test_what_is_put_is_got(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        assert await blocks.put({key(n): payload(n) for n in range(4)}) == 4
        assert await blocks.num_held([key(n) for n in range(6)]) == 4
        got = await blocks.get([key(0), key(1), key(9), key(2)])
        assert not isinstance(got, Miss)
        assert [bytes(block) for block in got] == [payload(0), payload(1)]  # the run ends at the first that is missing
        assert await blocks.drop([key(0), key(9)]) == 1
        assert await blocks.num_held([key(0)]) == 0
        assert await blocks.get([]) == []
    assert server.admin().pttl(b"t:kv:" + key(1)) > 0


async def test_down_costs_little_and_then_nothing(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        await blocks.put({key(1): payload(1)})
        server.process.kill()
        server.process.wait(timeout=10.0)
        assert isinstance(await blocks.get([key(1)]), Miss)
        await until_open(blocks, CallKind.READ)
        began_s = time.monotonic()
        for _ in range(100):
            assert await blocks.get([key(1)]) is Miss.OPEN
        assert time.monotonic() - began_s < POLICY.timeout_s


async def test_hung_is_late_and_then_left_alone(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        await blocks.put({key(1): payload(1)})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            assert isinstance(await blocks.get([key(1)]), Miss)
            assert time.monotonic() - began_s < 3 * POLICY.timeout_s
            await until_open(blocks, CallKind.READ)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await until_back(blocks, CallKind.READ)
        got = await blocks.get([key(1)])
        assert not isinstance(got, Miss)
        assert bytes(got[0]) == payload(1)


async def test_flushed_is_a_miss(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        await blocks.put({key(1): payload(1)})
        server.admin().flushall()
        assert await blocks.get([key(1)]) == []


async def test_full_drops_writes_and_goes_on_reading(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        await blocks.put({key(1): payload(1)})
        server.admin().config_set("maxmemory-policy", "noeviction")
        server.admin().config_set("maxmemory", "1kb")
        assert await blocks.put({key(2): payload(2)}) is Miss.FULL
        await until_open(blocks, CallKind.WRITE)
        got = await blocks.get([key(1)])
        assert not isinstance(got, Miss)
        assert len(got) == 1


async def test_read_only_after_a_failover_is_overcome(server: RedisServer) -> None:
    async with tier(server.url) as blocks:
        await blocks.put({key(1): payload(1)})
        server.admin().replicaof("127.0.0.1", "1")
        assert await blocks.put({key(2): payload(2)}) is Miss.READ_ONLY
        server.admin().replicaof("NO", "ONE")
        await until_back(blocks, CallKind.WRITE)


async def test_a_wrong_password_is_a_miss(server: RedisServer) -> None:
    server.admin().config_set("requirepass", "right")
    async with tier(server.url.replace("redis://", "redis://:wrong@")) as blocks:
        assert isinstance(await blocks.get([key(1)]), Miss)
        assert gate_of(blocks).counts[Miss.REFUSED] >= 1
    async with tier(server.url.replace("redis://", "redis://:right@")) as blocks:
        assert await blocks.put({key(1): payload(1)}) == 1


async def test_forged_and_misplaced_values_are_misses(server: RedisServer) -> None:
    async with tier(server.url) as blocks, tier(server.url, secret=b"x" * 32) as foreign:
        await blocks.put({key(n): payload(n) for n in range(3)})
        await foreign.put({key(1): payload(1)})  # somebody else's seal under our name
        admin, draw = server.admin(), random.Random(7)
        assert await blocks.get([key(1)]) == []
        assert blocks.refused[Refusal.FORGED] == 1
        genuine = admin.get(b"t:kv:" + key(0))
        assert isinstance(genuine, bytes)
        admin.set(b"t:kv:" + key(5), genuine)
        assert await blocks.get([key(5)]) == []
        assert blocks.refused[Refusal.OTHER_KEY] == 1
        for _ in range(50):
            changed = bytearray(genuine)
            changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
            admin.set(b"t:kv:" + key(0), bytes(changed))
            assert await blocks.get([key(0)]) == []
        assert sum(blocks.refused.values()) == 52


async def test_cancelled_calls_never_mix_up_replies(server: RedisServer) -> None:
    """A reply left on a connection would be taken for the next caller's: other people's data."""
    async with tier(server.url) as blocks:
        await blocks.put({key(n): payload(n) for n in range(20)})
        draw = random.Random(1)

        async def ask(number: int) -> None:
            got = await blocks.get([key(number)])
            if not isinstance(got, Miss):
                assert bytes(got[0]) == payload(number)

        for _ in range(300):
            task = asyncio.create_task(ask(draw.randrange(20)))
            if draw.random() < 0.6:
                await asyncio.sleep(draw.random() * 0.001)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if task.done() and not task.cancelled():
                task.result()
        assert not blocks.refused


async def test_calls_in_flight_are_bounded(server: RedisServer) -> None:
    async with tier(server.url, GatePolicy(timeout_s=0.3, max_in_flight=4)) as blocks:
        await blocks.get([key(1)])
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(blocks.get([key(1)]) for _ in range(20)))
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert sum(answer is Miss.BUSY for answer in answers) >= 16


async def test_an_operation_that_raises_does_not_hold_the_breaker(server: RedisServer) -> None:
    gate = RedisGate(
        server.url,
        policy=GatePolicy(timeout_s=0.5, breaker=BreakerPolicy(max_failures=1, open_s=0.05)),
        clock=MonotonicClock(),
    )

    async def broken(client: redis.asyncio.Redis) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await gate.call(CallKind.READ, broken)
    assert gate.state(CallKind.READ) is BreakerState.OPEN
    await asyncio.sleep(0.1)
    assert gate.state(CallKind.READ) is BreakerState.HALF_OPEN

    async def good(client: redis.asyncio.Redis) -> int:
        return 1

    assert await gate.call(CallKind.READ, good) is Miss.OPEN, "it tries, and its caller does not wait"
    await asyncio.sleep(0.02)
    assert await gate.call(CallKind.READ, good) == 1
    await gate.close()


async def test_nobody_waits_for_the_call_that_tries_again(server: RedisServer) -> None:
    policy = GatePolicy(timeout_s=0.25, breaker=BreakerPolicy(max_failures=2, open_s=0.1))
    async with tier(server.url, policy) as blocks:
        await blocks.put({key(1): payload(1)})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            await until_open(blocks, CallKind.READ)
            num_late = gate_of(blocks).counts[Miss.UNREACHABLE] + gate_of(blocks).counts[Miss.LATE]
            began_s, longest_s = time.monotonic(), 0.0
            while time.monotonic() < began_s + 1.0:
                asked_s = time.monotonic()
                assert await blocks.get([key(1)]) is Miss.OPEN
                longest_s = max(longest_s, time.monotonic() - asked_s)
                await asyncio.sleep(0.005)
            assert longest_s < policy.timeout_s / 2
            tried = gate_of(blocks).counts[Miss.UNREACHABLE] + gate_of(blocks).counts[Miss.LATE] - num_late
            assert tried >= 1, "it tried again all the while"
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await until_back(blocks, CallKind.READ)


async def test_two_routers_spread_over_the_workers(server: RedisServer) -> None:
    """Both see the same idle workers; the shared reservations keep them from picking the same one."""
    candidates = [
        Candidate(worker_id=WorkerId(f"prefill-{n}"), epoch=Epoch(1), cost_s=0.1 + 0.001 * n) for n in range(4)
    ]
    gates = [RedisGate(server.url, policy=POLICY, clock=MonotonicClock()) for _ in range(2)]
    routers = [SharedReservations(gate, namespace="t", ttl_s=5.0) for gate in gates]
    chosen = []
    for number in range(8):
        best = await routers[number % 2].select(RequestId(f"r{number}"), 1.0, candidates)
        assert isinstance(best, Candidate)
        chosen.append(best.worker_id)
    assert sorted(chosen) == sorted(f"prefill-{n}" for n in (0, 1, 2, 3) * 2)
    assert await routers[0].release(RequestId("r0"), WorkerId(chosen[0]), Epoch(1)) is True
    assert await routers[0].release(RequestId("r0"), WorkerId(chosen[0]), Epoch(1)) is False
    best = await routers[1].select(RequestId("r9"), 1.0, candidates)
    assert isinstance(best, Candidate)
    assert best.worker_id == chosen[0]
    for gate in gates:
        await gate.close()


async def test_reservations_end_by_themselves(server: RedisServer) -> None:
    gate = RedisGate(server.url, policy=POLICY, clock=MonotonicClock())
    shared = SharedReservations(gate, namespace="t", ttl_s=0.2)
    candidates = [Candidate(worker_id=WorkerId(f"p{n}"), epoch=Epoch(1), cost_s=0.01 * n) for n in range(2)]
    first = await shared.select(RequestId("a"), 1.0, candidates)
    second = await shared.select(RequestId("b"), 1.0, candidates)
    assert (first, second) == (candidates[0], candidates[1])
    await asyncio.sleep(0.3)
    assert await shared.select(RequestId("c"), 1.0, candidates) == candidates[0]
    await asyncio.sleep(0.6)
    await gate.close()
    assert server.admin().keys("*") == []  # nothing stays
