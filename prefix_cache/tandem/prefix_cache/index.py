"""Which worker holds which prefix: the router's bounded, positional index. A hint: wrong entries cost affinity only.

One dictionary maps a block's name to a set of *holders* (a worker's tier) written as bits of one integer. Names are
chained, so a name stands for the whole prefix up to its block, and workers give up leaves before their parents: a
holder's blocks of one prompt are a run from its start. So a look-up need not visit every block: it jumps, and halves
the last jump for holders whose run ends inside it: O(blocks / jump + holders · log jump).

Holders are numbered afresh for every life of a worker and every snapshot. A life that ends is forgotten by clearing
its bit from the mask of the living, at once; its bits in the dictionary are swept out later, a slice at a time.

The dictionary is cut into *shards* by a name's last byte (names are hashes, so they fill evenly). A walk over all names
goes shard by shard, so that what has to be copied at once, because a dictionary may not change under a walk, is small.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.events import Cleared, KvEvent, Removed, Stored, Tier
from tandem.prefix_cache.keys import BlockKey

_JUMP = 32
_SPARE_SHARE = 64  # of the bound; dropped at once when it is passed
_SHARD_BLOCKS = 1 << 16  # about; copying so many names takes half a millisecond
_MAX_SHARDS = 256


@dataclass(frozen=True, slots=True)
class CacheHolder:
    """One life of one worker."""

    worker_id: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """How much of a prompt a worker holds: ``num_blocks`` from the start, ``num_device_blocks`` of these on its device.

    The others would be fetched from the worker's slower tiers, ``num_remote_blocks`` of them from Redis.
    """

    num_blocks: int
    num_device_blocks: int
    num_remote_blocks: int = 0


@dataclass(slots=True)
class _Life:
    number: int
    bits: dict[Tier, int]


@dataclass(frozen=True, slots=True)
class LifeMark:
    """What is known of a holder since it was begun last; equal marks: it was not begun anew in between."""

    holder: CacheHolder
    number: int


@dataclass(frozen=True, slots=True)
class HeldNames:
    """Some of the names that a holder has in a tier."""

    holder: CacheHolder
    tier: Tier
    keys: tuple[BlockKey, ...]


class PrefixIndex:
    """Holders of at most ``max_blocks`` names. Single-threaded, like the router's loop that owns it."""

    def __init__(self, *, max_blocks: int = 2_000_000, jump: int = _JUMP) -> None:
        self._max_blocks = max_blocks
        self._jump = jump
        num_shards = min(1 << max(max_blocks // _SHARD_BLOCKS, 1).bit_length() - 1, _MAX_SHARDS)
        self._shards: list[dict[BlockKey, int]] = [{} for _ in range(num_shards)]
        self._last_shard = num_shards - 1
        self._lives: dict[CacheHolder, _Life] = {}
        self._num_lives = 0  # that ever were
        self._free_bits: list[int] = []
        self._num_bits = 0
        self._living = 0
        self._dead = 0  # bits that may still stand in the dictionary
        self._sweep: Iterator[BlockKey] | None = None
        self._sweeping = 0  # the dead bits that the running sweep takes out
        self.num_overflowed = 0

    def __len__(self) -> int:
        return sum(map(len, self._shards))

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
        shards, last_shard = self._shards, self._last_shard
        tiers = [tuple(life.bits.values()) for life in self._lives.values()]
        runs: dict[int, int] = {}
        present = self._living & self._mask(keys[0])
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
            key = keys[high]
            mask = shards[key[-1] & last_shard].get(key, 0)
            if wanted & ~mask:  # else every tier of every worker goes on
                for group in [group for group in alive if not group & mask]:
                    runs[alive.pop(group)] = 1 + self._last_held(keys, group, low, high)
                    wanted &= ~group
            low = high
        for index in alive.values():
            runs[index] = len(keys)
        for index, (holder, life) in enumerate(self._lives.items()):
            num_blocks = runs.get(index)
            if num_blocks:
                matches[holder] = self._by_tier(life, keys, num_blocks)
        return matches

    def sweep(self, max_blocks: int = 2000) -> bool:
        """Take the bits of ended lives out of the next ``max_blocks`` entries; False when nothing is left to do."""
        if self._sweep is None:
            if not self._dead:
                return False
            self._sweeping, self._dead = self._dead, 0
            self._sweep = self._names()
        keep, shards, last_shard = ~self._sweeping, self._shards, self._last_shard
        for _ in range(max_blocks):
            key = next(self._sweep, None)
            if key is None:
                self._recycle(self._sweeping)
                self._sweep, self._sweeping = None, 0
                return bool(self._dead)
            holders = shards[key[-1] & last_shard]
            mask = holders.get(key)
            if mask is None or not mask & ~keep:
                continue
            if mask & keep:
                holders[key] = mask & keep
            else:
                del holders[key]
        return True

    def mark(self, holder: CacheHolder) -> LifeMark | None:
        """Return the mark of what is known of ``holder``; None when nothing is."""
        life = self._lives.get(holder)
        return None if life is None else LifeMark(holder, life.number)

    def walk(self, holders: Collection[CacheHolder], *, step_blocks: int = 2000) -> Iterator[list[HeldNames]]:
        """Yield the names of ``holders``, a shard's oldest first, ``step_blocks`` names looked at or found at a time.

        The index may change between two steps. What is stored or removed meanwhile may be told as it was before or
        after; everything else is told as it is. A holder whose mark is another one in the end was told wrongly.
        """
        whose = {
            bit: (holder, tier)
            for holder in holders
            if holder in self._lives
            for tier, bit in self._lives[holder].bits.items()
        }
        for found in self._found(sum(whose), step_blocks):
            yield [HeldNames(*whose[bit], tuple(keys)) for bit, keys in found.items()]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _by_tier(self, life: _Life, keys: Sequence[BlockKey], num_blocks: int) -> PrefixMatch:
        device, host = life.bits.get(Tier.DEVICE, 0), life.bits.get(Tier.HOST, 0)
        if device and sum(life.bits.values()) == device:
            return PrefixMatch(num_blocks=num_blocks, num_device_blocks=num_blocks)
        num_device = num_near = 0
        for key in keys[:num_blocks]:
            mask = self._mask(key)
            num_device += bool(mask & device)
            num_near += bool(mask & (device | host))
        return PrefixMatch(num_blocks=num_blocks, num_device_blocks=num_device, num_remote_blocks=num_blocks - num_near)

    def _found(self, wanted: int, step_blocks: int) -> Iterator[dict[int, list[BlockKey]]]:
        """Yield names by bit: after ``step_blocks`` names were looked at, or as many were found."""
        for shard in self._shards:
            found: dict[int, list[BlockKey]] = {}
            num_left = step_blocks
            for key in list(shard):
                mask = shard.get(key, 0) & wanted
                num_left -= 1 + mask.bit_count()
                while mask:
                    bit = mask & -mask
                    found.setdefault(bit, []).append(key)
                    mask ^= bit
                if num_left <= 0:
                    yield found
                    found, num_left = {}, step_blocks
            yield found

    def _mask(self, key: BlockKey) -> int:
        return self._shards[key[-1] & self._last_shard].get(key, 0)

    def _names(self) -> Iterator[BlockKey]:
        for shard in self._shards:
            yield from list(shard)

    def _last_held(self, keys: Sequence[BlockKey], group: int, low: int, high: int) -> int:
        """Index of the last block of the run that reaches ``low`` and ends before ``high``."""
        while high - low > 1:
            middle = (low + high) // 2
            if self._mask(keys[middle]) & group:
                low = middle
            else:
                high = middle
        return low

    def _bit(self, holder: CacheHolder, tier: Tier) -> int:
        life = self._lives.get(holder)
        if life is None:
            self._num_lives += 1
            life = self._lives[holder] = _Life(self._num_lives, {})
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
        shards, last_shard = self._shards, self._last_shard
        for key in keys:
            shard = shards[key[-1] & last_shard]
            shard[key] = shard.get(key, 0) | bit
        num_blocks = len(self)
        if num_blocks > self._max_blocks:
            self._make_room(num_blocks)

    def _make_room(self, num_blocks: int) -> None:
        """Drop the names that were first stored longest ago; many at once, because a dictionary's head is slow."""
        num_over = num_blocks - self._max_blocks + self._max_blocks // _SPARE_SHARE
        for shard in self._shards:
            share = -(-num_over * len(shard) // num_blocks)
            for key in list(itertools.islice(shard, share)):
                del shard[key]
        self.num_overflowed += num_blocks - len(self)

    def _remove(self, bit: int, keys: Sequence[BlockKey]) -> None:
        shards, last_shard = self._shards, self._last_shard
        for key in keys:
            holders = shards[key[-1] & last_shard]
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
