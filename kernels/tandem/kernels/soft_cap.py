# mypy: disable-error-code="untyped-decorator"
# (triton.jit is untyped)
"""The soft cap of attention scores, shared by the attention kernels.

Formula: ``cap * tanh(s / cap)``, with ``tanh(x) = sign(x) * (1 - e) / (1 + e)`` and ``e = exp(-2 |x|)``, which can't
overflow.
"""

import triton
import triton.language as tl


@triton.jit
def soft_capped(scores: tl.tensor, cap: tl.tensor) -> tl.tensor:
    """Bound scores smoothly to (-cap, cap); cap is positive."""
    decay = tl.exp(-2.0 * tl.abs(scores) / cap)
    bounded = cap * (1.0 - decay) / (1.0 + decay)
    return tl.where(scores < 0.0, -bounded, bounded)
