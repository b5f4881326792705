"""What a request costs its tenant, in tokens of uncached prompt: the unit of fairness and of token limits. Pure.

::

    estimate = uncached + 0.1 · cached + 2 · n · min(max_tokens, p90 of the tenant's lengths)
    actual   = uncached + 0.1 · cached + 2 · output tokens

An output token counts double, as in VTC (Sheng et al. 2024): it keeps a slot and its KV for a whole step. What is
cached costs no computing, but a look-up, a transfer and its KV.
"""

from typing import Final

CACHED: Final = 0.1
OUTPUT: Final = 2.0


def prompt_cost(num_prompt_tokens: int, *, num_cached_tokens: int = 0) -> float:
    """Cost of a prompt of which ``num_cached_tokens`` need no computing."""
    num_cached = min(max(num_cached_tokens, 0), num_prompt_tokens)
    return (num_prompt_tokens - num_cached) + CACHED * num_cached


def request_cost(num_prompt_tokens: int, num_output_tokens: int, *, num_cached_tokens: int = 0) -> float:
    """Cost of a request: its prompt, and so many output tokens over all its sequences."""
    return prompt_cost(num_prompt_tokens, num_cached_tokens=num_cached_tokens) + OUTPUT * num_output_tokens
