"""Prefixes that callers pinned for a while, within quotas. Pure but for the clock; whoever asks acts on the answer.

A pin covers the run of blocks from the start of a prompt. One that is asked for again is renewed; several may share
blocks, which are kept until the last of them ends.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.keys import BlockKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """One pin."""

    names: tuple[BlockKey, ...]
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one request to keep came to: so many blocks are kept, ``names`` of them only from now on."""

    num_blocks: int
    names: tuple[BlockKey, ...] = ()


class Keeps:
    """All pins of one worker."""

    def __init__(self, settings: PrefixCacheConfig, *, num_blocks: int, clock: Clock) -> None:
        self._clock = clock
        self._max_ttl_s = settings.max_pin_ttl_s
        self._max_blocks = int(settings.max_pinned_share * num_blocks)
        self._max_tenant_blocks = int(settings.max_pinned_tenant_share * num_blocks)
        self._keeps: dict[tuple[Tenant, BlockKey], Keep] = {}  # by the last block, which names the whole run
        self._counts: Counter[BlockKey] = Counter()
        self._tenant_counts: dict[Tenant, Counter[BlockKey]] = {}
        self._next_end_s = math.inf  # no pin ends before

    @property
    def num_blocks(self) -> int:
        """Blocks that are kept now."""
        return len(self._counts)

    def add(self, tenant: Tenant, names: Sequence[BlockKey], ttl_s: float) -> Made:
        """Keep as many of ``names``, from the first on, as the quotas allow."""
        counts, own = self._counts, self._tenant_counts.get(tenant, Counter())
        room, own_room = self._max_blocks - len(counts), self._max_tenant_blocks - len(own)
        num_blocks = 0
        for name in names:
            room -= name not in counts
            own_room -= name not in own
            if room < 0 or own_room < 0:
                break
            num_blocks += 1
        until_s = self._clock.now_s() + min(ttl_s, self._max_ttl_s)
        kept = tuple(names[:num_blocks])
        new = tuple(name for name in kept if name not in counts)
        known = self._keeps.get((tenant, kept[-1])) if kept else None
        if known is not None:
            until_s = max(until_s, known.until_s)
        elif kept:
            counts.update(kept)
            own.update(kept)
            self._tenant_counts[tenant] = own
        if kept:
            self._keeps[tenant, kept[-1]] = Keep(names=kept, until_s=until_s)
            self._next_end_s = min(self._next_end_s, until_s)
        return Made(num_blocks=num_blocks, names=new)

    def drop(self, tenant: Tenant) -> tuple[BlockKey, ...]:
        """End all pins of ``tenant``; return the blocks that nothing keeps any more."""
        return self._end([which for which in self._keeps if which[0] == tenant])

    def drop_all(self) -> tuple[BlockKey, ...]:
        """End all pins; return the blocks."""
        return self._end(list(self._keeps))

    def end_one(self, asker: Tenant) -> tuple[BlockKey, ...] | None:
        """End one pin before its time, for ``asker``'s sake: its own first, and of them the one that ends soonest.

        Return the blocks that nothing keeps any more, which may be none; None: there was no pin.
        """
        if not self._keeps:
            return None
        return self._end([min(self._keeps, key=lambda which: (which[0] != asker, self._keeps[which].until_s))])

    def expired(self) -> tuple[BlockKey, ...]:
        """End the pins whose time is over; return the blocks that nothing keeps any more."""
        now_s = self._clock.now_s()
        if now_s < self._next_end_s:
            return ()
        ended = self._end([which for which, keep in self._keeps.items() if keep.until_s <= now_s])
        self._next_end_s = min((keep.until_s for keep in self._keeps.values()), default=math.inf)
        return ended

    def _end(self, ended: Sequence[tuple[Tenant, BlockKey]]) -> tuple[BlockKey, ...]:
        free: dict[BlockKey, None] = {}
        for which in ended:
            own = self._tenant_counts[which[0]]
            for name in self._keeps.pop(which).names:
                _one_less(own, name)
                if _one_less(self._counts, name):
                    free[name] = None
            if not own:
                del self._tenant_counts[which[0]]
        return tuple(free)


def _one_less(counts: Counter[BlockKey], name: BlockKey) -> bool:
    """Count down; True at zero."""
    counts[name] -= 1
    if counts[name]:
        return False
    del counts[name]
    return True
