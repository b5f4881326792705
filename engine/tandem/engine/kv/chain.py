"""The start of one sequence's block table, as the prefix cache knows it. State only."""

from dataclasses import dataclass, field

from tandem.prefix_cache.keys import BlockKey


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

    def copy(self) -> "Chain":
        """For a child that forks: the same start, then its own way."""
        return Chain(list(self.keys), self.num_cached, self.is_closed)

    def emptied(self) -> "Chain":
        """The same tokens without blocks."""
        return Chain(self.keys)
