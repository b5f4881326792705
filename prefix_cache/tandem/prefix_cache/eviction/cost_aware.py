"""Cost-aware: what is expensive to compute again stays longer."""

from collections import OrderedDict

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.keys import BlockKey


class CostAware:
    """Rank = age of the cache + uses · seconds to compute the block again; the age is the rank of the last victim.

    GreedyDual-Size-Frequency (Cherkasova 1998) for blocks of one size. A block late in a long prompt costs more than an
    early one (attention over everything before it). Uses are remembered for a while after a block has gone, so that a
    block which keeps coming back is known at its return.
    """

    def __init__(self, *, max_remembered: int = 65536) -> None:
        self._ranked = RankedBlocks()
        self._uses: dict[BlockKey, int] = {}
        self._cost: dict[BlockKey, float] = {}
        self._base: dict[BlockKey, float] = {}
        self._remembered: OrderedDict[BlockKey, int] = OrderedDict()
        self._max_remembered = max_remembered
        self._age = 0.0

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """One use, now, and those that are remembered of it."""
        self._cost[key] = value.recompute_s
        self._uses[key] = 1 + self._remembered.pop(key, 0)
        self._base[key] = self._age

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """Rank it by uses and cost."""
        if key not in self._cost:
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
        """Not evictable any more; what is known of it is kept."""
        self._ranked.discard(key)

    def forget(self, key: BlockKey) -> None:
        """Gone: the cache is as old as what it gave up."""
        if key in self._ranked:
            self._age = max(self._age, self._ranked.rank_of(key))
            self._ranked.discard(key)
        self._cost.pop(key, None)
        self._base.pop(key, None)
        uses = self._uses.pop(key, 0)
        if uses:
            self._remembered[key] = uses
            if len(self._remembered) > self._max_remembered:
                self._remembered.popitem(last=False)

    def victim(self) -> BlockKey | None:
        """The lowest rank."""
        return self._ranked.lowest()

    def _rank(self, key: BlockKey) -> float:
        return self._base[key] + self._uses[key] * self._cost[key]
