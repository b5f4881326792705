"""When waiting sequences may join the running batch: continuous batching, and the two baselines. Pure.

``static``   [wait for N ......][batch 1 ...... longest one ends][wait for N ...][batch 2 ......]
``dynamic``  [take what waits, ≤ N][batch 1 ...................][take what waits][batch 2 ......]
``continuous``  every step may admit
"""

from dataclasses import dataclass
from typing import Protocol

from tandem.engine.config import Batching, EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """What a policy may know. Numbers are sequences."""

    num_running: int  # running, or preempted and therefore still part of the batch
    num_reserved: int  # their KV is on its way from a prefill worker
    num_waiting: int
    oldest_wait_s: float


class BatchingPolicy(Protocol):
    """Decides how many sequences may start."""

    @property
    def separates_phases(self) -> bool:
        """Whether a batch computes all its prompts before it decodes."""
        ...

    def quota(self, view: BatchView) -> int:
        """Return how many sequences may join now."""
        ...

    def ready_in_s(self, view: BatchView) -> float | None:
        """Return seconds until the quota rises by itself; None when only an event can raise it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousBatching:
    """Sequences join at any step, up to ``max_sequences``."""

    max_sequences: int
    separates_phases: bool = False

    def quota(self, view: BatchView) -> int:
        """Return the free places."""
        return max(self.max_sequences - view.num_running - view.num_reserved, 0)

    def ready_in_s(self, view: BatchView) -> float | None:
        """Return 0 while there is a place, else None."""
        return 0.0 if self.quota(view) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicBatching:
    """An empty batch takes what waits, up to ``batch_size``, and runs to its end."""

    batch_size: int
    separates_phases: bool = True

    def quota(self, view: BatchView) -> int:
        """Return the batch size when the last batch has ended."""
        return 0 if view.num_running else self.batch_size

    def ready_in_s(self, view: BatchView) -> float | None:
        """Return 0 while the batch is empty, else None."""
        return 0.0 if self.quota(view) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticBatching:
    """An empty batch waits for ``batch_size`` sequences, at most ``timeout_s``, and runs to its end."""

    batch_size: int
    timeout_s: float
    separates_phases: bool = True

    def quota(self, view: BatchView) -> int:
        """Return the batch size when the last batch has ended and a full one, or an old one, waits."""
        if view.num_running or not view.num_waiting:
            return 0
        is_due = view.num_waiting >= self.batch_size or view.oldest_wait_s >= self.timeout_s
        return self.batch_size if is_due else 0

    def ready_in_s(self, view: BatchView) -> float | None:
        """Return the rest of the oldest sequence's wait."""
        if view.num_running or not view.num_waiting:
            return None
        return 0.0 if self.quota(view) else self.timeout_s - view.oldest_wait_s


def batching_policy(config: EngineConfig) -> BatchingPolicy:
    """Return the policy a configuration asks for."""
    batch_size = min(config.batch_size, config.max_sequences)
    if config.batching is Batching.STATIC:
        return StaticBatching(batch_size=batch_size, timeout_s=config.batch_timeout_s)
    if config.batching is Batching.DYNAMIC:
        return DynamicBatching(batch_size=batch_size)
    return ContinuousBatching(max_sequences=config.max_sequences)
