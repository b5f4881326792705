"""The start of one sequence's block table, as the prefix cache knows it. State only."""

from dataclasses import dataclass, field, replace

from tandem.prefix_cache.keys import BlockKey


@dataclass(frozen=True, slots=True)
class FlushCount:
    """How often blocks of a tenant, and those of all, had been flushed."""

    of_tenant: int
    of_all: int


@dataclass(slots=True)
class Chain:
    """::

    blocks    [k][k][k][C][C][.]      k = the cache's, borrowed; then blocks of the sequence's own
    keys       0  1  2  3             names of full blocks, as far as they were needed
               └─ num_cached = 3
    """

    keys: list[BlockKey] = field(default_factory=list)
    num_cached: int = 0
    is_closed: bool = False  # nothing more of it enters the cache
    num_public: int = 0  # of its blocks, from the first on, are of a public prefix
    named_at: FlushCount | None = None  # what was flushed later is not to come in again

    def copy(self) -> "Chain":
        """For a child that forks: the same start, then its own way."""
        return replace(self, keys=list(self.keys))

    def emptied(self) -> "Chain":
        """The same tokens without blocks."""
        return replace(self, num_cached=0, is_closed=False)
