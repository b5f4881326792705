"""A worker's cache events between threads: its engine thread writes, whoever serves watchers reads and is woken."""

import threading
from collections.abc import Callable

from tandem.core.ids import Epoch
from tandem.prefix_cache.events import KvEvent, KvEventRing, Replay, Tier

Listener = Callable[[], None]


class KvEventLog:
    """A `KvEventRing` under a lock, with listeners. Safe from any thread."""

    def __init__(self, epoch: Epoch, *, capacity: int = 4096) -> None:
        self._lock = threading.Lock()
        self._ring = KvEventRing(epoch, capacity=capacity)
        self._listeners: tuple[Listener, ...] = ()

    @property
    def epoch(self) -> Epoch:
        """The worker's life that these events are of."""
        return self._ring.epoch

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        with self._lock:
            return self._ring.last_sequence

    def num_held(self, tier: Tier) -> int:
        """Blocks that can be had from ``tier``."""
        with self._lock:
            return self._ring.num_held(tier)

    def append(self, event: KvEvent) -> None:
        """Number and keep an event, then call the listeners."""
        with self._lock:
            self._ring.append(event)
            listeners = self._listeners
        for listener in listeners:
            listener()

    def since(self, epoch: Epoch | None, start_sequence: int) -> Replay:
        """Return the events from ``start_sequence`` on; a snapshot when they are gone or of another life."""
        with self._lock:
            return self._ring.since(epoch, start_sequence)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each new event, on the writer's thread: it may only set something.

        Return the function that ends it.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return end
