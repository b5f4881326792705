"""S3-FIFO: a small queue on probation, a main queue, and a memory of what left the small one."""

from collections import OrderedDict

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.keys import BlockKey

_MAX_USES = 3


class S3Fifo:
    """Three first-in-first-out queues (Yang et al., SOSP 2023), for blocks that are evictable only at times.

    New blocks wait in the small queue (a tenth of the blocks). Those used again there move to the main queue; those
    that were not are given up, and remembered as ghosts: one that comes back goes to the main queue at once. The main
    queue gives a block one more round per use. A block keeps its place in its queue while it is not evictable.
    """

    def __init__(self, *, small_share: float = 0.1) -> None:
        self._small = RankedBlocks()
        self._main = RankedBlocks()
        self._ghosts: OrderedDict[BlockKey, None] = OrderedDict()
        self._uses: dict[BlockKey, int] = {}
        self._place: dict[BlockKey, int] = {}
        self._num_entered = 0
        self._is_main: set[BlockKey] = set()
        self._small_share = small_share

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """Its place is at the end of the queue it belongs to."""
        self._uses[key] = 0
        self._enter(key)
        if key in self._ghosts:
            del self._ghosts[key]
            self._is_main.add(key)

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """To its place."""
        if key not in self._uses:
            self.add(key, value)
        queue = self._main if key in self._is_main else self._small
        queue.put(key, self._place[key])

    def touch(self, key: BlockKey) -> None:
        """One more use; three count."""
        self._uses[key] = min(self._uses.get(key, 0) + 1, _MAX_USES)

    def release(self, key: BlockKey) -> None:
        """Nothing to do: uses count when they begin."""

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more; its uses and its queue are remembered."""
        self._small.discard(key)
        self._main.discard(key)

    def forget(self, key: BlockKey) -> None:
        """Gone. What leaves the small queue becomes a ghost."""
        if key not in self._is_main and key in self._uses:
            self._ghosts[key] = None
            while len(self._ghosts) > max(len(self._uses), 64):
                self._ghosts.popitem(last=False)
        self.remove(key)
        self._is_main.discard(key)
        self._uses.pop(key, None)
        self._place.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The oldest that was not used since it was last looked at; the small queue first while over its share."""
        while True:
            small, main = self._small.lowest(), self._main.lowest()
            num_all = len(self._small) + len(self._main)
            if small is not None and (main is None or len(self._small) > self._small_share * num_all):
                if not self._uses[small]:
                    return small
                self._small.discard(small)
                self._uses[small] = 0
                self._is_main.add(small)
                self._main.put(small, self._enter(small))
            elif main is not None:
                if not self._uses[main]:
                    return main
                self._uses[main] -= 1
                self._main.put(main, self._enter(main))
            else:
                return None

    def _enter(self, key: BlockKey) -> int:
        self._num_entered += 1
        self._place[key] = self._num_entered
        return self._num_entered
