"""What a caller may ask to be pinned. Pure."""

from tandem.core.errors import InvalidArgument
from tandem.core.inference import CachePin, ChatPrompt, Prompt


def check_pin(pin: CachePin, prompt: Prompt, *, num_tokens: int, max_ttl_s: float) -> None:
    """Raise InvalidArgument for a pin that can't be meant, or that is longer than the server allows."""
    if not 0.0 < pin.ttl_s <= max_ttl_s:
        raise InvalidArgument(
            "cache_pin.ttl_s", f"is {pin.ttl_s:g}", remedy=f"use seconds above 0 and up to {max_ttl_s:g}"
        )
    if pin.num_tokens is not None and not 1 <= pin.num_tokens <= num_tokens:
        raise InvalidArgument(
            "cache_pin.num_tokens", f"is {pin.num_tokens}", remedy=f"use 1 to {num_tokens}, the prompt's length"
        )
    if pin.num_messages is None:
        return
    if not isinstance(prompt, ChatPrompt):
        raise InvalidArgument(
            "cache_pin.num_messages", "is set, and the prompt is no conversation", remedy="set num_tokens"
        )
    if not 1 <= pin.num_messages <= len(prompt.messages):
        raise InvalidArgument(
            "cache_pin.num_messages",
            f"is {pin.num_messages}",
            remedy=f"use 1 to {len(prompt.messages)}, the number of messages",
        )


def num_common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
