"""Finds stop strings in streamed text and holds back what could become one. Zero I/O.

The result does not depend on how the text is cut into pieces: the stop string that is *completed* first ends the
text; of several completed by the same character, the longest. Waiting for an earlier-starting one that is not
complete yet would cost tokens that the caller asked not to have.

One pass over the text with the automaton of Aho and Corasick (1975), "Efficient string matching": a state is the
longest suffix of the text so far that begins some stop string, so its length is what must be held back.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tandem.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMatch:
    """Text that became final, and the stop string that ended it."""

    text: str
    matched: str | None = None


@dataclass(slots=True)
class _Node:
    """One state: the prefix ``depth`` characters long that leads here."""

    depth: int
    children: dict[str, "_Node"]
    fallback: "_Node | None"  # the longest proper suffix that is a state too; None at the root
    matched: str | None  # the longest stop string that ends here


class StopMatcher:
    """Matches one sequence's stop strings over text deltas.

    Args:
        stop: non-empty strings.
        include_stop: whether the matched string stays in the text. Then nothing needs to be held back.

    Raises:
        InvalidArgument: a stop string is empty.
    """

    __slots__ = ("_held", "_include_stop", "_matched", "_node", "_root")

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False) -> None:
        self._root = _automaton(tuple(stop))
        self._node = self._root
        self._held = ""
        self._include_stop = include_stop
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, None before that."""
        return self._matched

    def feed(self, text: str) -> StopMatch:
        """Take the next piece of text. After a match everything is dropped and the same match reported again."""
        if self._matched is not None:
            return StopMatch(text="", matched=self._matched)
        root = self._root
        if not root.children:
            return StopMatch(text=text)
        node = self._node
        for index, character in enumerate(text):
            node = _step(node, character)
            if node.matched is not None:
                return self._end(text[: index + 1], node.matched)
        self._node = node
        if self._include_stop:
            return StopMatch(text=text)
        known = self._held + text
        num_final = len(known) - node.depth
        self._held = known[num_final:]
        return StopMatch(text=known[:num_final])

    def flush(self) -> str:
        """The held-back text, when the sequence ends without a match."""
        text, self._held, self._node = self._held, "", self._root
        return text

    def copy(self) -> "StopMatcher":
        """An independent matcher in the same state; the automaton is shared."""
        twin = object.__new__(StopMatcher)
        twin._root, twin._node, twin._held = self._root, self._node, self._held
        twin._include_stop, twin._matched = self._include_stop, self._matched
        return twin

    def _end(self, text: str, matched: str) -> StopMatch:
        known = self._held + text
        self._held = ""
        self._matched = matched
        return StopMatch(text=known if self._include_stop else known[: len(known) - len(matched)], matched=matched)


def _step(node: _Node, character: str) -> _Node:
    """The state after one more character."""
    while True:
        child = node.children.get(character)
        if child is not None:
            return child
        if node.fallback is None:
            return node
        node = node.fallback


# Sequences of one request, and often whole workloads, use the same stop strings. A node is never changed once built.
@lru_cache(maxsize=256)
def _automaton(stop: tuple[str, ...]) -> _Node:
    root = _Node(0, {}, None, None)
    for index, text in enumerate(stop):
        if not text:
            raise InvalidArgument(f"stop[{index}]", "is empty", remedy="leave it out")
        node = root
        for character in text:
            node = node.children.setdefault(character, _Node(node.depth + 1, {}, root, None))
        node.matched = text
    queue = deque(root.children.values())  # breadth first: fallbacks are shorter, so they are complete before use
    while queue:
        node = queue.popleft()
        for character, child in node.children.items():
            child.fallback = _step(node.fallback or root, character)
            child.matched = child.matched or child.fallback.matched
            queue.append(child)
    return root
