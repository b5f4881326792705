"""Least frequently used, with ageing: what was popular long ago goes in the end."""

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.keys import BlockKey


class LfuAged:
    """Rank = age of the cache when last used + number of uses; the age is the rank of the last victim.

    The dynamic ageing of Arlitt et al. 1999 (LFU-DA): a block must be used more often than the cache has aged.
    """

    def __init__(self) -> None:
        self._ranked = RankedBlocks()
        self._uses: dict[BlockKey, int] = {}
        self._base: dict[BlockKey, float] = {}
        self._age = 0.0

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """One use, now."""
        self._uses[key] = 1
        self._base[key] = self._age

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """Rank it by the uses it has had."""
        if key not in self._uses:
            self.add(key, value)
        self._ranked.put(key, self._rank(key))

    def touch(self, key: BlockKey) -> None:
        """One more use."""
        if key not in self._uses:
            return
        self._uses[key] += 1
        self._base[key] = self._age
        if key in self._ranked:
            self._ranked.put(key, self._rank(key))

    def release(self, key: BlockKey) -> None:
        """Nothing to do: uses count when they begin."""

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more; its uses are remembered."""
        self._ranked.discard(key)

    def forget(self, key: BlockKey) -> None:
        """Gone: the cache is as old as what it gave up."""
        if key in self._ranked:
            self._age = max(self._age, self._ranked.rank_of(key))
            self._ranked.discard(key)
        self._uses.pop(key, None)
        self._base.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The lowest rank."""
        return self._ranked.lowest()

    def _rank(self, key: BlockKey) -> float:
        return self._base[key] + self._uses[key]
