"""Which tokens a KV belongs to, as a digest that P and D each compute from their own copy of the task."""

import array

import blake3

from tandem.core.types import GenerationTask


def digest_tokens(task: GenerationTask) -> bytes:
    """Return 32 bytes over the tokens whose KV is handed over: the prompt, then what child 0 already emitted.

    A hand-over with emitted tokens has one child (recovery of several goes to local prefill), so child 0 is all.
    """
    return blake3.blake3(array.array("q", handed_over_tokens(task)).tobytes()).digest()


def handed_over_tokens(task: GenerationTask) -> tuple[int, ...]:
    """Return the tokens whose KV is handed over."""
    return (*task.prompt_token_ids, *task.emitted[0]) if task.emitted else task.prompt_token_ids
