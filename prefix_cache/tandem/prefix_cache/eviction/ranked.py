"""Evictable blocks by rank, lowest first: a heap whose outdated entries are dropped when they come up."""

import heapq

from tandem.prefix_cache.keys import BlockKey

_COMPACT_FACTOR = 4
_Entry = tuple[float, int, BlockKey]  # the number differs for each, so keys are never compared


class RankedBlocks:
    """Insert, re-rank, remove and take the lowest in O(log n). Equal ranks: first come, first out."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._current: dict[BlockKey, _Entry] = {}
        self._num_pushed = 0

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._current

    def __len__(self) -> int:
        return len(self._current)

    def put(self, key: BlockKey, rank: float) -> None:
        """Insert, or give a new rank."""
        self._num_pushed += 1
        entry = (rank, self._num_pushed, key)
        self._current[key] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > _COMPACT_FACTOR * len(self._current) + 64:
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)

    def discard(self, key: BlockKey) -> None:
        """Remove, if it is there."""
        self._current.pop(key, None)

    def lowest(self) -> BlockKey | None:
        """The key of lowest rank."""
        while self._heap:
            entry = self._heap[0]
            if self._current.get(entry[2]) is entry:
                return entry[2]
            heapq.heappop(self._heap)
        return None

    def rank_of(self, key: BlockKey) -> float:
        """Present rank of a key that is there."""
        return self._current[key][0]
