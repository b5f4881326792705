"""Whether a sequence may take KV blocks now. Pure.

Running sequences grow. Admitting until the pool is full would only make them preempt each other, so a share
(``margin``) of what all of them can still grow stays free::

    need(prompt) + ⌈margin · Σ possible growth of running, reserved and new sequences⌉ ≤ free

An empty pool admits whatever fits at all, so that a lone large request is never refused for what it might become.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDemand:
    """Blocks one candidate wants: at once, and at most on top of that over its life."""

    now_blocks: int
    growth_blocks: int


def may_admit(
    demand: BlockDemand, *, free_blocks: int, others_growth_blocks: int, is_alone: bool, margin: float
) -> bool:
    """Tell whether ``demand`` fits beside ``others_growth_blocks`` of possible growth.

    ``is_alone``: nothing else holds or awaits growth, so there is nobody to keep blocks free for.
    """
    if demand.now_blocks > free_blocks:
        return False
    if is_alone:
        return True
    return demand.now_blocks + math.ceil(margin * (others_growth_blocks + demand.growth_blocks)) <= free_blocks
