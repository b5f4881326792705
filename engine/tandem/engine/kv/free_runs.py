"""The free blocks of a pool as runs of neighbouring ids. Pure; who owns a block is the block table's business.

A sequence whose blocks are neighbours can be read by the CPU attention as one slice instead of a gather, so runs are
kept whole where that costs nothing::

    packed       the smallest run that fits        for what never grows (a prompt on a prefill worker)
    with room    the middle of the largest run     for what grows: whoever lies before it keeps half of the room
    after b      b+1, b+2, … while they are free   for what grows now
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable


class FreeRuns:
    """A set of block ids, handed out as contiguous ascending ids where possible."""

    def __init__(self, num_blocks: int) -> None:
        self._starts: list[int] = [0] if num_blocks else []
        self._lengths: dict[int, int] = {0: num_blocks} if num_blocks else {}
        self._num_free = num_blocks

    def __len__(self) -> int:
        return self._num_free

    def __contains__(self, block_id: int) -> bool:
        place = bisect_right(self._starts, block_id) - 1
        if place < 0:
            return False
        start = self._starts[place]
        return block_id < start + self._lengths[start]

    def take_packed(self, num_blocks: int) -> list[int]:
        """Take ``num_blocks`` ids, ascending, from the smallest run that fits, else from the largest ones."""
        taken: list[int] = []
        while len(taken) < num_blocks:
            missing = num_blocks - len(taken)
            fitting = [start for start in self._starts if self._lengths[start] >= missing]
            start = min(fitting, key=self._lengths.__getitem__) if fitting else self._largest()
            taken += self._cut(start, start, min(missing, self._lengths[start]))
        return sorted(taken)

    def take_with_room(self, num_blocks: int) -> list[int]:
        """Take ``num_blocks`` ids, ascending, so that they and their neighbours have free ids behind them."""
        start = self._largest()
        spare = self._lengths[start] - num_blocks
        if spare < 0:
            return self.take_packed(num_blocks)
        return self._cut(start, start + (spare // 2 if start else 0), num_blocks)

    def take_after(self, block_id: int, num_blocks: int) -> list[int]:
        """Take up to ``num_blocks`` ids that directly follow ``block_id``; the rest comes from ``take_with_room``."""
        following = block_id + 1
        taken: list[int] = []
        if following in self._lengths:
            taken = self._cut(following, following, min(num_blocks, self._lengths[following]))
        missing = num_blocks - len(taken)
        return taken + self.take_with_room(missing) if missing else taken

    def put(self, block_ids: Iterable[int]) -> None:
        """Give ids back; they join their free neighbours."""
        for block_id in block_ids:
            self._put(block_id)

    def _largest(self) -> int:
        if not self._starts:
            raise ValueError("no free block is left; ask len() first")
        return max(self._starts, key=lambda start: (self._lengths[start], -start))

    def _cut(self, run: int, first: int, num_blocks: int) -> list[int]:
        """Take ``first .. first + num_blocks`` out of the run that starts at ``run``."""
        length = self._lengths.pop(run)
        self._starts.pop(bisect_left(self._starts, run))
        behind = run + length - (first + num_blocks)
        for start, rest in ((run, first - run), (first + num_blocks, behind)):
            if rest:
                insort(self._starts, start)
                self._lengths[start] = rest
        self._num_free -= num_blocks
        return list(range(first, first + num_blocks))

    def _put(self, block_id: int) -> None:
        if block_id in self:
            raise ValueError(f"block {block_id} is free already")
        start, length = block_id, 1
        place = bisect_left(self._starts, block_id)
        if place < len(self._starts) and self._starts[place] == block_id + 1:
            length += self._lengths.pop(self._starts.pop(place))
        if place and self._starts[place - 1] + self._lengths[self._starts[place - 1]] == block_id:
            start = self._starts[place - 1]
            self._lengths[start] += length
        else:
            self._starts.insert(place, start)
            self._lengths[start] = length
        self._num_free += 1
