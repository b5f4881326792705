"""Whether to fetch blocks of a prompt from a slower tier or to compute them again. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

PrefillTime = Callable[[int, int], float]
"""Seconds to compute ``num_new_tokens`` that follow ``num_cached_tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCost:
    """Measured: what one fetch costs before its first byte, and per byte."""

    fixed_s: float
    s_per_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRun:
    """Blocks of a prompt that lie in a tier, right behind those that are in the KV pool."""

    num_prompt_tokens: int
    num_device_blocks: int
    num_tier_blocks: int
    block_size: int
    block_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Fetch so many blocks; ``saved_s`` is what that saves by the model. None fetched = 0."""

    num_blocks: int
    saved_s: float


NO_PROMOTION = Promotion(num_blocks=0, saved_s=0.0)


def choose_promotion(run: TierRun, cost: FetchCost, prefill_s: PrefillTime, *, deadline_s: float) -> Promotion:
    """Return the longest run of blocks that can be there within ``deadline_s`` if it beats computing, else none.

    The last token of the prompt is always computed, so a block that ends the prompt exactly is never fetched. The
    longest is the best: a block that follows more tokens costs more to compute and no more to fetch.
    """
    most = (run.num_prompt_tokens - 1) // run.block_size - run.num_device_blocks
    num_blocks = min(run.num_tier_blocks, most)
    per_block_s = cost.s_per_byte * run.block_bytes
    left_s = deadline_s - cost.fixed_s
    if num_blocks <= 0 or left_s < 0.0:
        return NO_PROMOTION
    if num_blocks * per_block_s > left_s:
        num_blocks = int(left_s / per_block_s)
    if num_blocks == 0:
        return NO_PROMOTION
    num_device = run.num_device_blocks * run.block_size
    num_after = num_device + num_blocks * run.block_size
    without_s = prefill_s(run.num_prompt_tokens - num_device, num_device)
    with_s = cost.fixed_s + num_blocks * per_block_s + prefill_s(run.num_prompt_tokens - num_after, num_after)
    saved_s = without_s - with_s
    return Promotion(num_blocks=num_blocks, saved_s=saved_s) if saved_s > 0.0 else NO_PROMOTION
