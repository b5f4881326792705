"""Joins the KV pool to the tiers behind it: what leaves the pool is copied out, and what a new prompt needs comes back.

A sequence whose next blocks lie in a slower tier, where fetching them beats computing them, is held until they are here
or until computing them would have been no slower; meanwhile others run. Then it is admitted like any other: blocks that
came are cached blocks, and no more its own than anybody's. So a hold costs no memory, and a late, wrong or lost block
costs a computing. Engine thread only. A no-op without tiers.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tandem.core.blocks import BlockRef
from tandem.core.cache import TierStats
from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.core.kv_events import BlockKey, Tier, TierCost
from tandem.engine.attempts import AttemptBook
from tandem.engine.kv.block_cache import BlockCache
from tandem.engine.kv.block_table import BlockState
from tandem.engine.kv.chain import Chain
from tandem.engine.kv.memory import KvMemory
from tandem.engine.sequence import AttemptKind, Sequence
from tandem.prefix_cache.tiers.block_tiers import BlockTiers
from tandem.prefix_cache.tiers.jobs import Fetch, FetchedBlock
from tandem.prefix_cache.tiers.promotion import (
    NO_PROMOTION,
    FetchCost,
    PrefillTime,
    Promotion,
    TierRun,
    choose_promotion,
)

_WEIGHT = 0.2  # of the newest copy, in what copying costs


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionLimits:
    """Bounds on what tiers may cost the engine."""

    max_demoted_blocks: int  # copied out in one step
    max_hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    sequence: Sequence
    first: int  # place of the first fetched block in the prompt
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    promotion: Promotion
    fetch_s: float


class Promotions:
    """Demotes, fetches, holds."""

    def __init__(self, memory: KvMemory, book: AttemptBook, clock: Clock) -> None:
        self._memory = memory
        self._book = book
        self._clock = clock
        self._tiers: BlockTiers | None = None
        self._limits = PromotionLimits(max_demoted_blocks=0, max_hold_s=0.0)
        self._holds: dict[Fetch, _Hold] = {}
        self._num_demoted = 0  # in this step
        self._copy_s_per_byte = 1e-9
        self.prefill_s: PrefillTime | None = None  # until it is known nothing is fetched
        self.num_late = 0  # fetches that came after their hold

    def attach(self, tiers: BlockTiers, limits: PromotionLimits) -> None:
        """Use ``tiers`` from now on; before the first command. No-op without a prefix cache."""
        if self._memory.cache is not None:
            self._tiers, self._limits = tiers, limits
            self._memory.cache.slower = self

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Call ``wake``, from any thread, whenever something has arrived."""
        if self._tiers is not None:
            self._tiers.on_arrival = wake

    @property
    def num_held(self) -> int:
        """Sequences that wait for blocks."""
        return len(self._holds)

    # --- the cache's side --------------------------------------------------------------------------------------------

    def evicted(self, name: BlockKey, tenant: Tenant, ref: BlockRef) -> None:
        """Copy out a block that leaves the pool, unless that was done too often in this step."""
        tiers, pool = self._tiers, self._memory.pool
        if tiers is None or not tiers.wants(name, pool.block_bytes):
            return
        if self._num_demoted >= self._limits.max_demoted_blocks:
            tiers.num_skipped += 1
            return
        self._num_demoted += 1
        tiers.demote(name, tenant, pool.save(ref.block_id))

    def flushed(self, tenant: Tenant | None) -> int:
        """Forget what is in the tiers and on its way from them."""
        for fetch, hold in tuple(self._holds.items()):
            if tenant is None or fetch.tenant == tenant:
                self._drop(fetch, hold)
        return 0 if self._tiers is None else self._tiers.flush(tenant)

    def is_flush_pending(self) -> bool:
        """Whether Redis did not take a flush yet. Any thread."""
        return self._tiers is not None and self._tiers.is_flush_pending

    def stats(self, hit_tokens: Counter[Tier]) -> tuple[TierStats, ...]:
        """Return the numbers of each tier."""
        return () if self._tiers is None else self._tiers.stats(hit_tokens)

    def costs(self) -> tuple[TierCost, ...]:
        """Return what fetching from each tier costs now. Any thread."""
        return () if self._tiers is None else self._tiers.measured_costs()

    # --- the engine's side -------------------------------------------------------------------------------------------

    def begin(self, sequence: Sequence) -> None:
        """Hold a new sequence if blocks of it are worth fetching."""
        cache, tiers, prefill_s = self._memory.cache, self._tiers, self.prefill_s
        if cache is None or tiers is None or prefill_s is None:
            return
        tenant, block_size = sequence.attempt.task.tenant, self._memory.block_size
        num_full = (sequence.num_tokens - 1) // block_size
        cache.name(tenant, sequence.chain, sequence.tokens, num_full)
        first = cache.find(sequence.chain, num_full).num_blocks
        missing = sequence.chain.keys[first:num_full]
        if not missing:
            return
        choice = self._choose(tiers, prefill_s, sequence.num_tokens, first, missing)
        num_blocks = choice.promotion.num_blocks
        if not num_blocks or num_blocks > self._memory.num_free:
            return
        now_s = self._clock.now_s()
        hold_s = min(choice.fetch_s + choice.promotion.saved_s, self._limits.max_hold_s)
        fetch = Fetch(
            tenant=tenant,
            keys=tuple(missing[:num_blocks]),
            num_public=max(sequence.chain.num_public - first, 0),
            block_bytes=self._memory.pool.block_bytes,
            deadline_s=now_s + hold_s,
            asks_remote=num_blocks > tiers.num_in_host(missing),
        )
        if tiers.fetch(fetch):
            sequence.is_held = True
            self._holds[fetch] = _Hold(sequence=sequence, first=first, until_s=fetch.deadline_s)

    def begin_step(self) -> None:
        """A step begins: it may copy out so many blocks again."""
        self._num_demoted = 0

    def settle(self) -> None:
        """Take what has arrived, and let go of those who waited long enough."""
        if self._tiers is None:
            return
        if self._tiers.has_arrivals:
            for fetch in self._tiers.take_arrivals():
                hold = self._holds.get(fetch)
                if hold is not None:
                    self._drop(fetch, hold)
                    self._arrived(fetch, hold)
        if self._holds:
            now_s = self._clock.now_s()
            for fetch, hold in tuple(self._holds.items()):
                if hold.until_s <= now_s or hold.sequence.attempt not in self._book:
                    self.num_late += 1
                    self._drop(fetch, hold)

    def next_end_s(self) -> float | None:
        """Return when the next hold ends by itself; None without one."""
        return min((hold.until_s for hold in self._holds.values()), default=None)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _choose(
        self, tiers: BlockTiers, prefill_s: PrefillTime, num_tokens: int, first: int, missing: list[BlockKey]
    ) -> _Choice:
        """The better of the host's blocks alone, and of them and what Redis may have behind them."""
        host = tiers.num_in_host(missing)
        choices = [self._choice(prefill_s, num_tokens, first, host, tiers.costs[Tier.HOST].now)] if host else []
        if host < len(missing) and tiers.asks_remote():
            mixed = _mixed(tiers.costs[Tier.HOST].now, tiers.costs[Tier.REMOTE].now, host / len(missing))
            choices.append(self._choice(prefill_s, num_tokens, first, len(missing), mixed))
        return max(
            choices,
            key=lambda choice: choice.promotion.saved_s,
            default=_Choice(promotion=NO_PROMOTION, fetch_s=0.0),
        )

    def _choice(
        self, prefill_s: PrefillTime, num_tokens: int, first: int, num_blocks: int, fetch_cost: FetchCost
    ) -> _Choice:
        block_bytes = self._memory.pool.block_bytes
        cost = FetchCost(fixed_s=fetch_cost.fixed_s, s_per_byte=fetch_cost.s_per_byte + self._copy_s_per_byte)
        run = TierRun(
            num_prompt_tokens=num_tokens,
            num_device_blocks=first,
            num_tier_blocks=num_blocks,
            block_size=self._memory.block_size,
            block_bytes=block_bytes,
        )
        promotion = choose_promotion(run, cost, prefill_s, deadline_s=self._limits.max_hold_s)
        fetch_s = cost.fixed_s + cost.s_per_byte * block_bytes * promotion.num_blocks
        return _Choice(promotion=promotion, fetch_s=fetch_s)

    def _drop(self, fetch: Fetch, hold: _Hold) -> None:
        fetch.is_dropped = True
        hold.sequence.is_held = False
        del self._holds[fetch]

    def _arrived(self, fetch: Fetch, hold: _Hold) -> None:
        cache, sequence = self._memory.cache, hold.sequence
        if cache is None or not fetch.blocks or sequence.attempt not in self._book or sequence.blocks:
            return
        chain = sequence.chain.emptied().copy()
        # What is in the pool already is held while room is made, or it could be given up for what follows it.
        num_here = cache.find(chain, hold.first + len(fetch.blocks)).num_blocks
        new = fetch.blocks[num_here - hold.first :] if num_here >= hold.first else []
        new = [block for block in new if len(block.payload) == self._memory.pool.block_bytes]
        if not new:
            return
        refs: list[BlockRef] = list(cache.lend(sequence.key, chain, num_here)) if num_here else []
        if len(new) <= self._memory.num_free:
            refs += self._enter(cache, sequence, chain, new)
        self._memory.release(sequence.key, refs)

    def _enter(
        self, cache: BlockCache, sequence: Sequence, chain: Chain, blocks: list[FetchedBlock]
    ) -> tuple[BlockRef, ...]:
        began_s, key, block_size = self._clock.now_s(), sequence.key, self._memory.block_size
        is_prefill = sequence.attempt.kind is AttemptKind.PREFILL
        refs = self._memory.allocate(key, len(blocks), BlockState.FILLING if is_prefill else BlockState.COMMITTED)
        for ref, block in zip(refs, blocks, strict=True):
            self._memory.pool.restore(ref.block_id, block.payload)
        if not self._memory.is_finite(refs):
            self._memory.scrub(refs)  # it was finite when it left: something is wrong with this machine, not with us
            return refs
        num_before = chain.num_cached
        entered = cache.enter(key, sequence.attempt.task.tenant, chain, refs)
        for block in blocks[: chain.num_cached - num_before]:
            sequence.attempt.promoted_tokens[block.tier] += block_size
            if self._tiers is not None:
                self._tiers.promoted[block.tier] += 1
        seconds = self._clock.now_s() - began_s
        s_per_byte = seconds / (len(blocks) * self._memory.pool.block_bytes)
        self._copy_s_per_byte += _WEIGHT * (s_per_byte - self._copy_s_per_byte)
        return entered


def _mixed(host: FetchCost, remote: FetchCost, host_share: float) -> FetchCost:
    """Cost of blocks of which ``host_share`` come from the host tier, the rest from Redis."""
    return FetchCost(
        fixed_s=remote.fixed_s + (host.fixed_s if host_share else 0.0),
        s_per_byte=host_share * host.s_per_byte + (1.0 - host_share) * remote.s_per_byte,
    )
