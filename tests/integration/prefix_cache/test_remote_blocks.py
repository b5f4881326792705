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
from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.breaker import BreakerPolicy, BreakerState
from tandem.prefix_cache.remote.envelope import BlockEnvelope, Refusal
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.reservations import Candidate, Reservation, SharedReservations
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


def candidate(number: int, *, base_s: float = 0.1, queued_s: float = 0.0, load_s: float = 1.0) -> Candidate:
    name = WorkerId(f"prefill-{number}")
    return Candidate(worker_id=name, epoch=Epoch(1), base_s=base_s, queued_s=queued_s, load_s=load_s)


@asynccontextmanager
async def reserving(url: str, *, num_routers: int = 2, ttl_s: float = 5.0) -> AsyncIterator[list[SharedReservations]]:
    gates = [RedisGate(url, policy=POLICY, clock=MonotonicClock()) for _ in range(num_routers)]
    try:
        yield [SharedReservations(gate, namespace="t", ttl_s=ttl_s) for gate in gates]
    finally:
        for gate in gates:
            await gate.close()


def reservation(name: str, chosen: Candidate | Miss) -> Reservation:
    assert isinstance(chosen, Candidate), chosen
    return Reservation(name=name, worker_id=chosen.worker_id, epoch=chosen.epoch)


async def test_two_routers_spread_over_the_workers(server: RedisServer) -> None:
    """Both see the same idle workers; the shared reservations keep them from picking the same one."""
    candidates = [candidate(n, base_s=0.1 + 0.001 * n) for n in range(4)]
    async with reserving(server.url) as routers:
        chosen = []
        for number in range(8):
            best = await routers[number % 2].select(f"r{number}", candidates)
            assert isinstance(best, Candidate)
            chosen.append(best)
        assert sorted(one.worker_id for one in chosen) == sorted(f"prefill-{n}" for n in (0, 1, 2, 3) * 2)
        held = [reservation("r0", chosen[0]), reservation("r1", chosen[1]), reservation("r0", chosen[1])]
        assert await routers[0].release(held) == 2
        assert await routers[0].release(held) == 0
        again = [await routers[1].select(f"again{n}", candidates) for n in range(2)]
        assert again == chosen[:2]


async def test_own_work_and_the_reservations_of_it_count_once(server: RedisServer) -> None:
    """A router's own 1 s on prefill-0 is reserved there as well: 1.3 s of others' work on prefill-1 is more."""
    async with reserving(server.url) as (own, other):
        assert await own.select("a", [candidate(0)]) == candidate(0)
        assert await other.select("b", [candidate(1, load_s=1.3)]) == candidate(1, load_s=1.3)
        seen = [candidate(0, queued_s=1.0), candidate(1, queued_s=0.0)]
        assert await own.select("c", seen) == seen[0], "not 1.0 + 1.0 s"
        reported = [candidate(0, queued_s=9.0), candidate(1)]
        assert await own.select("d", reported) == reported[1], "what its worker reports counts where it is more"


async def test_loads_are_those_of_the_chosen_worker(server: RedisServer) -> None:
    async with reserving(server.url) as (own, other):
        cached, idle = candidate(0, base_s=0.1, load_s=0.1), candidate(1, base_s=0.9, load_s=0.9)
        answers = [await router.select(f"r{n}", [cached, idle]) for n, router in enumerate((own, other) * 5)]
        assert answers[:8] == [cached] * 8, "eight times 0.1 s of work there is less than 0.8 s more to compute here"
        assert idle in answers


async def test_reservations_that_nobody_waits_for_any_more_are_taken_back(server: RedisServer) -> None:
    """The server answers after its caller has gone, on a connection that is patient enough to hear it."""
    policy = GatePolicy(timeout_s=2.0, breaker=POLICY.breaker)
    gate = RedisGate(server.url, policy=policy, clock=MonotonicClock())
    shared = SharedReservations(gate, namespace="t")
    assert await shared.select("first", [candidate(0)]) == candidate(0)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await shared.select("late", [candidate(0)])
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await gate.close(timeout_s=2.0)
    assert server.admin().hkeys("{t:reserved:}prefill-0:1:loads") == [b"first"]


async def test_reservations_end_by_themselves(server: RedisServer) -> None:
    async with reserving(server.url, num_routers=1, ttl_s=0.2) as (shared,):
        candidates = [candidate(n, base_s=0.03 * n, load_s=0.04) for n in range(2)]
        for name in ("a", "b"):
            assert await shared.select(name, candidates[:1]) == candidates[0]
        assert await shared.select("c", candidates) == candidates[1]
        await asyncio.sleep(0.3)
        assert await shared.select("d", candidates) == candidates[0], "its first two are over; its keys are there"
        await asyncio.sleep(0.6)
    assert server.admin().keys("*") == []  # nothing stays


async def test_a_load_whose_end_was_evicted_does_not_count_for_ever(server: RedisServer) -> None:
    """A full Redis may evict one of the two keys, and nobody releases what a router that died had reserved."""
    async with reserving(server.url, num_routers=1) as (shared,):
        candidates = [candidate(0), candidate(1, base_s=0.5)]
        assert await shared.select("orphan", candidates) == candidates[0]
        assert server.admin().delete("{t:reserved:}prefill-0:1:ends") == 1
        assert await shared.select("next", candidates) == candidates[0], "nothing says that it has not ended"
        assert server.admin().hkeys("{t:reserved:}prefill-0:1:loads") == [b"next"]


async def test_a_long_reservation_is_not_cut_short_by_a_brief_one(server: RedisServer) -> None:
    async with reserving(server.url, num_routers=1, ttl_s=0.2) as (shared,):
        assert await shared.select("long", [candidate(0, load_s=1.0)]) == candidate(0, load_s=1.0)
        await shared.select("brief", [candidate(0, load_s=0.01)])
        await asyncio.sleep(0.5)
        candidates = [candidate(0, base_s=0.0), candidate(1, base_s=0.5)]
        assert await shared.select("other", candidates) == candidates[1]
