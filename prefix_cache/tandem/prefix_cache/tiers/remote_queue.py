"""Blocks that wait for Redis: few, first come first served, and no tenant's flood takes the others' places. Pure."""

from collections import Counter, deque

from tandem.prefix_cache.shares import Weights
from tandem.prefix_cache.tiers.host import HostEntry

_MAX_WAITING = 64


class RemoteQueue:
    """At most ``capacity`` entries, each with the count of its tenant's flushes when it came."""

    def __init__(self, weights: Weights, *, capacity: int = _MAX_WAITING) -> None:
        self._weights = weights
        self._capacity = capacity
        self._waiting: deque[tuple[HostEntry, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: HostEntry, num_flushes: int) -> bool:
        """Take an entry. False: one had no room, the newest of the tenant with most waiting for its weight."""
        self._waiting.append((entry, num_flushes))
        if len(self._waiting) <= self._capacity:
            return True
        counts = Counter(waiting.tenant for waiting, _ in self._waiting)
        most = max(counts, key=lambda tenant: (self._weights.load(tenant, counts[tenant]), tenant == entry.tenant))
        newest = max(place for place, (waiting, _) in enumerate(self._waiting) if waiting.tenant == most)
        del self._waiting[newest]
        return False

    def pop(self) -> tuple[HostEntry, int] | None:
        """Return the entry that waits longest; None: none does."""
        return self._waiting.popleft() if self._waiting else None
