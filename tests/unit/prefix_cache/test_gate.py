"""The gate's own rules, on operations that touch no server: how many may run, and who may end them."""

import asyncio

import pytest
import redis.asyncio

from tandem.core.clock import MonotonicClock
from tandem.prefix_cache.remote.breaker import BreakerPolicy, BreakerState
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate


def gate_of(*, max_in_flight: int = 2, timeout_s: float = 0.02, max_failures: int = 100) -> RedisGate:
    policy = GatePolicy(
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
        breaker=BreakerPolicy(max_failures=max_failures, open_s=60.0),
    )
    return RedisGate("redis://127.0.0.1:1", policy=policy, clock=MonotonicClock())


class Slow:
    """An operation that answers when it is told to."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.num_begun = self.num_ended = 0

    async def __call__(self, client: redis.asyncio.Redis) -> str:
        self.num_begun += 1
        async with asyncio.timeout(5.0):
            await self.answer.wait()
        self.num_ended += 1
        return "answer"


async def test_one_call_too_many_is_a_miss_at_once_and_never_made() -> None:
    gate, slow = gate_of(timeout_s=5.0), Slow()
    running = [asyncio.ensure_future(gate.call(CallKind.READ, slow)) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1.0):
        assert await gate.call(CallKind.READ, slow) is Miss.BUSY
    await asyncio.sleep(0)
    assert (slow.num_begun, gate.counts[Miss.BUSY]) == (2, 1)
    slow.answer.set()
    assert await asyncio.gather(*running) == ["answer"] * 2
    assert await gate.call(CallKind.READ, slow) == "answer", "there is room again"
    await gate.close()


async def test_a_late_answer_is_read_to_its_end() -> None:
    gate, slow = gate_of(), Slow()
    assert await gate.call(CallKind.READ, slow) is Miss.LATE
    assert (slow.num_begun, slow.num_ended) == (1, 0)
    slow.answer.set()
    await gate.close()
    assert slow.num_ended == 1, "the time-out of its caller must not end a call: its reply would be the next caller's"


async def test_a_caller_that_leaves_does_not_end_its_call() -> None:
    gate, slow = gate_of(timeout_s=5.0), Slow()
    caller = asyncio.ensure_future(gate.call(CallKind.READ, slow))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    slow.answer.set()
    await gate.close()
    assert (slow.num_begun, slow.num_ended) == (1, 1)


async def test_reads_and_writes_have_a_breaker_each() -> None:
    gate = gate_of(max_failures=1)

    async def refused(client: redis.asyncio.Redis) -> str:
        raise redis.exceptions.ReadOnlyError

    async def answered(client: redis.asyncio.Redis) -> str:
        return "answer"

    assert await gate.call(CallKind.WRITE, refused) is Miss.READ_ONLY
    assert (gate.state(CallKind.WRITE), gate.state(CallKind.READ)) == (BreakerState.OPEN, BreakerState.CLOSED)
    assert await gate.call(CallKind.WRITE, answered) is Miss.OPEN
    assert await gate.call(CallKind.READ, answered) == "answer"
    await gate.close()


@pytest.mark.parametrize("num_bytes", [0, 1000])
async def test_a_late_call_counts_once(num_bytes: int) -> None:
    """Its caller gave up, and then the call itself failed: one failure of the two that open the breaker."""
    gate, slow = gate_of(max_failures=2), Slow()

    async def then_lost(client: redis.asyncio.Redis) -> str:
        await slow(client)
        raise redis.exceptions.ConnectionError

    assert await gate.call(CallKind.READ, then_lost, num_bytes=num_bytes) is Miss.LATE
    slow.answer.set()
    async with asyncio.timeout(1.0):
        while gate.counts[Miss.UNREACHABLE] < 1:
            await asyncio.sleep(0.001)
    assert gate.state(CallKind.READ) is BreakerState.CLOSED
    assert await gate.call(CallKind.READ, then_lost) is Miss.UNREACHABLE
    assert gate.state(CallKind.READ) is BreakerState.OPEN
    await gate.close()
