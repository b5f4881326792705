"""One sequence's way from token ids to the text a caller sees: detokeniser, then stop strings. Zero I/O.

Deterministic: the state depends on the prompt and the tokens fed, not on who fed them. So a decode worker that
replays the tokens a prefill worker already sent goes on exactly where that one stopped, held-back text included.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.text.detokenizer import IncrementalDetokenizer
from tandem.text.stops import StopMatcher
from tandem.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """Text that became final with one token, and the stop string that ended the sequence."""

    text: str
    matched_stop: str | None = None


_NOTHING = TextDelta(text="")


class TextStream:
    """Composes `IncrementalDetokenizer` and `StopMatcher` for one sequence.

    Once a stop string has matched, all later text is dropped and ``feed`` goes on reporting that match.
    """

    __slots__ = ("_detokenizer", "_matcher")

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
    ) -> None:
        """``include_stop`` keeps the matched stop string in the text.

        Raises:
            InvalidArgument: a stop string is empty.
        """
        self._detokenizer = IncrementalDetokenizer(tokenizer, prompt_token_ids)
        self._matcher = StopMatcher(stop, include_stop=include_stop)

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text, None before that; ``finish`` may still find one."""
        return self._matcher.matched

    def feed(self, token_id: int) -> TextDelta:
        """Take one output token. The token of a stop is fed as well; special tokens add no text."""
        text = self._detokenizer.feed(token_id)
        if not text and self._matcher.matched is None:
            return _NOTHING
        match = self._matcher.feed(text)
        return TextDelta(text=match.text, matched_stop=match.matched)

    def finish(self) -> str:
        """All text still held back, for a sequence that ended by length or by an end token.

        A stop string can lie in text that only now became final; then the text ends before it and ``matched_stop``
        names it. Returns an empty string when called again.
        """
        return self._matcher.feed(self._detokenizer.flush()).text + self._matcher.flush()

    def replay(self, token_ids: Iterable[int]) -> None:
        """Advance over tokens whose text somebody else has emitted already."""
        for token_id in token_ids:
            self.feed(token_id)

    def copy(self) -> "TextStream":
        """An independent stream in the same state, for another sequence of the same request; constant cost."""
        twin = object.__new__(TextStream)
        twin._detokenizer = self._detokenizer.copy()
        twin._matcher = self._matcher.copy()
        return twin
