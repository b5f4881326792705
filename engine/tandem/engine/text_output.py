"""What the engine needs of a sequence's text: ``tandem.text.stream.TextStream`` fits, tests may bring their own."""

from collections.abc import Callable, Iterable
from typing import Protocol

from tandem.core.types import GenerationTask
from tandem.text.stream import TextDelta, TextStream
from tandem.text.tokenizer import Tokenizer


class SequenceText(Protocol):
    """Incremental text of one sequence, with its stop strings."""

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text."""
        ...

    def feed(self, token_id: int) -> TextDelta:
        """Take one output token, return the text that became final."""
        ...

    def finish(self) -> str:
        """Return the text held back."""
        ...

    def replay(self, token_ids: Iterable[int]) -> None:
        """Advance over tokens whose text is out already."""
        ...


TextFactory = Callable[[GenerationTask], SequenceText]
"""Makes the text of a sequence that has no output yet."""


def text_factory(tokenizer: Tokenizer) -> TextFactory:
    """Return the factory over a real tokenizer."""

    def make(task: GenerationTask) -> SequenceText:
        return TextStream(tokenizer, task.prompt_token_ids, task.stop.stop, include_stop=task.stop.include_stop)

    return make
