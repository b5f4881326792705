"""Serves a router that follows this worker's prefix cache: a snapshot, then every change, as fast as the router reads.

Nothing is queued per watcher: what it has not been told lies in the cache's one ring of events, and a watcher that
falls out of the ring gets a snapshot. So neither the engine thread nor memory depends on how routers read.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace

from tandem.core.clock import Clock
from tandem.core.errors import Overloaded, Unavailable
from tandem.core.ids import Epoch
from tandem.core.kv_events import (
    Cleared,
    KvUpdate,
    NumberedEvent,
    Replay,
    Snapshot,
    SnapshotPart,
    Stored,
    TierCost,
    WatchFrom,
)
from tandem.prefix_cache.event_log import KvEventLog

_MAX_NAMES = 4096  # per message: 128 KiB
_MAX_EVENTS = 1024  # per message


class KvWatches:
    """All watchers of one cache. Loop thread."""

    def __init__(
        self,
        log: KvEventLog,
        *,
        clock: Clock,
        costs: Callable[[], tuple[TierCost, ...]] = tuple,
        beat_s: float = 1.0,
        max_stall_s: float = 10.0,
        max_watchers: int = 64,
    ) -> None:
        """A sign of life comes each ``beat_s``; who takes no message for ``max_stall_s`` is cut.

        ``costs``: what each slower tier costs at present; every message carries it.
        """
        self._log = log
        self._costs = costs
        self._clock = clock
        self._beat_s = beat_s
        self._max_stall_s = max_stall_s
        self._max_watchers = max_watchers
        self.num_watchers = 0
        self.num_cut = 0

    async def follow(self, start: WatchFrom) -> AsyncGenerator[KvUpdate, None]:
        """Yield updates until the iterator is closed; the task that reads it is the call's own.

        Raises Overloaded when too many watch, Unavailable when this watcher reads too slowly.
        """
        if self.num_watchers >= self._max_watchers:
            raise Overloaded(f"{self.num_watchers} routers watch this cache already", retry_after_s=5.0)
        self.num_watchers += 1
        news = _News(self._clock)
        end = self._log.listen(news.from_any_thread)
        epoch, following = start.epoch, start.start_sequence
        try:
            while True:
                waited_s = news.take_s()
                replay = self._log.since(epoch, following)
                epoch, following = replay.epoch, _after(replay, following)
                for update in _messages(replay, self._log.last_sequence, waited_s):
                    with _Stall(self, self._max_stall_s):
                        yield replace(update, costs=self._costs())
                await news.wait(self._beat_s)
        finally:
            end()
            self.num_watchers -= 1


class _News:
    """Wakes the loop when the engine thread has news; once, however many there are."""

    def __init__(self, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._event = asyncio.Event()
        self._is_known = False
        self._since_s: float | None = None

    def from_any_thread(self) -> None:
        if self._is_known:
            return
        self._is_known = True
        self._since_s = self._clock.now_s()
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return  # the loop has closed: the process is ending

    def take_s(self) -> float:
        """Whatever is in the log now is about to be read; return for how long the oldest of it has waited."""
        since_s, self._since_s = self._since_s, None
        self._event.clear()
        self._is_known = False  # last: what comes from now on wakes again
        return 0.0 if since_s is None else max(self._clock.now_s() - since_s, 0.0)

    async def wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return


class _Stall:
    """Ends the call whose message is not taken in time: its task is cancelled, and the caller gets the reason."""

    def __init__(self, watches: KvWatches, max_stall_s: float) -> None:
        self._watches = watches
        self._task = asyncio.current_task()
        self._is_cut = False
        self._timer = asyncio.get_running_loop().call_later(max_stall_s, self._cut)

    def _cut(self) -> None:
        if self._task is not None:
            self._is_cut = True
            self._task.cancel()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._is_cut and self._task is not None:
            self._task.uncancel()
            self._watches.num_cut += 1
            raise Unavailable("the watcher reads too slowly", reason="SLOW_WATCHER")


def _after(replay: Replay, following: int) -> int:
    if replay.events:
        return replay.events[-1].sequence + 1
    return following if replay.snapshot is None else replay.snapshot.sequence + 1


def _messages(replay: Replay, last: int, waited_s: float) -> Iterator[KvUpdate]:
    """Cut a replay into messages of bounded size; one at least, as a sign of life."""
    if replay.snapshot is not None:
        for part in _parts(replay.snapshot):
            yield KvUpdate(epoch=replay.epoch, last_sequence=last, waited_s=waited_s, snapshot=part)
    batches = _batches(replay.events)
    if replay.snapshot is None:
        yield _batch(replay.epoch, last, waited_s, next(batches, ()))
    for events in batches:
        yield _batch(replay.epoch, last, waited_s, events)


def _batch(epoch: Epoch, last: int, waited_s: float, events: Sequence[NumberedEvent]) -> KvUpdate:
    return KvUpdate(epoch=epoch, last_sequence=last, waited_s=waited_s, events=tuple(events))


def _parts(snapshot: Snapshot) -> Iterator[SnapshotPart]:
    pieces: list[tuple[Stored, ...]] = [
        (Stored(keys=stored.keys[at : at + _MAX_NAMES], tier=stored.tier),)
        for stored in snapshot.held
        for at in range(0, len(stored.keys), _MAX_NAMES)
    ] or [()]
    for index, held in enumerate(pieces):
        yield SnapshotPart(sequence=snapshot.sequence, held=held, first=index == 0, last=index == len(pieces) - 1)


def _batches(events: Sequence[NumberedEvent]) -> Iterator[list[NumberedEvent]]:
    batch: list[NumberedEvent] = []
    num_names = 0
    for numbered in events:
        event = numbered.event
        size = 0 if isinstance(event, Cleared) else len(event.keys)
        if batch and (num_names + size > _MAX_NAMES or len(batch) >= _MAX_EVENTS):
            yield batch
            batch, num_names = [], 0
        batch.append(numbered)
        num_names += size
    if batch:
        yield batch
