"""Least recently used: the order of last use."""

from collections import OrderedDict

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.keys import BlockKey


class Lru:
    """The block that became evictable longest ago goes first.

    A prompt's blocks become evictable one after another from its end, so a prompt is given up from its end as well.
    """

    def __init__(self) -> None:
        self._order: OrderedDict[BlockKey, None] = OrderedDict()

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """Newest."""
        self._order[key] = None
        self._order.move_to_end(key)

    def touch(self, key: BlockKey) -> None:
        """A use makes it the newest."""
        if key in self._order:
            self._order.move_to_end(key)

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more."""
        self._order.pop(key, None)

    def forget(self, key: BlockKey) -> None:
        """Gone."""
        self._order.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The oldest."""
        return next(iter(self._order), None)
