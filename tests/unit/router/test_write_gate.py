"""The write gate: open while the loop is on time, batches when it is late; and the streams behind it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.inference import OutputDelta
from tandem.router.actions import Started
from tandem.router.client_stream import ClientStream, StreamBounds
from tandem.router.write_gate import GatePolicy, WriteGate
from tests.unit.router.builders import REQUEST, make_delta

POLICY = GatePolicy(late_s=0.004, min_hold_s=0.01, max_hold_s=0.05)


def late(seconds: float) -> WriteGate:
    gate = WriteGate(POLICY)
    for _ in range(50):
        gate.observe(seconds)
    return gate


def test_open_while_the_loop_is_on_time() -> None:
    assert WriteGate().hold_s == 0.0
    assert late(0.003).hold_s == 0.0
    assert late(-0.01).hold_s == 0.0


def test_one_late_moment_does_not_close_it() -> None:
    gate = WriteGate(POLICY)
    gate.observe(0.012)
    assert gate.hold_s == 0.0


def test_it_opens_again_by_itself() -> None:
    gate = late(0.1)
    for _ in range(20):
        gate.observe(0.0)
    assert gate.hold_s == 0.0


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_later_means_longer_within_bounds(one_s: float, other_s: float) -> None:
    low, high = sorted((one_s, other_s))
    assert late(low).hold_s <= late(high).hold_s
    assert late(high).hold_s == 0.0 or POLICY.min_hold_s <= late(high).hold_s <= POLICY.max_hold_s


async def _taker(stream: ClientStream, sizes: list[int]) -> None:
    while True:
        await stream.wait()
        for event in stream.take().events:
            if isinstance(event, OutputDelta):
                sizes.append(len(event.token_ids))
        await asyncio.sleep(0)  # the write


async def run_stream(gate: WriteGate, num_tokens: int) -> list[int]:
    """Put a token each millisecond; return how many tokens each message took."""
    stream = ClientStream(REQUEST, StreamBounds(), gate=gate)
    sizes: list[int] = []
    taker = asyncio.ensure_future(_taker(stream, sizes))
    for position in range(num_tokens):
        stream.put_delta(make_delta(position))
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.08)
    taker.cancel()
    await asyncio.gather(taker, return_exceptions=True)
    assert sum(sizes) == num_tokens
    return sizes


async def test_an_open_gate_sends_every_token_at_once() -> None:
    assert await run_stream(WriteGate(), 30) == [1] * 30


async def test_a_closed_gate_joins_tokens() -> None:
    sizes = await run_stream(late(0.1), 60)
    assert len(sizes) <= 6


async def test_the_first_token_and_the_end_do_not_wait() -> None:
    gate = late(0.1)
    stream = ClientStream(REQUEST, StreamBounds(), gate=gate)
    waiting = asyncio.ensure_future(stream.wait())
    await asyncio.sleep(0)
    stream.put_started(Started(num_prompt_tokens=1, num_cached_tokens=0))
    stream.put_delta(make_delta(0))
    async with asyncio.timeout(0.04):
        await waiting


async def test_a_stream_that_ends_while_it_is_held_is_not_held_up() -> None:
    gate = late(0.1)
    stream = ClientStream(REQUEST, StreamBounds(), gate=gate)
    waiting = asyncio.ensure_future(stream.wait())
    await asyncio.sleep(0)
    stream.put_delta(make_delta(0))
    await asyncio.sleep(0.005)
    assert not waiting.done(), "a token that comes to a waiting stream is held too"
    stream.put_keep_alive()
    async with asyncio.timeout(0.04):
        await waiting
    await asyncio.sleep(0.06)  # the gate lets go of a stream that does not wait any more
    assert len(stream.take().events) == 1


@pytest.mark.parametrize("num_streams", [1, 20])
async def test_all_held_streams_are_let_go_together(num_streams: int) -> None:
    gate = late(0.1)
    streams = [ClientStream(REQUEST, StreamBounds(), gate=gate) for _ in range(num_streams)]
    waiting = [asyncio.ensure_future(stream.wait()) for stream in streams]
    await asyncio.sleep(0)
    for stream in streams:
        stream.put_delta(make_delta(0))
    async with asyncio.timeout(1.0):
        await asyncio.gather(*waiting)
