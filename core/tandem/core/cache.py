"""The prefix cache in numbers, and what a flush came to: what workers tell routers, and routers tell people."""

from dataclasses import dataclass

from tandem.core.ids import Tenant, WorkerId
from tandem.core.kv_events import Tier
from tandem.core.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """One tier of one worker: the blocks in it, the prompt tokens that came from it so far, and how it came to that.

    All but ``num_blocks`` and ``num_bytes`` are totals since the worker's start.
    """

    tier: Tier
    num_blocks: int
    num_hit_tokens: int
    num_bytes: int = 0
    num_demoted: int = 0  # blocks that came in from the tier above
    num_promoted: int = 0  # blocks that went back into the KV pool
    num_rejected: int = 0  # values that were not the block that their name says
    num_skipped: int = 0  # blocks that should have come in, and were forgotten: too many at a time, or not taken


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantBlocks:
    """Cached blocks that one tenant brought in."""

    tenant: Tenant
    num_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCacheStats:
    """One worker's cache. Counts of prompts, tokens and evictions are totals since its start."""

    num_blocks: int = 0
    num_idle: int = 0  # could be given up now
    num_kept: int = 0  # pinned
    num_prompts: int = 0
    num_asked_tokens: int = 0
    num_cached_tokens: int = 0  # of those asked for: not computed
    num_evicted: int = 0
    num_unpinned: int = 0  # pins that ended before their time, for requests that did not fit beside them
    tiers: tuple[TierStats, ...] = ()
    tenants: tuple[TenantBlocks, ...] = ()  # the largest first


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedCache:
    """What a router knows of one worker's cache; None where it has heard nothing."""

    worker_id: WorkerId
    role: Role
    watching: bool
    stale_s: float | None = None  # age of the index's picture of it
    num_behind: int = 0  # events made and not applied
    num_gaps: int = 0
    num_snapshots: int = 0
    stats: WorkerCacheStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStatus:
    """A router's index of cached blocks."""

    num_blocks: int = 0
    max_blocks: int = 0
    num_overflowed: int = 0
    num_expected: int = 0  # on their way: requests with them were sent to a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """How one router's requests of one tenant used the cache: totals over those whose prompt was computed."""

    tenant: Tenant
    num_requests: int
    cached_tokens: int
    uncached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """The cluster's prefix cache as one router sees it."""

    enabled: bool
    index: IndexStatus
    workers: tuple[WatchedCache, ...] = ()
    tenants: tuple[TenantUsage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed:
    """What a flush came to. It is complete without ``num_missed`` workers that did not answer and ``num_pending`` ones
    whose Redis did not take it yet; the router repeats what is not."""

    num_blocks: int
    num_workers: int
    num_missed: int = 0
    num_pending: int = 0

    @property
    def is_complete(self) -> bool:
        """Nothing of it can be found any more, anywhere."""
        return not (self.num_missed or self.num_pending)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFlushed:
    """What a flush came to on one worker."""

    num_blocks: int
    redis_pending: bool = False


def hit_rates(stats: tuple[WorkerCacheStats, ...]) -> dict[Tier, float]:
    """Share of all prompt tokens that came from each tier, over ``stats``; tiers nobody has are left out."""
    asked = sum(each.num_asked_tokens for each in stats)
    hits: dict[Tier, int] = {}
    for each in stats:
        for tier in each.tiers:
            hits[tier.tier] = hits.get(tier.tier, 0) + tier.num_hit_tokens
    return {tier: hits[tier] / asked if asked else 0.0 for tier in Tier if tier in hits}
