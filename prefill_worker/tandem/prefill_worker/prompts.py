"""What P remembers of each prompt it computes, so that a second decode worker can have the KV without a second prefill.

Plain state; the engine holds the blocks and the sender the hand-over.
"""

from dataclasses import dataclass, field, replace

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.messages import PrefillDone
from tandem.core.types import GenerationTask, TokenDelta
from tandem.engine.results import SealedPrefill


@dataclass(slots=True, kw_only=True)
class Prompt:
    """One attempt's prompt, from its start until nothing of it is held any more."""

    task: GenerationTask
    token_digest: bytes
    filled: list[BlockRef] = field(default_factory=list)  # complete blocks, in prompt order
    first_tokens: list[TokenDelta] = field(default_factory=list)
    done: PrefillDone | None = None
    sealed: SealedPrefill | None = None

    def is_same_work(self, task: GenerationTask) -> bool:
        """Whether ``task`` asks for the KV and the first tokens that this prompt has (or will have)."""
        mine = replace(
            self.task,
            attempt=task.attempt,
            deadline_left_s=task.deadline_left_s,
            traceparent=task.traceparent,
        )
        return mine == task

    def rekey(self, task: GenerationTask) -> None:
        """It is ``task``'s from now on: what was said under the earlier attempt is said anew, at no cost."""
        attempt = task.attempt
        self.task = task
        self.first_tokens = [replace(delta, attempt=attempt) for delta in self.first_tokens]
        if self.done is not None:
            self.done = replace(self.done, attempt=attempt, wait_ms=0.0, compute_ms=0.0)
        if self.sealed is not None:
            self.sealed = replace(self.sealed, key=AttemptKey(request_id=task.request_id, attempt=attempt))
