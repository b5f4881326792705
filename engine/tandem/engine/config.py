"""Settings of one worker's engine."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from tandem.core.config.model import ConfigModel
from tandem.core.config.units import Bytes


class Batching(StrEnum):
    """When sequences may join the running batch."""

    CONTINUOUS = "continuous"  # at any step
    DYNAMIC = "dynamic"  # only an empty batch is filled, with what waits; it runs to its end
    STATIC = "static"  # only an empty batch is filled, once a whole batch waits; it runs to its end


class EngineConfig(ConfigModel):
    """How one worker runs its model: memory, batch sizes, scheduling, device."""

    block_size: int = Field(default=16, ge=1, le=256)
    """Tokens per KV block; all workers of a cluster use the same."""
    num_blocks: int | None = Field(default=None, ge=1)
    """KV blocks in the pool; left out, ``kv_memory_bytes`` decides."""
    kv_memory_bytes: Bytes | None = None
    """Memory of the KV pool, e.g. `1GiB`; left out, 512 MiB on a CPU, a share of what is free on a GPU."""
    device_memory_fraction: float = Field(default=0.85, gt=0.0, le=0.98)
    """Share of the free device memory that the KV pool takes when no size is given; GPU only."""
    max_batched_tokens: int = Field(default=512, ge=1)
    """Prompt tokens computed in one step that holds no decode rows: the size of a prefill chunk."""
    mixed_prefill_tokens: int = Field(default=128, ge=1)
    """Prompt tokens computed beside decode rows in one step; bounds how long a local prefill stalls decoding."""
    max_sequences: int = Field(default=64, ge=1)
    """Sequences that run or hold a reservation at once."""
    max_waiting_sequences: int = Field(default=256, ge=1)
    """Sequences accepted and not yet running; more are refused."""
    growth_margin: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of all sequences' possible growth kept free at admission: 0 = optimistic, 1 = preemption never happens."""
    batching: Batching = Batching.CONTINUOUS
    """When sequences may join the running batch: continuous, or the baselines dynamic and static."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences of one batch under static and dynamic batching."""
    batch_timeout_s: float = Field(default=0.05, ge=0.0, le=60.0)
    """Longest wait for a batch to fill under static batching."""
    dtype: str = Field(default="auto", pattern="^(auto|float32|bfloat16|float16)$")
    """Type of weights and KV; auto = float32 on a CPU, the model's own type on a GPU."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where the model runs; auto = the first GPU, else the CPU."""
    num_threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one forward pass."""
    attention: Literal["auto", "torch", "triton"] = "auto"
    """Attention backend; auto = triton on a GPU, torch on a CPU."""
    profile_budget_s: float = Field(default=2.0, ge=0.0, le=60.0)
    """Time the start-up profile of the latency model may take; 0 skips it."""

    @model_validator(mode="after")
    def _one_pool_size(self) -> Self:
        if self.num_blocks is not None and self.kv_memory_bytes is not None:
            raise ValueError("set num_blocks or kv_memory_bytes, not both")
        return self
