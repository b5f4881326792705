"""What a policy says about each pool of workers."""

from enum import StrEnum

import pydantic

from tandem.controller.policy.base import Duration, PolicyModel, Seconds, complain
from tandem.controller.policy.behavior import HpaBehavior


class OnTimeout(StrEnum):
    """What becomes of a drain that takes too long."""

    UNDRAIN = "Undrain"
    RECOVER = "Recover"


class DrainSection(PolicyModel):
    """How a worker is emptied before it changes its role or ends."""

    timeout_s: Duration = pydantic.Field(default=Seconds(120), gt=0)
    """How long running requests and outstanding hand-overs may take."""
    on_timeout: OnTimeout = OnTimeout.UNDRAIN
    """`Undrain`: the worker serves on in its role and the move is given up. `Recover`: routers continue what is left on
    other workers."""


class LoadTargets(PolicyModel):
    """Strategy Load: when a pool is too small or too large."""

    up: float = pydantic.Field(default=0.85, gt=0, le=10)
    """Grow above this load. Load = busy share; of decode workers the larger of slots and KV blocks in use."""
    down: float = pydantic.Field(default=0.5, ge=0, le=10)
    """Shrink if the load stays below this with one worker less."""
    target_running: float | None = pydantic.Field(default=None, gt=0)
    """Requests per worker as in HPA and Ray Serve; replaces `up` and `down`: workers = ceil(running / target)."""

    @pydantic.model_validator(mode="after")
    def _band(self) -> "LoadTargets":
        if self.down >= self.up:
            complain(("down",), f"must be below up ({self.up}), with room between, or the pool never rests", self.down)
        return self


class PoolPolicy(PolicyModel):
    """One pool."""

    min_replicas: int = pydantic.Field(default=1, ge=1, le=4096)
    """Fewest workers; at least one of each role always serves."""
    max_replicas: int = pydantic.Field(ge=1, le=4096)
    """Most workers."""
    replicas: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """Strategy Fixed: this many."""
    accelerators_per_worker: float = pydantic.Field(default=1.0, gt=0, le=64)
    """What one worker counts against the budget."""
    behavior: HpaBehavior = HpaBehavior()
    """How fast it may grow and shrink, as in a HorizontalPodAutoscaler."""
    drain: DrainSection = DrainSection()
    """How its workers are emptied."""
    load: LoadTargets = LoadTargets()
    """Strategy Load only."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "PoolPolicy":
        if self.min_replicas > self.max_replicas:
            complain(
                ("minReplicas",), f"must not be above maxReplicas ({self.max_replicas}); lower it", self.min_replicas
            )
        if self.replicas is not None and not self.min_replicas <= self.replicas <= self.max_replicas:
            bounds = f"minReplicas..maxReplicas ({self.min_replicas}..{self.max_replicas})"
            complain(("replicas",), f"must lie within {bounds}", self.replicas)
        return self


class PoolsSection(PolicyModel):
    """Both pools."""

    prefill: PoolPolicy
    """Workers that read prompts."""
    decode: PoolPolicy
    """Workers that write answers."""
