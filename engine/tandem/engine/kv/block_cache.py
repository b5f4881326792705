"""The prefix cache of one worker: joins names, the tree and the block table. It moves no byte of KV.

A cached block is the table's CACHED block and the tree's node of one name; ``BlockCache`` keeps the two together. Every
full block enters as soon as it is filled and checked, while its attempt goes on reading it, so equal prompts that
come at once share what is done. Engine thread only, except ``events``.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.cache import TierStats
from tandem.core.clock import Clock
from tandem.core.ids import Epoch, Tenant
from tandem.core.kv_events import TierCost
from tandem.engine.kv.block_table import BlockTable
from tandem.engine.kv.cache_stats import CacheCounters, CacheStats, TenantUse
from tandem.engine.kv.chain import Chain, FlushCount
from tandem.engine.kv.keeps import Keeps
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.event_log import KvEventLog
from tandem.prefix_cache.events import Cleared, Removed, Stored, Tier
from tandem.prefix_cache.eviction.choice import make_policy
from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.keys import PUBLIC_OWNER, BlockKey, PrefixKeyer, PrefixSpace
from tandem.prefix_cache.tree import CacheTree

_MAX_KEYERS = 1024
_MAX_TENANT_FLUSHES = 4096  # tenants whose flushes are told apart
_SLICE_BLOCKS = 256  # that a flush gives up at once: a step must not wait for a flush of everything
RecomputeCost = Callable[[int], float]
"""Seconds to compute one block again that follows so many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheSetup:
    """What a worker's cache is made of. ``repr`` does not show the secret."""

    settings: PrefixCacheConfig
    secret: bytes
    epoch: Epoch
    layout_fingerprint: str = ""  # of the pool's KV; whoever builds the engine fills it in
    is_shared_secret: bool = True  # other workers have the same: names of blocks mean something to them

    def __repr__(self) -> str:
        return f"CacheSetup(epoch={self.epoch})"


class SlowerTiers(Protocol):
    """What lies behind the KV pool."""

    def evicted(self, name: BlockKey, tenant: Tenant, ref: BlockRef) -> None:
        """A block is about to leave the pool for want of room; its bytes are still there."""
        ...

    def flushed(self, tenant: Tenant | None) -> int:
        """Forget what is there of ``tenant`` (None = of anybody); return how many blocks."""
        ...

    def is_flush_pending(self) -> bool:
        """Whether some tier did not take a flush yet. Any thread."""
        ...

    def stats(self, hit_tokens: Counter[Tier]) -> tuple[TierStats, ...]:
        """Return the numbers of each tier."""
        ...

    def costs(self) -> tuple[TierCost, ...]:
        """Return what fetching from each tier costs now. Any thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A cached start of a prompt: ``num_blocks`` full blocks, of which ``num_busy`` cost nothing: others read them."""

    num_blocks: int = 0
    num_busy: int = 0


def _even_cost(num_tokens_before: int) -> float:
    return 1.0 + 1e-4 * num_tokens_before  # until a latency model is known: later blocks attend to more


