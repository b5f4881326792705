"""How a router uses the workers' prefix caches."""

from typing import Annotated

from pydantic import Field

from tandem.core.config.model import ConfigModel


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
    host_bytes_per_s: Annotated[float, Field(gt=0.0, le=1e12)] = 4e9
    """Speed at which a worker brings blocks from its host memory back to its device."""
    off_loop_tokens: Annotated[int, Field(ge=1)] = 8192
    """Longer prompts are named in a thread, so that other requests' tokens do not wait for it."""
