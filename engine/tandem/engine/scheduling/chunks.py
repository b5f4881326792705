"""How a step's token budget is divided among prompts. Pure."""

from collections.abc import Iterable


def plan_chunks(num_left_tokens: Iterable[int], budget_tokens: int) -> list[int]:
    """Return the tokens of each prompt to compute in this step, most urgent prompt first.

    A prompt gets all it needs before the next one gets any: finishing one early beats advancing all a little.
    """
    chunks = []
    for num_left in num_left_tokens:
        chunk = min(num_left, budget_tokens)
        if chunk <= 0:
            break
        chunks.append(chunk)
        budget_tokens -= chunk
    return chunks
