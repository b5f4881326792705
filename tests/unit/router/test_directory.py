"""The in-memory registry: renewals, epochs, expiry, watchers."""

import asyncio
from collections.abc import Sequence

import pytest

from tandem.core.clock import MonotonicClock
from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role, WorkerInfo
from tandem.router.directory import MemoryDirectory
from tandem.router.registry_service import MAX_TTL_S, RegistryFront
from tandem.rpc.context import CallContext
from tests.unit.router.builders import SteppedClock, make_info

DECODE = make_info("decode-0", Role.DECODE)
PREFILL = make_info("prefill-0", Role.PREFILL)
CALL = CallContext(method="m")


def test_registrations_expire_unless_renewed() -> None:
    clock = SteppedClock()
    directory = MemoryDirectory(clock)
    directory.register(DECODE, ttl_s=5.0)
    directory.register(PREFILL, ttl_s=5.0)
    clock.time_s += 4.0
    directory.register(DECODE, ttl_s=5.0)
    clock.time_s += 1.0
    assert directory.workers() == (DECODE,)
    clock.time_s += 4.0
    assert directory.workers() == ()


def test_only_the_life_that_asks_is_removed() -> None:
    directory = MemoryDirectory(SteppedClock())
    directory.register(make_info("decode-0", Role.DECODE, epoch=2), ttl_s=5.0)
    directory.deregister(WorkerId("decode-0"), Epoch(1))
    assert len(directory.workers()) == 1
    directory.deregister(WorkerId("decode-0"), Epoch(2))
    directory.deregister(WorkerId("decode-0"), Epoch(2))
    assert directory.workers() == ()


async def test_watchers_see_the_present_list_and_each_change() -> None:
    directory = MemoryDirectory(MonotonicClock(), sweep_every_s=0.01)
    seen: asyncio.Queue[Sequence[WorkerInfo]] = asyncio.Queue()

    async def watch() -> None:
        async for workers in directory.watch():
            seen.put_nowait(workers)

    watcher = asyncio.ensure_future(watch())
    assert await asyncio.wait_for(seen.get(), 2.0) == ()
    directory.register(DECODE, ttl_s=60.0)
    assert await asyncio.wait_for(seen.get(), 2.0) == (DECODE,)
    directory.register(DECODE, ttl_s=60.0)  # a renewal is no change
    directory.register(PREFILL, ttl_s=0.05)
    assert await asyncio.wait_for(seen.get(), 2.0) == (DECODE, PREFILL)
    assert await asyncio.wait_for(seen.get(), 2.0) == (DECODE,)  # expiry is noticed without a call
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, MAX_TTL_S + 1.0, float("nan")])
async def test_a_silly_time_to_live_is_refused(ttl_s: float) -> None:
    front = RegistryFront(MemoryDirectory(SteppedClock()))
    with pytest.raises(InvalidArgument, match="ttl_s"):
        await front.register(DECODE, ttl_s, CALL)


async def test_registrations_over_the_service() -> None:
    front = RegistryFront(MemoryDirectory(SteppedClock()))
    await front.register(DECODE, 5.0, CALL)
    assert await front.list_registered(CALL) == (DECODE,)
    await front.deregister(DECODE.worker_id, DECODE.epoch, CALL)
    assert await front.list_registered(CALL) == ()
    with pytest.raises(InvalidArgument, match="name"):
        await front.register(make_info("", Role.DECODE), 5.0, CALL)
