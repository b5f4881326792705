"""Weighted LRU: least recently used, where deep blocks and blocks that were found again age more slowly."""

from dataclasses import dataclass

from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.ranked import RankedBlocks
from tandem.prefix_cache.keys import BlockKey

_MAX_DEPTH_STEPS = 7


@dataclass(slots=True)
class _Block:
    step: int
    last_use: int
    was_found: bool = False


class WeightedLru:
    """Gives up the block of the largest age / weight; age = blocks that were cached since its last use.

    weight = ``step_weight`` to the power of a block's steps: one for each factor of four in its depth (1 + blocks
    before it, rounded down), and one more as soon as a prompt has found it. On the published traces, what was found
    once is found again more often than what never was, and blocks of long prompts are asked for again at larger ages
    than those of short ones; they are also the dearer ones to compute again. A weight is a factor on age, no rank of
    its own: whatever its weight, a block that nobody uses goes, when it is that many times older than what LRU would
    give up. With a weight of 1 this is LRU.

    Blocks of equal steps stand in one order, and there are at most nine such orders: a victim is the oldest of nine.
    O(log n) for each call.
    """

    def __init__(self, *, step_weight: float = 2.0**0.5) -> None:
        self._evictable = [RankedBlocks() for _ in range(_MAX_DEPTH_STEPS + 2)]
        self._weighted = [(blocks, step_weight**step) for step, blocks in enumerate(self._evictable)]
        self._blocks: dict[BlockKey, _Block] = {}
        self._num_cached = 0  # so far: the clock

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """Newest."""
        self._num_cached += 1
        depth_steps = ((value.num_blocks_before + 1).bit_length() - 1) // 2
        self._blocks[key] = _Block(min(depth_steps, _MAX_DEPTH_STEPS), self._num_cached)

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """To its place by its steps and last use."""
        if key not in self._blocks:
            self.add(key, value)
        block = self._blocks[key]
        self._evictable[block.step].put(key, block.last_use)

    def touch(self, key: BlockKey) -> None:
        """A use: newest, and one step more if it is the first."""
        block = self._blocks.get(key)
        if block is None:
            return
        is_evictable = key in self._evictable[block.step]
        self._evictable[block.step].discard(key)
        block.last_use = self._num_cached
        if not block.was_found:
            block.was_found = True
            block.step += 1
        if is_evictable:
            self._evictable[block.step].put(key, block.last_use)

    def release(self, key: BlockKey) -> None:
        """Newest."""
        block = self._blocks.get(key)
        if block is not None:
            block.last_use = self._num_cached

    def remove(self, key: BlockKey) -> None:
        """Not evictable any more; its uses are remembered."""
        block = self._blocks.get(key)
        if block is not None:
            self._evictable[block.step].discard(key)

    def forget(self, key: BlockKey) -> None:
        """Gone."""
        block = self._blocks.pop(key, None)
        if block is not None:
            self._evictable[block.step].discard(key)

    def victim(self) -> BlockKey | None:
        """The oldest for its weight."""
        worst, worst_age = None, -1.0
        for evictable, weight in self._weighted:
            if evictable:
                key = evictable.lowest()
                if key is not None:
                    age = (self._num_cached - self._blocks[key].last_use) / weight
                    if age > worst_age:
                        worst, worst_age = key, age
        return worst