class BlockCache:
    """Finds, lends, takes in and gives up cached blocks."""

    def __init__(self, table: BlockTable, setup: CacheSetup, *, block_size: int, clock: Clock) -> None:
        settings = setup.settings
        self._table = table
        self._setup = setup
        self._block_size = block_size
        self._public = settings.public_token_ids()
        self._tree = CacheTree(lambda: make_policy(settings.eviction), weights=settings.weights())
        self._keyers: OrderedDict[Tenant, PrefixKeyer] = OrderedDict()
        self._refs: dict[BlockKey, BlockRef] = {}
        self._names: dict[int, BlockKey] = {}  # by block id
        self._flushed: set[BlockKey] = set()  # still here, never to be found again
        self._doomed: deque[BlockKey] = deque()  # flushed ones to look at: some may be given up now
        self._tenant_flushes: Counter[Tenant] = Counter()
        self._num_all_flushes = 0
        self._keeps = Keeps(settings, num_blocks=table.num_blocks, clock=clock)
        self._counters = CacheCounters()
        self.recompute_cost: RecomputeCost = _even_cost
        self.slower: SlowerTiers | None = None
        self.events = KvEventLog(setup.epoch, capacity=settings.event_ring_size)
        self.is_shared_secret = setup.is_shared_secret

    # --- finding and lending -----------------------------------------------------------------------------------------

    def name(self, tenant: Tenant, chain: Chain, token_ids: Callable[[int, int], Sequence[int]], num_full: int) -> None:
        """Name the first ``num_full`` blocks of a sequence; ``token_ids(start, end)`` are its tokens."""
        known = len(chain.keys)
        if num_full <= known:
            return
        keyer, end = self._keyer(tenant), num_full * self._block_size
        if known:
            chain.keys.extend(keyer.extend(chain.keys[-1], token_ids(known * self._block_size, end)))
        else:
            names, chain.num_public = keyer.keys_and_public(token_ids(0, end))
            chain.keys.extend(names)
            chain.named_at = self._flush_count(tenant)

    def find(self, chain: Chain, max_blocks: int) -> Found:
        """Return how much of a named chain is cached, at most ``max_blocks``."""
        keys = chain.keys[:max_blocks]
        num_blocks = self._tree.num_held(keys)
        if self._flushed:
            num_blocks = next((i for i, key in enumerate(keys[:num_blocks]) if key in self._flushed), num_blocks)
        refs = [self._refs[key] for key in keys[:num_blocks]]
        return Found(num_blocks=num_blocks, num_busy=len(refs) - self._table.num_idle_of(refs))

    def name_of(self, ref: BlockRef) -> BlockKey:
        """Return the name of a cached block; KeyError for any other."""
        return self._names[ref.block_id]

    def name_at(self, tenant: Tenant, token_ids: Sequence[int], num_blocks: int) -> BlockKey | None:
        """Return what block ``num_blocks - 1`` of a prompt is called, cached or not; None: the prompt is too short."""
        if not 1 <= num_blocks <= len(token_ids) // self._block_size:
            return None
        return self._keyer(tenant).keys(token_ids[: num_blocks * self._block_size])[-1]

    def lend(self, key: AttemptKey, chain: Chain, num_blocks: int) -> tuple[BlockRef, ...]:
        """Let ``key`` read the first ``num_blocks`` of the chain, which were found just now."""
        refs = tuple(self._refs[name] for name in chain.keys[:num_blocks])
        self._use(self._table.borrow(key, refs))
        chain.num_cached = num_blocks
        return refs

    def returned(self, refs: Sequence[BlockRef]) -> None:
        """An attempt reads these no more; the table has been told."""
        if not refs:
            return
        names = [self._names[ref.block_id] for ref in refs]
        self._tree.unuse(names)
        if self._flushed:
            self._drop_flushed(names)
            self._give_up_flushed(_SLICE_BLOCKS)

    # --- taking in ---------------------------------------------------------------------------------------------------

    def enter(self, key: AttemptKey, tenant: Tenant, chain: Chain, refs: Sequence[BlockRef]) -> tuple[BlockRef, ...]:
        """Take in full, checked blocks that follow the chain's cached ones; return what ``key`` reads from now on.

        A block that is cached already, computed by another attempt meanwhile, takes the place of the one given. Nothing
        comes in that was on its way, here or from another worker, when it was flushed.
        """
        result, stored = list(refs), []
        flushes = self._flush_count(tenant)
        for place, ref in enumerate(refs):
            index = chain.num_cached
            name, parent = chain.keys[index], chain.keys[index - 1] if index else None
            owner = PUBLIC_OWNER if index < chain.num_public else tenant
            if name in self._flushed or parent in self._flushed or _is_flushed(chain, flushes, owner):
                chain.is_closed = True  # its beginning was flushed: nothing that follows could be found
            if chain.is_closed:
                break
            known = self._refs.get(name)
            if known is not None:
                self._use(self._table.borrow(key, (known,)))
                self._table.release(key, (ref,))
                result[place] = known
            else:
                self._table.cache(key, (ref,))
                cost_s = self.recompute_cost(index * self._block_size)
                value = BlockValue(recompute_s=cost_s, num_blocks_before=index)
                self._tree.add(owner, name, parent, value)
                self._refs[name] = ref
                self._names[ref.block_id] = name
                stored.append(name)
            chain.num_cached += 1
        if stored:
            self.events.append(Stored(keys=tuple(stored), tier=Tier.DEVICE))
        return tuple(result)

    # --- giving up ---------------------------------------------------------------------------------------------------

    def make_room(self, num_blocks: int) -> None:
        """Give up idle blocks until ``num_blocks`` are free, or none is left to give up."""
        self.expire()
        gone: list[BlockKey] = []
        while self._table.num_free < num_blocks:
            if self._doomed:
                self._give_up_flushed(_SLICE_BLOCKS)
                continue
            name = self._tree.victim()
            if name is None:
                break
            if self.slower is not None and name not in self._flushed:
                self.slower.evicted(name, self._tree.tenant_of(name), self._refs[name])
            self._drop(name, gone)
        self._counters.num_evicted += len(gone)
        self._tell_removed(gone)

    def flush(self, tenant: Tenant | None) -> int:
        """Let nobody find what is cached of ``tenant`` (None = of all) any more, in no tier; return how many blocks.

        They are out of sight at once and given up in slices, as blocks are wanted; what running requests read goes when
        they are through with it. Public prefixes are nobody's: only a flush of all takes them.
        """
        self._count_flush(tenant)
        self._unkeep(self._keeps.drop_all() if tenant is None else self._keeps.drop(tenant))
        gone: list[BlockKey] = []
        for each in self._tree.tenants() if tenant is None else (tenant,):
            gone += [name for name in self._tree.keys_of(each) if name not in self._flushed]
        self._flushed.update(gone)
        self._doomed.extend(gone)
        self._give_up_flushed(_SLICE_BLOCKS)
        num_behind = 0 if self.slower is None else self.slower.flushed(tenant)
        if tenant is None:
            self.events.append(Cleared())
        else:
            self._tell_removed(gone)
        return len(gone) + num_behind

    @property
    def is_flush_pending(self) -> bool:
        """Whether a tier behind the pool did not take a flush yet; nothing is taken from it before. Any thread."""
        return self.slower is not None and self.slower.is_flush_pending()

    # --- keeping -----------------------------------------------------------------------------------------------------

    def keep(self, tenant: Tenant, token_ids: Sequence[int], ttl_s: float) -> int:
        """Give up nothing of this cached prefix before ``ttl_s`` have passed; return the tokens that are kept.

        Fewer when less is cached, or the share that may be pinned is used up.
        """
        self.expire()
        chain = Chain()
        self.name(tenant, chain, lambda start, end: token_ids[start:end], len(token_ids) // self._block_size)
        names = chain.keys[: self.find(chain, len(chain.keys)).num_blocks]
        made = self._keeps.add(tenant, names, ttl_s)
        self._tree.use(made.names)
        self._table.keep([self._refs[name] for name in made.names])
        return made.num_blocks * self._block_size

    def expire(self) -> None:
        """Let go of what was kept long enough, and of a slice of what was flushed."""
        self._unkeep(self._keeps.expired())
        if self._doomed:
            self._give_up_flushed(_SLICE_BLOCKS)

    def unkeep_one(self, asker: Tenant) -> bool:
        """End one pin before its time, because a request of ``asker`` would not fit at all beside it. False: none is.

        The asker's own go first, then those that would end soonest.
        """
        names = self._keeps.end_one(asker)
        if names is None:
            return False
        self._counters.num_unpinned += 1
        self._unkeep(names)
        return True

    # --- looking -----------------------------------------------------------------------------------------------------

    def asked(self, num_tokens: int, num_cached_tokens: int, promoted_tokens: Counter[Tier]) -> None:
        """Count one prompt and what of it needed no computing; of that, what was fetched from slower tiers for it."""
        left = num_cached_tokens
        for tier, num_promoted in promoted_tokens.items():
            num_used = min(num_promoted, left)
            self._counters.tier_tokens[tier] += num_used
            left -= num_used
        self._counters.tier_tokens[Tier.DEVICE] += left
        self._counters.num_prompts += 1
        self._counters.num_asked_tokens += num_tokens
        self._counters.num_cached_tokens += num_cached_tokens

    def stats(self) -> CacheStats:
        """Return what the cache holds and did so far."""
        counts = self._table.counts()
        return CacheStats(
            num_blocks=counts.cached,
            num_idle=counts.idle,
            num_kept=self._keeps.num_blocks,
            num_prompts=self._counters.num_prompts,
            num_asked_tokens=self._counters.num_asked_tokens,
            num_cached_tokens=self._counters.num_cached_tokens,
            num_evicted=self._counters.num_evicted,
            num_unpinned=self._counters.num_unpinned,
            tiers=self.tier_stats(),
            tenants=tuple(TenantUse(tenant, self._tree.num_blocks_of(tenant)) for tenant in self._tree.tenants()),
        )

    def tier_stats(self) -> tuple[TierStats, ...]:
        """Return the numbers of each tier, the pool first. Any thread."""
        hits = self._counters.tier_tokens
        device = TierStats(tier=Tier.DEVICE, num_blocks=self._table.counts().cached, num_hit_tokens=hits[Tier.DEVICE])
        return (device,) if self.slower is None else (device, *self.slower.stats(hits))

    def tier_costs(self) -> tuple[TierCost, ...]:
        """Return what bringing blocks back from each slower tier costs now, as measured. Any thread."""
        return () if self.slower is None else self.slower.costs()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _keyer(self, tenant: Tenant) -> PrefixKeyer:
        keyer = self._keyers.get(tenant)
        if keyer is None:
            space = PrefixSpace(
                tenant=tenant, layout_fingerprint=self._setup.layout_fingerprint, block_size=self._block_size
            )
            keyer = self._keyers[tenant] = PrefixKeyer(self._setup.secret, space, public=self._public)
            if len(self._keyers) > _MAX_KEYERS:
                self._keyers.popitem(last=False)
        self._keyers.move_to_end(tenant)
        return keyer

    def _use(self, refs: Sequence[BlockRef]) -> None:
        self._tree.use([self._names[ref.block_id] for ref in refs])

    def _unkeep(self, names: Sequence[BlockKey]) -> None:
        if names:
            self._table.unkeep([self._refs[name] for name in names])
            self._tree.unuse(names)
            self._drop_flushed(names)

    def _drop(self, name: BlockKey, gone: list[BlockKey]) -> None:
        above = self._tree.drop(name)
        if above is not None and above in self._flushed and self._tree.may_drop(above):
            self._doomed.append(above)
        ref = self._refs.pop(name)
        del self._names[ref.block_id]
        self._table.evict((ref,))
        if name in self._flushed:
            self._flushed.discard(name)  # it was told of at the flush
        else:
            gone.append(name)

    def _drop_flushed(self, names: Sequence[BlockKey]) -> None:
        gone: list[BlockKey] = []
        for name in reversed(names):
            if name in self._flushed and self._tree.may_drop(name):
                self._drop(name, gone)

    def _give_up_flushed(self, most: int) -> None:
        """Look at so many of the flushed blocks; who follows one that stays has it looked at again when that goes."""
        gone: list[BlockKey] = []
        for _ in range(most):
            if not self._doomed:
                break
            name = self._doomed.popleft()
            if name in self._flushed and self._tree.may_drop(name):
                self._drop(name, gone)

    def _count_flush(self, tenant: Tenant | None) -> None:
        if tenant is None or len(self._tenant_flushes) >= _MAX_TENANT_FLUSHES:
            self._num_all_flushes += 1  # what others compute now is not kept either: that costs a computing
            self._tenant_flushes.clear()
        else:
            self._tenant_flushes[tenant] += 1

    def _flush_count(self, tenant: Tenant) -> FlushCount:
        return FlushCount(of_tenant=self._tenant_flushes.get(tenant, 0), of_all=self._num_all_flushes)

    def _tell_removed(self, names: list[BlockKey]) -> None:
        if names:
            self.events.append(Removed(keys=tuple(names), tier=Tier.DEVICE))


def _is_flushed(chain: Chain, now: FlushCount, owner: Tenant) -> bool:
    """Whether blocks of this owner were flushed since the chain was named."""
    if owner == PUBLIC_OWNER and chain.named_at is not None:
        return chain.named_at.of_all != now.of_all
    return chain.named_at != now
