"""Least recently used: the order of last use."""

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.keys import BlockKey


class Lru:
    """Of the evictable blocks, the one used longest ago goes first.

    A block that becomes evictable because what followed it went is as old as its own last use: giving up the end of a
    prompt makes nothing newer, so an old prompt goes whole before a newer one is touched. What one request lets go of
    it lets go of from the end, so a prompt is given up from its end as well.
    """

    def __init__(self) -> None:
        self._ranked = RankedBlocks()
        self._last_use: dict[BlockKey, int] = {}
        self._num_uses = 0

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """Newest."""
        self._use(key)

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """To its place by its last use."""
        if key not in self._last_use:
            self._use(key)
        self._ranked.put(key, self._last_use[key])

    def touch(self, key: BlockKey) -> None:
        """A use makes it the newest."""
        self._use(key)

    def release(self, key: BlockKey) -> None:
        """So does the end of a use."""
        self._use(key)

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more."""
        self._ranked.discard(key)

    def forget(self, key: BlockKey) -> None:
        """Gone."""
        self._ranked.discard(key)
        self._last_use.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The oldest."""
        return self._ranked.lowest()

    def _use(self, key: BlockKey) -> None:
        self._num_uses += 1
        self._last_use[key] = self._num_uses
        if key in self._ranked:
            self._ranked.put(key, self._num_uses)
