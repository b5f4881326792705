"""S3-FIFO: a small queue on probation, a main queue, and a memory of what left the small one."""

from collections import OrderedDict

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.keys import BlockKey

_MAX_USES = 3


class S3Fifo:
    """Three first-in-first-out queues (Yang et al., SOSP 2023), for blocks that are evictable only at times.

    New blocks wait in the small queue (a tenth of the blocks). Those used again there move to the main queue; those
    that were not are given up, and remembered as ghosts: one that comes back goes to the main queue at once. The main
    queue gives a block one more round per use.
    """

    def __init__(self, *, small_share: float = 0.1) -> None:
        self._small: OrderedDict[BlockKey, None] = OrderedDict()
        self._main: OrderedDict[BlockKey, None] = OrderedDict()
        self._ghosts: OrderedDict[BlockKey, None] = OrderedDict()
        self._uses: dict[BlockKey, int] = {}
        self._is_main: set[BlockKey] = set()
        self._small_share = small_share

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """To the queue it belongs to, at its end."""
        if key not in self._uses:
            self._uses[key] = 0
            if key in self._ghosts:
                del self._ghosts[key]
                self._is_main.add(key)
        queue = self._main if key in self._is_main else self._small
        queue[key] = None

    def touch(self, key: BlockKey) -> None:
        """One more use; three count."""
        self._uses[key] = min(self._uses.get(key, 0) + 1, _MAX_USES)

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more; its uses and its queue are remembered."""
        self._small.pop(key, None)
        self._main.pop(key, None)

    def forget(self, key: BlockKey) -> None:
        """Gone. What leaves the small queue becomes a ghost."""
        if key not in self._is_main and key in self._uses:
            self._ghosts[key] = None
            while len(self._ghosts) > max(len(self._uses), 64):
                self._ghosts.popitem(last=False)
        self.remove(key)
        self._is_main.discard(key)
        self._uses.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The oldest that was not used since it was last looked at; the small queue first while over its share."""
        while self._small or self._main:
            num_all = len(self._small) + len(self._main)
            if self._small and (not self._main or len(self._small) > self._small_share * num_all):
                key = next(iter(self._small))
                if not self._uses[key]:
                    return key
                del self._small[key]
                self._uses[key] = 0
                self._is_main.add(key)
                self._main[key] = None
            else:
                key = next(iter(self._main))
                if not self._uses[key]:
                    return key
                self._uses[key] -= 1
                self._main.move_to_end(key)
        return None
