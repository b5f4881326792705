"""Which attempts read which cached blocks, counted. Pure; the block table's lock guards it."""

from collections import Counter
from collections.abc import Iterable

from tandem.core.blocks import AttemptKey


class Borrowers:
    """References of attempts to blocks that belong to the cache, in the order in which they were taken."""

    def __init__(self) -> None:
        self._counts: dict[AttemptKey, dict[int, int]] = {}

    def __contains__(self, key: AttemptKey) -> bool:
        return key in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: AttemptKey, block_id: int) -> int:
        """References of ``key`` to the block."""
        return self._counts.get(key, {}).get(block_id, 0)

    def blocks_of(self, key: AttemptKey) -> tuple[int, ...]:
        """Blocks that ``key`` reads, first borrowed first."""
        return tuple(self._counts.get(key, ()))

    def add(self, key: AttemptKey, block_id: int, count: int = 1) -> None:
        """``count`` more references."""
        held = self._counts.setdefault(key, {})
        held[block_id] = held.get(block_id, 0) + count

    def drop(self, key: AttemptKey, block_id: int) -> bool:
        """One reference less; True when it was the last one of ``key``."""
        held = self._counts[key]
        held[block_id] -= 1
        if held[block_id]:
            return False
        del held[block_id]
        if not held:
            del self._counts[key]
        return True

    def drop_all(self, key: AttemptKey) -> dict[int, int]:
        """Forget ``key``; return what it had: references by block."""
        return self._counts.pop(key, {})

    def move(self, old: AttemptKey, new: AttemptKey) -> Iterable[int]:
        """Give all references of ``old`` to ``new``, which has none; return the blocks."""
        held = self._counts.pop(old, None)
        if held is None:
            return ()
        self._counts[new] = held
        return tuple(held)

    def totals(self) -> Counter[int]:
        """References by block, over all attempts."""
        totals: Counter[int] = Counter()
        for held in self._counts.values():
            totals.update(held)
        return totals
