"""Which worker holds which prefix: the router's bounded, positional index. A hint: wrong entries cost affinity only.

One dictionary maps a block's name to a set of *holders* (a worker's tier) written as bits of one integer. Names are
chained, so a name stands for the whole prefix up to its block, and workers give up leaves before their parents: a
holder's blocks of one prompt are a run from its start. So a look-up need not visit every block: it jumps, and halves
the last jump for holders whose run ends inside it: O(blocks / jump + holders · log jump).

Holders are numbered afresh for every life of a worker and every snapshot. A life that ends is forgotten by clearing
its bit from the mask of the living, at once; its bits in the dictionary are swept out later, a slice at a time.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.events import Cleared, KvEvent, Removed, Stored, Tier
from tandem.prefix_cache.keys import BlockKey

_JUMP = 32
_SPARE_SHARE = 64  # of the bound; dropped at once when it is passed


@dataclass(frozen=True, slots=True)
class CacheHolder:
    """One life of one worker."""

    worker_id: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """How much of a prompt a worker holds: ``num_blocks`` from the start, ``num_device_blocks`` of these on its device.

    The others would be fetched from the worker's slower tiers.
    """

    num_blocks: int
    num_device_blocks: int


@dataclass(slots=True)
class _Life:
    bits: dict[Tier, int]


class PrefixIndex:
    """Holders of at most ``max_blocks`` names. Single-threaded, like the router's loop that owns it."""

    def __init__(self, *, max_blocks: int = 2_000_000, jump: int = _JUMP) -> None:
        self._max_blocks = max_blocks
        self._jump = jump
        self._holders: dict[BlockKey, int] = {}
        self._lives: dict[CacheHolder, _Life] = {}
        self._free_bits: list[int] = []
        self._num_bits = 0
        self._living = 0
        self._dead = 0  # bits that may still stand in the dictionary
        self._sweep: Iterator[BlockKey] | None = None
        self._sweeping = 0  # the dead bits that the running sweep takes out
        self.num_overflowed = 0

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def num_holders(self) -> int:
        """Lives of workers that are known."""
        return len(self._lives)

    def apply(self, holder: CacheHolder, event: KvEvent) -> None:
        """Take one event of ``holder``."""
        match event:
            case Stored():
                self._store(self._bit(holder, event.tier), event.keys)
            case Removed():
                life = self._lives.get(holder)
                if life is not None and event.tier in life.bits:
                    self._remove(life.bits[event.tier], event.keys)
            case Cleared():
                self.forget(holder)

    def replace(self, holder: CacheHolder, held: Sequence[Stored]) -> None:
        """Take a snapshot: whatever was known of ``holder`` before is forgotten."""
        self.forget(holder)
        for stored in held:
            self.apply(holder, stored)

    def forget(self, holder: CacheHolder) -> None:
        """That life is over, or lost its cache. O(1); the memory comes back with ``sweep``."""
        life = self._lives.pop(holder, None)
        if life is None:
            return
        for bit in life.bits.values():
            self._living &= ~bit
            self._dead |= bit

    def match(self, keys: Sequence[BlockKey]) -> dict[CacheHolder, PrefixMatch]:
        """Return how much of the prompt with these blocks each worker holds; workers without any are left out."""
        if not keys:
            return {}
        holders, living = self._holders, self._living
        tiers = [tuple(life.bits.values()) for life in self._lives.values()]
        runs: dict[int, int] = {}
        present = living & holders.get(keys[0], 0)
        matches: dict[CacheHolder, PrefixMatch] = {}
        if not present:
            return matches
        # A worker's run is over all of its tiers together: a parent may have been moved to the host already.
        groups = {sum(bits): index for index, bits in enumerate(tiers) if sum(bits) & present}
        last_index, low = len(keys) - 1, 0
        alive = dict(groups)
        wanted = sum(alive)
        while alive and low < last_index:
            high = min(low + self._jump, last_index)
            mask = holders.get(keys[high], 0)
            if wanted & ~mask:  # else every tier of every worker goes on
                for group in [group for group in alive if not group & mask]:
                    runs[alive.pop(group)] = 1 + _last_held(holders, keys, group, low, high)
                    wanted &= ~group
            low = high
        for index in alive.values():
            runs[index] = len(keys)
        for index, (holder, life) in enumerate(self._lives.items()):
            num_blocks = runs.get(index)
            if num_blocks:
                matches[holder] = PrefixMatch(
                    num_blocks=num_blocks, num_device_blocks=self._num_on_device(life, keys, num_blocks)
                )
        return matches

    def sweep(self, max_blocks: int = 2000) -> bool:
        """Take the bits of ended lives out of the next ``max_blocks`` entries; False when nothing is left to do."""
        if self._sweep is None:
            if not self._dead:
                return False
            self._sweeping, self._dead = self._dead, 0
            self._sweep = iter(list(self._holders))  # 10 ms per million names, once per life
        keep, holders = ~self._sweeping, self._holders
        for _ in range(max_blocks):
            key = next(self._sweep, None)
            if key is None:
                self._recycle(self._sweeping)
                self._sweep, self._sweeping = None, 0
                return bool(self._dead)
            mask = holders.get(key)
            if mask is None or not mask & ~keep:
                continue
            if mask & keep:
                holders[key] = mask & keep
            else:
                del holders[key]
        return True

    # --- inside ------------------------------------------------------------------------------------------------------

    def _num_on_device(self, life: _Life, keys: Sequence[BlockKey], num_blocks: int) -> int:
        device = life.bits.get(Tier.DEVICE, 0)
        if device and sum(life.bits.values()) == device:
            return num_blocks
        return sum(bool(self._holders.get(key, 0) & device) for key in keys[:num_blocks])

    def _bit(self, holder: CacheHolder, tier: Tier) -> int:
        life = self._lives.setdefault(holder, _Life({}))
        bit = life.bits.get(tier)
        if bit is None:
            if self._free_bits:
                bit = self._free_bits.pop()
            else:
                bit, self._num_bits = 1 << self._num_bits, self._num_bits + 1
            life.bits[tier] = bit
            self._living |= bit
        return bit

    def _store(self, bit: int, keys: Sequence[BlockKey]) -> None:
        holders = self._holders
        for key in keys:
            holders[key] = holders.get(key, 0) | bit
        if len(holders) > self._max_blocks:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the names that were first stored longest ago; many at once, because a dictionary's head is slow."""
        num_over = len(self._holders) - self._max_blocks + self._max_blocks // _SPARE_SHARE
        for key in list(itertools.islice(self._holders, num_over)):
            del self._holders[key]
        self.num_overflowed += num_over

    def _remove(self, bit: int, keys: Sequence[BlockKey]) -> None:
        holders = self._holders
        for key in keys:
            mask = holders.get(key)
            if mask is None or not mask & bit:
                continue
            if mask == bit:
                del holders[key]
            else:
                holders[key] = mask & ~bit

    def _recycle(self, bits: int) -> None:
        while bits:
            bit = bits & -bits
            self._free_bits.append(bit)
            bits ^= bit


def _last_held(holders: dict[BlockKey, int], keys: Sequence[BlockKey], group: int, low: int, high: int) -> int:
    """Index of the last block of the run that reaches ``low`` and ends before ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        if holders.get(keys[middle], 0) & group:
            low = middle
        else:
            high = middle
    return low
