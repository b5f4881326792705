"""Which tokens a KV belongs to, as a digest that P and D each compute from their own copy of the task."""

import array

import blake3

from tandem.core.types import GenerationTask


def digest_tokens(task: GenerationTask) -> bytes:
    """Return 32 bytes over the tokens whose KV is handed over: the prompt, then what child 0 already emitted.

    A hand-over with emitted tokens has one child (recovery of several goes to local prefill), so child 0 is all.
    """
    tokens = array.array("q", task.prompt_token_ids)
    if task.emitted:
        tokens.extend(task.emitted[0])
    return blake3.blake3(tokens.tobytes()).digest()
