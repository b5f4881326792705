"""The attempts on this worker, and the one place where they end: then everything they hold goes back."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.messages import AttemptFailed
from tandem.core.reasons import DEADLINE
from tandem.core.types import GenerationTask
from tandem.engine.kv.block_table import IntegrityError, NoBlocks
from tandem.engine.kv.chain import Chain
from tandem.engine.kv.memory import KvMemory
from tandem.engine.scheduling.scheduler import Scheduler
from tandem.engine.sequence import Attempt, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class KvStart:
    """KV of the first ``num_tokens`` tokens of one or more children."""

    refs: Items[BlockRef]
    num_tokens: int
    chain: Chain


class AttemptBook:
    """Attempts by key. An attempt that is in the book may hold blocks; one that is not holds none."""

    def __init__(self, memory: KvMemory, scheduler: Scheduler) -> None:
        self._memory = memory
        self._scheduler = scheduler
        self._attempts: dict[AttemptKey, Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(tuple(self._attempts.values()))

    def __contains__(self, attempt: Attempt) -> bool:
        return self._attempts.get(attempt.key) is attempt

    def get(self, key: AttemptKey) -> Attempt | None:
        """Return the attempt, None if it has ended or never was."""
        return self._attempts.get(key)

    def add(self, attempt: Attempt) -> None:
        """Enter a new attempt."""
        self._attempts[attempt.key] = attempt

    def rekey(self, attempt: Attempt, task: GenerationTask, deadline_s: float | None) -> None:
        """Go on with ``attempt`` as the attempt of ``task``: the same work under another key."""
        old, new = attempt.key, AttemptKey(task.request_id, task.attempt)
        self._memory.table.rekey(old, new)
        del self._attempts[old]
        attempt.key, attempt.task, attempt.deadline_s = new, task, deadline_s
        self._attempts[new] = attempt

    def end(self, attempt: Attempt) -> None:
        """Take the attempt out: its sequences run no more, its blocks are free (or will be at their last unpin)."""
        del self._attempts[attempt.key]
        self._scheduler.unreserve(attempt)
        for sequence in attempt.sequences:
            self._scheduler.remove(sequence)
        attempt.sequences.clear()
        self._memory.release_all(attempt.key)

    def fail(self, attempt: Attempt, reason: str, message: str, *, retryable: bool) -> AttemptFailed:
        """End the attempt and return the event that says why."""
        self.end(attempt)
        return AttemptFailed(
            request_id=attempt.key.request_id,
            attempt=attempt.key.attempt,
            reason=reason,
            message=message,
            retryable=retryable,
        )

    def fail_scrubbed(self, attempt: Attempt, reason: str, message: str, *, retryable: bool) -> AttemptFailed:
        """Like ``fail``, and clear its blocks first: what they hold is not finite.

        Blocks announced as filled and cached ones are left alone: they were found finite, and others may read them.
        """
        for sequence in attempt.sequences:
            self._memory.scrub(sequence.blocks[max(attempt.num_filled, sequence.chain.num_cached) :])
        return self.fail(attempt, reason, message, retryable=retryable)

    def end_child(self, sequence: Sequence) -> bool:
        """Take one child out and free its blocks; True if it was the attempt's last."""
        attempt = sequence.attempt
        attempt.open_children.discard(sequence.child)
        self._scheduler.remove(sequence)
        if sequence in attempt.sequences:
            attempt.sequences.remove(sequence)
        self._memory.release(attempt.key, sequence.drop_blocks())
        if attempt.open_children:
            return False
        self.end(attempt)
        return True

    def spread(self, start: KvStart, children: list[Sequence]) -> None:
        """Give the KV of a start to every child: the first takes the blocks, the rest fork.

        A child for which no block is left is queued to compute its own KV later.
        """
        attempt, refs, num_tokens = children[0].attempt, start.refs, start.num_tokens
        attempt.sequences.extend(children)
        forks = [(child, self._fork(attempt, refs, num_tokens)) for child in children[1:]]
        for child, blocks in ((children[0], refs), *forks):
            if blocks is not None:
                child.adopt(blocks)
                child.num_computed = num_tokens
                child.chain = start.chain.copy()

    def expire(self, now_s: float) -> list[AttemptFailed]:
        """Fail every attempt whose deadline has passed."""
        return [
            self.fail(attempt, DEADLINE, f"the deadline passed {now_s - attempt.deadline_s:.3f} s ago", retryable=False)
            for attempt in self
            if attempt.deadline_s is not None and attempt.deadline_s <= now_s
        ]

    def next_deadline_s(self) -> float | None:
        """Return the earliest deadline, None without one."""
        return min((a.deadline_s for a in self._attempts.values() if a.deadline_s is not None), default=None)

    def check_idle(self) -> None:
        """Raise IntegrityError if blocks are owned or read although no attempt is left."""
        counts = self._memory.table.counts()
        if self._attempts:
            return
        if counts.free + counts.cached + counts.released != counts.total or self._memory.table.num_readers:
            raise IntegrityError(f"no attempt is left and blocks are still owned: {counts}")

    def _fork(self, attempt: Attempt, refs: Items[BlockRef], num_tokens: int) -> tuple[BlockRef, ...] | None:
        try:
            return self._memory.fork(attempt.key, refs, num_tokens)
        except NoBlocks:
            return None
