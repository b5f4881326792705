"""Order of one child's output: position n+1 goes out only after n, whatever streams it comes over. Zero I/O.

P sends the first token (position k) and D the next ones (k+1, …) over different streams, so they may arrive in either
order. What is ahead is held; what was already forwarded is cut off::

    forwarded            [0 ────── next)
    delta, in order                [next ── end)        → forwarded
    delta, ahead                         [position ──)  → held until the part between has come
    delta, repeated        [position ── end)            → dropped and counted
    delta, overlapping        [position ───── end)      → [next, end) is forwarded
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from tandem.core.errors import InternalError
from tandem.core.reasons import ENGINE
from tandem.core.types import GenerationTask, TokenDelta

_INSIDE = -1  # storage only: this position is inside a delta of several tokens, so where its text ends is unknown


class ChildStream:
    """What was forwarded of one child, and what is held back because something before it is missing."""

    __slots__ = ("_held", "_text_ends", "_text_length", "finished", "held_since_s", "num_repeated", "tokens")

    def __init__(self) -> None:
        self.tokens = array("i")
        self.finished = False
        self.num_repeated = 0
        self.held_since_s: float | None = None
        self._text_ends = array("i")
        self._text_length = 0
        self._held: dict[int, TokenDelta] = {}

    @property
    def next_position(self) -> int:
        """The position that must be forwarded next."""
        return len(self.tokens)

    @property
    def num_held(self) -> int:
        """Number of deltas that wait for an earlier one."""
        return len(self._held)

    def accept(self, delta: TokenDelta, now_s: float) -> Sequence[TokenDelta]:
        """Return what may be forwarded now, in order: nothing, the delta, or also what was held behind it."""
        if self.finished:
            self.num_repeated += 1
            return ()
        position = delta.position
        if position > len(self.tokens):
            if position not in self._held or len(self._held[position].token_ids) < len(delta.token_ids):
                self._held[position] = delta
            if self.held_since_s is None:
                self.held_since_s = now_s
            return ()
        if position < len(self.tokens):
            trimmed = self._trim(delta)
            if trimmed is None:
                self.num_repeated += 1
                return ()
            delta = trimmed
        self._record(delta)
        return (delta,) if not self._held else (delta, *self._release(now_s))

    def drop_held(self) -> None:
        """Forget what is held: a new attempt will produce it again."""
        self._held.clear()
        self.held_since_s = None

    def _record(self, delta: TokenDelta) -> None:
        token_ids = delta.token_ids
        self._text_length += len(delta.text)
        if len(token_ids) == 1:
            self.tokens.append(token_ids[0])
            self._text_ends.append(self._text_length)
        elif token_ids:
            self.tokens.extend(token_ids)
            self._text_ends.extend([_INSIDE] * (len(token_ids) - 1))
            self._text_ends.append(self._text_length)
        elif self._text_ends:
            self._text_ends[-1] = self._text_length  # text without a token belongs to the token before it
        if delta.finish_reason is not None:
            self.finished = True
            self.drop_held()

    def _release(self, now_s: float) -> list[TokenDelta]:
        ready: list[TokenDelta] = []
        while self._held and not self.finished:
            position = min(self._held)
            if position > len(self.tokens):
                self.held_since_s = now_s
                return ready
            delta: TokenDelta | None = self._held.pop(position)
            if position < len(self.tokens) and delta is not None:
                delta = self._trim(delta)
            if delta is None:
                self.num_repeated += 1
                continue
            self._record(delta)
            ready.append(delta)
        self.held_since_s = None
        return ready

    def _trim(self, delta: TokenDelta) -> TokenDelta | None:
        """Cut off what was forwarded before; None when nothing new is left."""
        num_old = len(self.tokens) - delta.position
        if num_old > len(delta.token_ids) or (num_old == len(delta.token_ids) and delta.finish_reason is None):
            return None
        start = self._text_ends[delta.position - 1] if delta.position else 0
        num_old_chars = self._text_length - start
        if start == _INSIDE or num_old_chars > len(delta.text):
            raise InternalError("a worker repeated a part of its output in another cut", reason=ENGINE)
        return replace(
            delta,
            position=len(self.tokens),
            token_ids=delta.token_ids[num_old:],
            text=delta.text[num_old_chars:],
            logprobs=delta.logprobs[num_old:],
        )


def continued(task: GenerationTask, children: Sequence[ChildStream]) -> GenerationTask:
    """Return ``task`` as it goes on from what the client has."""
    has_output = any(child.tokens for child in children)
    return replace(
        task,
        emitted=tuple(tuple(child.tokens) for child in children) if has_output else (),
        done_children=frozenset(index for index, child in enumerate(children) if child.finished),
    )
