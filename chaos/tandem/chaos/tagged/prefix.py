"""The tags that a sequence's context must carry, kept per sequence and extended token by token. Pure."""

from collections import OrderedDict
from collections.abc import Sequence as Items

import numpy as np

from tandem.chaos.tagged.model import Poison
from tandem.chaos.tagged.tags import Words, contributions, tags_of, tenant_seed
from tandem.engine.sequence import Sequence

_MOST_KEPT = 4096  # sequences; an older one is computed anew when it comes back
_POISONS = frozenset(Poison)


class PrefixTags:
    """Tags of a growing list of tokens of one tenant."""

    def __init__(self, tenant: str) -> None:
        self._seed = tenant_seed(tenant)
        self._sum = np.uint64(0)
        self._tags = np.empty(64, dtype=np.uint64)
        self.num_tokens = 0

    @property
    def tags(self) -> Words:
        """Tags of every prefix so far [num_tokens]; a view."""
        return self._tags[: self.num_tokens]

    def extend(self, token_ids: Items[int]) -> None:
        """Append tokens."""
        start, end = self.num_tokens, self.num_tokens + len(token_ids)
        sums = np.cumsum(contributions(token_ids, start), dtype=np.uint64)
        sums += self._sum
        if end > len(self._tags):
            grown = np.empty(max(end, 2 * len(self._tags)), dtype=np.uint64)
            grown[:start] = self.tags
            self._tags = grown
        self._tags[start:end] = tags_of(self._seed, sums)
        self._sum = sums[-1]
        self.num_tokens = end


class TrackedSequence:
    """One sequence's expected tags and the poisons of its prompt."""

    def __init__(self, sequence: Sequence) -> None:
        self.tags = PrefixTags(sequence.attempt.task.tenant)
        self.poisons = frozenset(Poison(token) for token in _POISONS.intersection(sequence.prompt))

    def cover(self, sequence: Sequence, end: int) -> Words:
        """Return the tags of the first ``end`` tokens."""
        known = self.tags.num_tokens
        if known < end:
            self.tags.extend(sequence.tokens(known, end))
        return self.tags.tags[:end]


class TrackedSequences:
    """The sequences that were seen lately. What is known of one never changes: tokens are only appended to it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, int], TrackedSequence] = OrderedDict()

    def of(self, sequence: Sequence) -> TrackedSequence:
        """Return what is known of a sequence."""
        key = (sequence.key.request_id, sequence.key.attempt, sequence.child)
        tracked = self._known.get(key)
        if tracked is None:
            tracked = self._known[key] = TrackedSequence(sequence)
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return tracked
