"""What an eviction policy is told and asked. Zero I/O, no clock: time is the order of the calls."""

from dataclasses import dataclass
from typing import Protocol

from tandem.prefix_cache.keys import BlockKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockValue:
    """What a cached block is worth."""

    recompute_s: float  # predicted seconds to compute it again, given the blocks before it
    num_blocks_before: int = 0  # in its prompt


class EvictionPolicy(Protocol):
    """Order in which evictable blocks go.

    A block is *evictable* while nobody uses it and no cached block follows it. All blocks of a worker have the same
    size, so a block's worth per byte is its worth.
    """

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """A block was cached. It is not evictable yet: who computed it uses it."""
        ...

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """A block became evictable, for the first time or again. That is no use of it: maybe what followed it went."""
        ...

    def touch(self, key: BlockKey) -> None:
        """A prompt found this block in the cache: it counts, whether the block is evictable now or not."""
        ...

    def release(self, key: BlockKey) -> None:
        """The last who used a block let go of it: that was when it was last used."""
        ...

    def remove(self, key: BlockKey) -> None:
        """A block is not evictable now: somebody uses it, or a block that follows it was cached."""
        ...

    def forget(self, key: BlockKey) -> None:
        """The block left the cache: evicted or flushed."""
        ...

    def victim(self) -> BlockKey | None:
        """Return the block to give up next; None when none is evictable. The policy knows it until ``forget``."""
        ...
