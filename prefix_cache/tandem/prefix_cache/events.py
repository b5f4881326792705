"""What a worker tells of its cache, and the ring from which it can be told again. Zero I/O; one thread."""

from collections import deque
from collections.abc import Sequence

from tandem.core.ids import Epoch
from tandem.core.kv_events import (
    BlockKey,
    Cleared,
    KvEvent,
    NumberedEvent,
    Removed,
    Replay,
    Snapshot,
    Stored,
    Tier,
)

__all__ = [
    "Cleared",
    "KvEvent",
    "KvEventRing",
    "NumberedEvent",
    "Removed",
    "Replay",
    "Snapshot",
    "Stored",
    "Tier",
    "num_keys",
]


class KvEventRing:
    """The last ``capacity`` events of one worker, and the set of what it holds.

    A watcher that asks for an event that has left the ring gets a snapshot instead: memory is bounded, whatever the
    watchers do.
    """

    def __init__(self, epoch: Epoch, *, capacity: int = 4096) -> None:
        self.epoch = epoch
        self._events: deque[NumberedEvent] = deque(maxlen=capacity)
        self._held: dict[Tier, dict[BlockKey, None]] = {tier: {} for tier in Tier}
        self._last = 0

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._last

    def num_held(self, tier: Tier) -> int:
        """Blocks that can be had from ``tier``."""
        return len(self._held[tier])

    def append(self, event: KvEvent) -> NumberedEvent:
        """Number and keep an event."""
        match event:
            case Stored():
                self._held[event.tier].update(dict.fromkeys(event.keys))
            case Removed():
                held = self._held[event.tier]
                for key in event.keys:
                    held.pop(key, None)
            case Cleared():
                for held in self._held.values():
                    held.clear()
        self._last += 1
        numbered = NumberedEvent(sequence=self._last, event=event)
        self._events.append(numbered)
        return numbered

    def since(self, epoch: Epoch | None, start_sequence: int) -> Replay:
        """Return the events from ``start_sequence`` on; a snapshot when they are gone or of another life."""
        oldest = self._events[0].sequence if self._events else self._last + 1
        if epoch == self.epoch and oldest <= start_sequence <= self._last + 1:
            skip = start_sequence - oldest
            return Replay(epoch=self.epoch, snapshot=None, events=tuple(list(self._events)[skip:]))
        held = tuple(Stored(keys=tuple(keys), tier=tier) for tier, keys in self._held.items() if keys)
        return Replay(epoch=self.epoch, snapshot=Snapshot(sequence=self._last, held=held), events=())


def num_keys(events: Sequence[KvEvent]) -> int:
    """Blocks named in ``events``."""
    return sum(0 if isinstance(event, Cleared) else len(event.keys) for event in events)
