"""One worker's event stream as a router sees it: gaps and lives told apart, resumed or begun again. Zero I/O.

::

    ask(epoch, next number) ──► events in order ──► applied
           ▲                        │ a number is missing, another epoch, the stream broke
           └────────────────────────┘ (from a snapshot, where the worker can't replay)
"""

from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import KvUpdate, SnapshotPart, WatchFrom
from tandem.prefix_cache.events import NumberedEvent, Replay
from tandem.prefix_cache.index import CacheHolder, PrefixIndex

__all__ = ["KvEventFeed", "WatchFrom"]


class KvEventFeed:
    """Applies one worker's events to the index, exactly once and in order."""

    def __init__(self, worker_id: WorkerId, index: PrefixIndex) -> None:
        self._worker_id = worker_id
        self._index = index
        self._holder: CacheHolder | None = None
        self._next = 1
        self._is_mid_snapshot = False
        self.last_event_s: float | None = None
        self.num_behind = 0  # events that the worker had made and not told when it last spoke
        self.num_gaps = 0
        self.num_snapshots = 0

    def resume(self) -> WatchFrom:
        """Return what to ask for when the stream is opened (again)."""
        if self._holder is None or self._is_mid_snapshot:
            return WatchFrom(epoch=None, start_sequence=1)
        return WatchFrom(epoch=self._holder.epoch, start_sequence=self._next)

    def on_replay(self, replay: Replay, now_s: float) -> bool:
        """Take the answer that begins a stream. False: it doesn't fit; ask again with ``resume``."""
        if self._holder is None or self._holder.epoch != replay.epoch:
            self._begin(replay.epoch)
            if replay.snapshot is None and self._starts_late(replay):
                return self._lost()
        if replay.snapshot is not None and self._holder is not None:
            self.num_snapshots += 1
            self._index.replace(self._holder, replay.snapshot.held)
            self._next = replay.snapshot.sequence + 1
        self.last_event_s = now_s
        return all(self.on_event(event, now_s) for event in replay.events)

    def on_update(self, update: KvUpdate, now_s: float) -> bool:
        """Take one message of a stream, also a part of a snapshot. False: break the stream and ask again."""
        if self._holder is None or self._holder.epoch != update.epoch:
            self._begin(update.epoch)
        if update.snapshot is not None:
            if not self._take_part(update.snapshot):
                return self._lost()
            self.num_snapshots += update.snapshot.first
        if self._is_mid_snapshot and update.events:
            return self._lost()
        if not all(self.on_event(event, now_s) for event in update.events):
            return False
        self.num_behind = max(update.last_sequence + 1 - self._next, 0)
        self.last_event_s = now_s - update.waited_s
        return True

    def on_image(self, epoch: Epoch, part: SnapshotPart) -> bool:
        """Take a part of what another router knew of life ``epoch``. False: something fresher is known, or was begun.

        It is told before the worker's stream begins, which then goes on from it; until then it has no staleness.
        """
        if part.first and (self._holder is not None or self.last_event_s is not None):
            return False
        if part.first:
            self._begin(epoch)
        return self._take_part(part)

    def drop_image(self) -> None:
        """An image does not go on: what was taken of it is forgotten."""
        if self._is_mid_snapshot and self.last_event_s is None:
            self.on_worker_gone()

    @property
    def position(self) -> int | None:
        """Number of the last event that the index has of this worker; None while there is no such number."""
        return None if self._holder is None or self._is_mid_snapshot else self._next - 1

    def on_event(self, event: NumberedEvent, now_s: float) -> bool:
        """Take one event; repeats do nothing. False: some are missing, so break the stream and ask again."""
        if self._holder is None or event.sequence > self._next:
            return self._lost()
        if event.sequence == self._next:
            self._next += 1
            self._index.apply(self._holder, event.event)
        self.last_event_s = now_s
        return True

    def on_worker_gone(self) -> None:
        """The worker died or left the directory."""
        if self._holder is not None:
            self._index.forget(self._holder)
        self._holder, self._next, self._is_mid_snapshot = None, 1, False

    def staleness_s(self, now_s: float) -> float | None:
        """Seconds since the worker was last heard about its cache; None before the first time."""
        return None if self.last_event_s is None else now_s - self.last_event_s

    def _begin(self, epoch: Epoch) -> None:
        self.on_worker_gone()
        self._holder = CacheHolder(self._worker_id, epoch)

    def _take_part(self, part: SnapshotPart) -> bool:
        if self._holder is None or part.first is self._is_mid_snapshot:
            return False  # a part without its beginning, or a beginning inside another snapshot
        if part.first:
            self._index.forget(self._holder)
        for stored in part.held:
            self._index.apply(self._holder, stored)
        self._next = part.sequence + 1
        self._is_mid_snapshot = not part.last
        return True

    def _starts_late(self, replay: Replay) -> bool:
        return bool(replay.events) and replay.events[0].sequence != 1

    def _lost(self) -> bool:
        self.num_gaps += 1
        self.on_worker_gone()  # what is held of it may be wrong anywhere: begin from a snapshot
        return False
