"""What a worker's prefix cache holds and did. Values only."""

from collections import Counter
from dataclasses import dataclass, field

from tandem.core.cache import TierStats
from tandem.core.ids import Tenant
from tandem.core.kv_events import Tier


@dataclass(slots=True)
class CacheCounters:
    """Totals since the start."""

    num_prompts: int = 0
    num_asked_tokens: int = 0
    num_cached_tokens: int = 0
    num_evicted: int = 0
    num_unpinned: int = 0
    tier_tokens: Counter[Tier] = field(default_factory=Counter)  # of the cached tokens, those of slower tiers


@dataclass(frozen=True, slots=True)
class TenantUse:
    """Cached blocks that one tenant brought in."""

    tenant: Tenant
    num_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """``num_idle`` of ``num_blocks`` could be given up now; ``num_kept`` are pinned. Token counts are totals.

    ``num_unpinned`` pins ended before their time, for a request that did not fit beside them.
    """

    num_blocks: int
    num_idle: int
    num_kept: int
    num_prompts: int
    num_asked_tokens: int
    num_cached_tokens: int
    num_evicted: int
    num_unpinned: int
    tenants: tuple[TenantUse, ...]
    tiers: tuple[TierStats, ...]
