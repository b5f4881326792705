"""What a router that follows a cache is told: everything once, in order, and a snapshot when it can't be."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tandem.core.clock import MonotonicClock
from tandem.core.errors import Overloaded, Unavailable
from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import BlockKey, KvUpdate, Removed, Stored, Tier, TierCost, WatchFrom
from tandem.prefix_cache.event_log import KvEventLog
from tandem.prefix_cache.feed import KvEventFeed
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.worker_host.kv_watch import KvWatches

ANEW = WatchFrom(epoch=None, start_sequence=1)


def name(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def stored(*numbers: int) -> Stored:
    return Stored(keys=tuple(name(number) for number in numbers), tier=Tier.DEVICE)


def watches(log: KvEventLog, *, beat_s: float = 5.0, max_stall_s: float = 5.0, max_watchers: int = 4) -> KvWatches:
    return KvWatches(log, clock=MonotonicClock(), beat_s=beat_s, max_stall_s=max_stall_s, max_watchers=max_watchers)


async def take(updates: AsyncIterator[KvUpdate]) -> KvUpdate:
    async with asyncio.timeout(5.0):
        return await anext(updates)


async def test_a_newcomer_gets_a_snapshot_then_each_change() -> None:
    log = KvEventLog(Epoch(7))
    log.append(stored(1, 2))
    updates = watches(log).follow(ANEW)
    first = await take(updates)
    assert first.snapshot is not None
    assert (first.epoch, first.snapshot.sequence, first.snapshot.first, first.snapshot.last) == (7, 1, True, True)
    assert first.snapshot.held == (stored(1, 2),)
    await asyncio.to_thread(log.append, stored(3))  # as the engine thread does
    second = await take(updates)
    assert [event.sequence for event in second.events] == [2]
    assert second.last_sequence == 2
    await updates.aclose()


async def test_each_message_tells_what_fetching_costs_at_that_time() -> None:
    log, cost = KvEventLog(Epoch(7)), TierCost(tier=Tier.HOST, fixed_s=0.5, s_per_byte=1e-9)
    costs = [cost]
    updates = KvWatches(log, clock=MonotonicClock(), costs=lambda: tuple(costs), beat_s=0.05).follow(ANEW)
    assert (await take(updates)).costs == (cost,)
    costs[0] = replace(cost, fixed_s=0.1)
    assert (await take(updates)).costs == (replace(cost, fixed_s=0.1),), "with a sign of life too"
    await updates.aclose()


async def test_an_empty_cache_has_a_snapshot_too() -> None:
    first = await take(watches(KvEventLog(Epoch(7))).follow(ANEW))
    assert first.snapshot is not None
    assert (first.snapshot.held, first.snapshot.last) == ((), True)


async def test_who_knows_a_part_gets_the_rest() -> None:
    log = KvEventLog(Epoch(7))
    for number in range(5):
        log.append(stored(number))
    update = await take(watches(log).follow(WatchFrom(epoch=Epoch(7), start_sequence=4)))
    assert update.snapshot is None
    assert [event.sequence for event in update.events] == [4, 5]


@pytest.mark.parametrize(
    "start", [WatchFrom(epoch=Epoch(6), start_sequence=4), WatchFrom(epoch=Epoch(7), start_sequence=2)]
)
async def test_another_life_or_an_event_that_is_gone_begins_with_a_snapshot(start: WatchFrom) -> None:
    log = KvEventLog(Epoch(7), capacity=2)
    for number in range(5):
        log.append(stored(number))
    update = await take(watches(log).follow(start))
    assert update.snapshot is not None
    assert update.snapshot.sequence == 5


async def test_a_large_cache_comes_in_parts_and_a_feed_puts_it_together() -> None:
    log, index = KvEventLog(Epoch(7)), PrefixIndex()
    numbers = list(range(10_000))
    log.append(stored(*numbers))
    feed = KvEventFeed(WorkerId("p"), index)
    updates = watches(log).follow(feed.resume())
    num_parts = 0
    while True:
        update = await take(updates)
        num_parts += 1
        assert update.snapshot is not None
        assert sum(len(held.keys) for held in update.snapshot.held) <= 4096
        assert feed.on_update(update, 1.0)
        if update.snapshot.last:
            break
        assert feed.resume().epoch is None, "a snapshot that breaks off is asked for again from its beginning"
    assert num_parts == 3
    assert len(index) == 10_000
    assert feed.resume() == WatchFrom(epoch=Epoch(7), start_sequence=2)
    await updates.aclose()


async def test_a_reader_that_falls_out_of_the_ring_gets_a_snapshot_and_nobody_waited_for_it() -> None:
    log, index = KvEventLog(Epoch(7), capacity=4), PrefixIndex()
    feed = KvEventFeed(WorkerId("p"), index)
    updates = watches(log).follow(feed.resume())
    assert feed.on_update(await take(updates), 1.0)
    for number in range(50):  # the reader is elsewhere; appending never blocks
        log.append(stored(number))
    log.append(Removed(keys=(name(0),), tier=Tier.DEVICE))
    update = await take(updates)
    assert update.snapshot is not None
    assert feed.on_update(update, 2.0)
    assert feed.num_snapshots == 2
    assert feed.num_behind == 0
    assert set(index.match([name(49)])) == {CacheHolder(WorkerId("p"), Epoch(7))}
    assert index.match([name(0)]) == {}
    await updates.aclose()


async def test_silence_is_told_as_well() -> None:
    updates = watches(KvEventLog(Epoch(7)), beat_s=0.02).follow(ANEW)
    await take(updates)
    beat = await take(updates)
    assert (beat.snapshot, beat.events, beat.last_sequence) == (None, (), 0)
    await updates.aclose()


async def test_the_wait_of_news_is_told() -> None:
    log = KvEventLog(Epoch(7))
    updates = watches(log).follow(ANEW)
    await take(updates)
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(take(updates))
    await asyncio.sleep(0.01)
    log.append(stored(1))
    assert (await waiting).waited_s < 1.0
    for number in range(2, 4):
        log.append(stored(number))
    await asyncio.sleep(0.05)  # the reader is late
    late = await take(updates)
    assert 0.04 < late.waited_s < 2.0
    await updates.aclose()


async def test_who_does_not_read_is_cut_with_the_reason() -> None:
    watched = watches(KvEventLog(Epoch(7)), max_stall_s=0.02)

    left_alone: list[bool] = []

    async def call() -> None:
        updates = watched.follow(ANEW)
        try:
            await anext(updates)
            await asyncio.sleep(1.0)  # as a write that flow control holds
            left_alone.append(True)
        finally:
            await updates.aclose()

    with pytest.raises(Unavailable, match="too slowly"):
        await asyncio.create_task(call())
    assert left_alone == []
    assert (watched.num_cut, watched.num_watchers) == (1, 0)


async def test_watchers_are_bounded_and_leave_nothing() -> None:
    log = KvEventLog(Epoch(7))
    watched = watches(log, max_watchers=2)
    two = [watched.follow(ANEW) for _ in range(2)]
    for updates in two:
        await take(updates)
    with pytest.raises(Overloaded):
        await take(watched.follow(ANEW))
    for updates in two:
        await updates.aclose()
    assert watched.num_watchers == 0
    assert log._listeners == ()
