"""Settings of the prefix cache, the same for every worker and router of a cluster. Zero I/O."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from tandem.core.config.hidden import HiddenText
from tandem.core.config.model import ConfigModel
from tandem.core.config.units import Bytes
from tandem.core.ids import Tenant
from tandem.prefix_cache.eviction.choice import EvictionName
from tandem.prefix_cache.keys import PublicPrefix
from tandem.prefix_cache.shares import Weights

SECRET_BYTES = 32

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class PublicPrefixSection(ConfigModel):
    """A beginning of prompts that every tenant may share, such as a system prompt of the house."""

    text: str = Field(default="", max_length=4 * 1024 * 1024)
    """The text exactly as it stands at the start of the rendered prompt, special tokens included."""
    token_ids: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    """The same as token ids; needed only where the text is not known."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.text) == bool(self.token_ids):
            raise ValueError("set text or token_ids, one of the two")
        return self


class HostTierSection(ConfigModel):
    """The tier of cached blocks in each worker's own memory, behind its KV pool."""

    enabled: bool = True
    """Keep blocks that leave the KV pool, and take them back where that beats computing them again."""
    memory_bytes: Bytes = 128 << 20
    """Memory per worker for such blocks, e.g. `1GiB`."""


class RedisTierSection(ConfigModel):
    """The tier of cached blocks in Redis, behind the host tier. Every field bounds what Redis can cost a request."""

    enabled: bool = False
    """Keep blocks that leave the host tier in Redis, and fetch them where that beats computing them again."""
    url: str | None = Field(default=None, pattern=r"^(redis|rediss|unix)://.+")
    """Redis for blocks; nothing = the one of the registry. Without either there is no such tier."""
    namespace: str = Field(default="tandem", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Prefix of every key."""
    ttl_s: float = Field(default=3600.0, gt=0.0, le=30 * 86400.0)
    """How long a block stays there."""
    memory_bytes: Bytes = 256 << 20
    """Memory in Redis that one worker's blocks may take; its oldest are removed first."""
    timeout_s: float = Field(default=0.020, gt=0.0, le=10.0)
    """Longest wait for one answer without blocks in it; then it is a miss."""
    slowest_bytes_per_s: Bytes = 64 << 20
    """Blocks are waited for as long as they take at this pace, on top of `timeout_s`, but never over 1 s."""
    max_in_flight: int = Field(default=16, ge=1, le=4096)
    """Most calls at the same time; further ones are misses."""
    breaker_failures: int = Field(default=5, ge=1, le=1000)
    """Failed calls in a row after which Redis is left alone for a while."""
    breaker_open_s: float = Field(default=2.0, gt=0.0, le=3600.0)
    """How long it is left alone."""


class PrefixCacheConfig(ConfigModel):
    """How computed prefixes are kept and found again."""

    enabled: bool = True
    """Keep the KV of finished prompts and answers, and never compute it again while it is kept."""
    eviction: EvictionName = EvictionName.WEIGHTED_LRU
    """Which block goes first when room is needed: lru, lfu-aged, s3-fifo, cost-aware or weighted-lru."""
    tenant_weights: Mapping[Tenant, Annotated[float, Field(gt=0.0, le=1000.0)]] = Field(default_factory=dict)
    """Share of a tenant in each tier relative to the others, while they want room; 1 when it is not named."""
    public_prefixes: tuple[PublicPrefixSection, ...] = Field(default=(), max_length=1024)
    """Beginnings of prompts that tenants may share; everything else is each tenant's own."""
    event_ring_size: int = Field(default=4096, ge=16, le=1_000_000)
    """Events that a worker keeps for routers that missed some; older ones are replaced by a snapshot."""
    max_pinned_share: Share = 0.25
    """Share of a worker's KV blocks that all pinned prefixes together may hold."""
    max_pinned_tenant_share: Share = 0.125
    """Share of a worker's KV blocks that one tenant's pinned prefixes may hold."""
    max_pin_ttl_s: float = Field(default=3600.0, gt=0.0, le=30 * 86400.0)
    """Longest life of a pin."""
    host: HostTierSection = HostTierSection()
    """Blocks in the worker's own memory, behind the KV pool."""
    redis: RedisTierSection = RedisTierSection()
    """Blocks in Redis, behind the host tier."""
    max_demoted_blocks: int = Field(default=16, ge=1, le=4096)
    """Blocks copied out of the KV pool in one step; what leaves it beyond that is forgotten."""
    max_hold_s: float = Field(default=0.5, gt=0.0, le=60.0)
    """Longest wait of a request for blocks on their way from a slower tier; then it computes them."""
    secret_file: Path | None = None
    """File with at least 16 secret bytes; clusters that share a Redis need the same. Nothing = new at each start."""

    def weights(self) -> Weights:
        """Return the tenants' weights."""
        return Weights(self.tenant_weights)

    def public_token_ids(self) -> tuple[PublicPrefix, ...]:
        """Return the public prefixes whose token ids are known, in the form that `PrefixKeyer` takes."""
        return tuple(PublicPrefix(token_ids=public.token_ids) for public in self.public_prefixes if public.token_ids)


class PrefixCacheProgram(ConfigModel):
    """What a worker or router process is told of the cache: the settings and the cluster's secret.

    It reaches a process over its stdin only; the secret shows in no argument, environment, log line or repr.
    """

    settings: PrefixCacheConfig = PrefixCacheConfig()
    """The settings, with public prefixes as token ids."""
    secret: HiddenText | None = None
    """Hexadecimal secret of the cluster; without one a process makes its own, and shares no names with others."""

    def secret_bytes(self) -> bytes | None:
        """Return the cluster's secret. Raises ValueError when it is not hexadecimal."""
        return None if self.secret is None else bytes.fromhex(self.secret.get_secret_value())
