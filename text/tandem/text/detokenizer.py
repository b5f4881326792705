"""Token ids in, text out, one token at a time, never half a character. Zero I/O.

Exact: for any prompt and output, the texts of all ``feed`` calls and of ``flush`` together equal
``decode(prompt + output)`` without the longest common prefix it has with ``decode(prompt)``. The library's own
``DecodeStream`` does not give this: it has no flush, so an answer cut inside a character loses its end, it waits for
ever (and grows) once bytes can't become UTF-8, and a prompt that ends inside a character makes it fail.

Cost: one table look-up per token for byte-level tokenizers, one library call over three tokens for the others.
"""

from codecs import utf_8_decode
from collections.abc import Callable, Sequence
from typing import Protocol

from tandem.text.pieces import REPLACEMENT, Family, Kind, Pieces
from tandem.text.tokenizer import Tokenizer

# A character has at most four bytes; a text that still ends in U+FFFD after this many tokens really holds it.
_MAX_HELD_TOKENS = 8
# Tokens at the text's start that decode to nothing are decoded together with what follows; real texts have one.
_MAX_EMPTY_HEAD = 64


class _State(Protocol):
    def feed(self, token_id: int) -> str: ...
    def flush(self) -> str: ...
    def copy(self) -> "_State": ...


class IncrementalDetokenizer:
    """One sequence's detokeniser. The prompt is context only: its text is never returned."""

    __slots__ = ("_state", "feed")

    feed: Callable[[int], str]
    """Take the next token's id and return the text that became final: possibly none, never half a character."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        pieces = tokenizer.pieces
        if pieces.family is Family.BYTES:
            self._bind(_ByteState.after(pieces, prompt_token_ids))
        else:
            self._bind(_ContextState.after(pieces, prompt_token_ids))

    def flush(self) -> str:
        """Text still held back; half characters come out as U+FFFD. Call it once, at the end of the sequence."""
        return self._state.flush()

    def copy(self) -> "IncrementalDetokenizer":
        """An independent detokeniser in the same state; constant cost."""
        twin = object.__new__(IncrementalDetokenizer)
        twin._bind(self._state.copy())
        return twin

    def _bind(self, state: _State) -> None:
        self._state = state
        # The bound method itself: this is called once per token and sequence, a wrapper would double its cost.
        self.feed = state.feed


class _ByteState:
    """Family BYTES: the concatenated bytes of all tokens, read as UTF-8 with U+FFFD for what is not.

    ``_held`` are the bytes of an unfinished character, three at most. ``_overlap`` is what the prompt's own unfinished
    character looks like in the prompt's text; it is not repeated if the output does not complete it.
    """

    __slots__ = ("_bytes_of", "_held", "_overlap")

    def __init__(self, bytes_of: dict[int, bytes], held: bytes, overlap: str) -> None:
        self._bytes_of = bytes_of
        self._held = held
        self._overlap = overlap

    @classmethod
    def after(cls, pieces: Pieces, prompt_token_ids: Sequence[int]) -> "_ByteState":
        # UTF-8 resynchronises at every lead byte, and one further back than three bytes can't be unfinished.
        tail = b""
        for token_id in reversed(prompt_token_ids):
            tail = pieces.bytes_of[token_id] + tail
            if len(tail) >= 4:
                break
        used = utf_8_decode(tail, "replace", False)[1]
        held = tail[used:]
        return cls(pieces.bytes_of, held, held.decode("utf-8", "replace"))

    def feed(self, token_id: int) -> str:
        data = self._bytes_of[token_id]
        if self._held:
            data = self._held + data
        text, used = utf_8_decode(data, "replace", False)
        self._held = data[used:]
        if self._overlap and text:
            text, self._overlap = without_common_prefix(text, self._overlap), ""
        return text

    def flush(self) -> str:
        text = without_common_prefix(self._held.decode("utf-8", "replace"), self._overlap)
        self._held, self._overlap = b"", ""
        return text

    def copy(self) -> "_ByteState":
        return _ByteState(self._bytes_of, self._held, self._overlap)


class _ContextState:
    """Families RUNS and LOCAL: new tokens are decoded behind an anchor and their left neighbour.

    ::

        anchor  context | held ... new         text = decode(all) without decode(anchor context)

    The anchor is a plain token that keeps the decoder from treating the context as the text's start (where a leading
    space is dropped). While the text is still empty, ``_head`` is true, there is no anchor, and the context is
    everything so far. ``_held`` is an open run of byte tokens: one later byte can turn the whole run into U+FFFD, so
    nothing of it is final before the run ends. ``_overlap`` is the text of the prompt's own open run.
    """

    __slots__ = ("_context", "_context_chars", "_head", "_held", "_overlap", "_pieces")

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._context: tuple[int, ...] = ()
        self._context_chars = 0
        self._head = True
        self._held: list[int] = []
        self._overlap = ""

    @classmethod
    def after(cls, pieces: Pieces, prompt_token_ids: Sequence[int]) -> "_ContextState":
        state = cls(pieces)
        tail = state._open_tail(prompt_token_ids)
        closed = prompt_token_ids[: tail.start]
        state._start_behind(closed)
        state._held = [i for i in prompt_token_ids[tail.start :] if pieces.kind_of[i] is not Kind.SKIPPED]
        if state._held:
            state._overlap = state._held_text()
        return state

    def feed(self, token_id: int) -> str:
        kind = self._pieces.kind_of[token_id]
        if kind is Kind.SKIPPED:
            return ""
        self._held.append(token_id)
        if kind is Kind.BYTE:
            return ""
        text = self._held_text()
        if self._pieces.may_end_inside_character and text.endswith(REPLACEMENT) and len(self._held) < _MAX_HELD_TOKENS:
            return ""
        return self._release(text)

    def flush(self) -> str:
        return self._release(self._held_text()) if self._held else ""

    def copy(self) -> "_ContextState":
        twin = _ContextState(self._pieces)
        twin._context, twin._context_chars, twin._head = self._context, self._context_chars, self._head
        twin._held, twin._overlap = self._held.copy(), self._overlap
        return twin

    def _held_text(self) -> str:
        return self._pieces.text_of([*self._context, *self._held])[self._context_chars :]

    def _release(self, text: str) -> str:
        """Make the held tokens final and return their text."""
        if self._head and not text and len(self._context) < _MAX_EMPTY_HEAD:
            self._context = (*self._context, *self._held)
        else:
            self._follow(self._held[-1])
        self._held = []
        if self._overlap:
            text, self._overlap = without_common_prefix(text, self._overlap), ""
        return text

    def _follow(self, last_token_id: int) -> None:
        self._head = False
        self._context = (*self._pieces.anchor, last_token_id)
        self._context_chars = len(self._pieces.text_of([*self._context]))

    def _open_tail(self, token_ids: Sequence[int]) -> range:
        """Indices of the prompt's last tokens whose text the output may still change."""
        num_tokens = len(token_ids)
        if self._pieces.may_end_inside_character:
            for start in range(num_tokens, max(0, num_tokens - _MAX_HELD_TOKENS), -1):
                window = [*token_ids[max(0, num_tokens - 2 * _MAX_HELD_TOKENS) : start]]
                if not self._pieces.text_of(window).endswith(REPLACEMENT):
                    return range(start, num_tokens)
            return range(num_tokens, num_tokens)
        start = num_tokens
        for index in range(num_tokens - 1, -1, -1):
            kind = self._pieces.kind_of[token_ids[index]]
            if kind is Kind.TEXT:
                break
            if kind is Kind.BYTE:
                start = index
        return range(start, num_tokens)

    def _start_behind(self, token_ids: Sequence[int]) -> None:
        """Take ``token_ids`` as final context, decoding no more of them than needed to see that there is text."""
        kind_of = self._pieces.kind_of
        num_seen = 8
        while True:
            if self._pieces.text_of([*token_ids[:num_seen]]):
                self._follow(next(i for i in reversed(token_ids) if kind_of[i] is not Kind.SKIPPED))
                return
            if num_seen >= len(token_ids):
                break
            num_seen *= 2
        self._context = tuple(i for i in token_ids if kind_of[i] is not Kind.SKIPPED)


def without_common_prefix(text: str, other: str) -> str:
    """``text`` without the longest prefix it shares with ``other``."""
    num_shared = 0
    for mine, theirs in zip(text, other, strict=False):
        if mine != theirs:
            break
        num_shared += 1
    return text[num_shared:]
