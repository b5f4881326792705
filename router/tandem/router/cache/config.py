"""How a router uses the workers' prefix caches."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tandem.core.config.model import ConfigModel
from tandem.core.config.units import Bytes


class CacheImageSection(ConfigModel):
    """Images of the index in Redis, so that a router that starts need not ask each worker for everything.

    The server, the namespace and what a call may cost are those of `prefix_cache.redis`, or else the registry's.
    """

    enabled: bool = True
    """Write images and start from them, where there is a Redis."""
    interval_s: Annotated[float, Field(ge=0.1, le=3600.0)] = 30.0
    """How often the one router that writes looks for workers whose part of the index has changed."""
    ttl_s: Annotated[float, Field(gt=0.0, le=86400.0)] = 300.0
    """How long an image stays in Redis when nobody renews it; at least three intervals."""
    memory_bytes: Bytes = 16 << 20
    """Memory in Redis for all images; about 33 bytes per name and worker that holds it, and room to replace some."""
    part_blocks: Annotated[int, Field(ge=64, le=16384)] = 2048
    """Most names in one value, 32 bytes each."""
    max_wait_s: Annotated[float, Field(gt=0.0, le=60.0)] = 2.0
    """Longest wait for a worker's image; then it is asked for everything."""

    @model_validator(mode="after")
    def _outlives_the_interval(self) -> Self:
        if self.ttl_s < 3.0 * self.interval_s:
            raise ValueError(f"ttl_s ({self.ttl_s}) must be at least three times interval_s ({self.interval_s})")
        return self


class CacheSection(ConfigModel):
    """What this router remembers of the workers' prefix caches. The caches themselves: `prefix_cache`."""

    max_index_blocks: Annotated[int, Field(ge=1024, le=100_000_000)] = 2_000_000
    """Names of cached blocks that the index has room for, about 220 bytes each; the oldest are forgotten first."""
    expect_s: Annotated[float, Field(gt=0.0, le=600.0)] = 10.0
    """For how long a worker is expected to get the prefix of a request that was sent to it."""
    max_expected_blocks: Annotated[int, Field(ge=0, le=10_000_000)] = 200_000
    """Most names that are expected anywhere; 0 = nothing is expected, only what workers tell counts."""
    stale_after_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0
    """What is known of a worker's cache counts for nothing when the worker has told nothing for so long."""
    off_loop_tokens: Annotated[int, Field(ge=1)] = 8192
    """Longer prompts are named in a thread, so that other requests' tokens do not wait for it."""
    image: CacheImageSection = CacheImageSection()
    """Images of the index in Redis, for routers that start."""
