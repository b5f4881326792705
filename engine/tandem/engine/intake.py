"""Turns a task that came over an internal socket into an attempt, or refuses it with a typed error. No I/O.

The router has checked the task already; what comes over a socket is checked again, with the same function, and against
this worker's own capacity.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from tandem.core.blocks import AttemptKey, FirstToken
from tandem.core.errors import InvalidArgument
from tandem.core.limits import ModelLimits, RequestLimits, check_task
from tandem.core.reasons import TOO_LARGE
from tandem.core.types import GenerationTask
from tandem.engine.scheduling.order import urgency
from tandem.engine.sequence import Attempt, AttemptKind, Sequence
from tandem.engine.text_output import TextFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What this worker can hold at most."""

    num_blocks: int
    block_size: int
    max_sequences: int


class Intake:
    """Checks tasks and opens attempts."""

    def __init__(
        self,
        *,
        model: ModelLimits,
        limits: RequestLimits,
        capacity: Capacity,
        eos_token_ids: frozenset[int],
        make_text: TextFactory,
    ) -> None:
        self._model = model
        self._limits = limits
        self._capacity = capacity
        self._eos_token_ids = eos_token_ids
        self._make_text = make_text
        self._serial = 0

    def open(self, task: GenerationTask, kind: AttemptKind, *, tick: int, now_s: float) -> Attempt:
        """Return the attempt of ``task``. Raises InvalidArgument (reason TOO_LARGE if it can never fit here)."""
        check_task(task, self._model, self._limits)
        open_children = self._check_children(task, kind)
        self._check_capacity(task, kind, len(open_children))
        deadline_s = None if task.deadline_left_s is None else now_s + task.deadline_left_s
        self._serial += 1
        eos = frozenset[int]() if task.stop.ignore_eos else self._eos_token_ids
        return Attempt(
            key=AttemptKey(task.request_id, task.attempt),
            task=task,
            kind=kind,
            urgency=urgency(task.priority, tick=tick, deadline_s=deadline_s, serial=self._serial),
            arrived_s=now_s,
            deadline_s=deadline_s,
            open_children=set(open_children),
            prompt_reported=kind is AttemptKind.HANDOVER,
            stop_token_ids=eos | frozenset(task.stop.stop_token_ids),
        )

    def first_sequence(self, attempt: Attempt) -> Sequence:
        """Return the sequence that computes the prompt: the only child itself, or the lead of several."""
        child, *siblings = sorted(attempt.open_children)
        if siblings:
            text = self._make_text(attempt.task)  # never fed: the children have their own
            return Sequence(attempt=attempt, child=child, text=text, siblings=tuple(siblings), is_lead=True)
        return self.sequence(attempt, child)

    def sequence(self, attempt: Attempt, child: int) -> Sequence:
        """Return ``child`` with what it emitted before this attempt, its text advanced over that."""
        emitted = attempt.emitted(child)
        text = self._make_text(attempt.task)
        text.replay(emitted)
        return Sequence(attempt=attempt, child=child, text=text, output=list(emitted))

    def _check_children(self, task: GenerationTask, kind: AttemptKind) -> list[int]:
        if not task.done_children <= set(range(task.num_sequences)):
            raise InvalidArgument("done_children", f"is {sorted(task.done_children)} of {task.num_sequences} sequences")
        open_children = [c for c in range(task.num_sequences) if c not in task.done_children]
        if not open_children:
            raise InvalidArgument("done_children", "lists every sequence", remedy="there is nothing left to generate")
        emitted = [task.emitted[c] for c in open_children] if task.emitted else []
        if any(len(tokens) >= task.stop.max_tokens for tokens in emitted):
            raise InvalidArgument("emitted", "has all tokens of an open sequence", remedy="list it in done_children")
        if kind is not AttemptKind.LOCAL and len(open_children) > 1 and any(emitted):
            raise InvalidArgument(
                "emitted", "differs between the sequences of one hand-over", remedy="recover it with a local prefill"
            )
        return open_children

    def _check_capacity(self, task: GenerationTask, kind: AttemptKind, num_open: int) -> None:
        capacity = self._capacity
        if num_open > capacity.max_sequences:
            raise InvalidArgument("n", f"is {num_open}; this worker runs {capacity.max_sequences}", reason=TOO_LARGE)
        num_tokens = len(task.prompt_token_ids) + task.stop.max_tokens
        if kind is AttemptKind.PREFILL:
            num_tokens = len(task.prompt_token_ids) + max(map(len, task.emitted), default=0)
        num_blocks = -(-num_tokens // capacity.block_size)
        if num_blocks > capacity.num_blocks:
            raise InvalidArgument(
                "prompt and max_tokens",
                f"need {num_blocks} KV blocks; this worker has {capacity.num_blocks}",
                remedy="ask for fewer tokens, or give the workers more KV memory",
                reason=TOO_LARGE,
            )

    def children_after(self, attempt: Attempt, first_tokens: Items[FirstToken]) -> list[Sequence]:
        """Return the children that go on after their first token."""
        firsts = {first.child: first for first in first_tokens}
        if len(firsts) != len(first_tokens) or not attempt.open_children <= firsts.keys():
            raise InvalidArgument("first_tokens", f"name children {sorted(firsts)}, not {attempt.open_children}")
        children = []
        for child in sorted(attempt.open_children):
            first = firsts[child]
            if not 0 <= first.token_id < self._model.vocab_size:
                raise InvalidArgument("first_tokens", f"hold the id {first.token_id}")
            if first.finished:
                continue
            sequence = self.sequence(attempt, child)
            if len(sequence.output) + 1 >= attempt.task.stop.max_tokens:
                raise InvalidArgument("first_tokens", f"child {child} has all its tokens and is not finished")
            sequence.output.append(first.token_id)
            sequence.text.replay((first.token_id,))
            children.append(sequence)
        return children
