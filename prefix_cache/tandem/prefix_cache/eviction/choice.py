"""Eviction policies by name."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from tandem.prefix_cache.eviction.cost_aware import CostAware
from tandem.prefix_cache.eviction.lfu_aged import LfuAged
from tandem.prefix_cache.eviction.lru import Lru
from tandem.prefix_cache.eviction.policy import EvictionPolicy
from tandem.prefix_cache.eviction.s3_fifo import S3Fifo
from tandem.prefix_cache.eviction.weighted_lru import WeightedLru


class EvictionName(StrEnum):
    """Policies that a worker's cache can run."""

    LRU = "lru"
    LFU_AGED = "lfu-aged"
    S3_FIFO = "s3-fifo"
    COST_AWARE = "cost-aware"
    WEIGHTED_LRU = "weighted-lru"


_FACTORIES: Final[dict[EvictionName, Callable[[], EvictionPolicy]]] = {
    EvictionName.LRU: Lru,
    EvictionName.LFU_AGED: LfuAged,
    EvictionName.S3_FIFO: S3Fifo,
    EvictionName.COST_AWARE: CostAware,
    EvictionName.WEIGHTED_LRU: WeightedLru,
}


def make_policy(name: EvictionName) -> EvictionPolicy:
    """Return a fresh policy."""
    return _FACTORIES[name]()
