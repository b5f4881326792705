"""The streaming matcher against a slow, obvious one."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.text.stops import StopMatch, StopMatcher


def oracle(text: str, stop: list[str], include_stop: bool) -> tuple[str, str | None]:
    """Look at every prefix of the text: the first that ends in a stop string ends the text, at the longest one."""
    for end in range(1, len(text) + 1):
        ending = [word for word in stop if text[:end].endswith(word)]
        if ending:
            longest = max(ending, key=len)
            return (text[:end] if include_stop else text[: end - len(longest)]), longest
    return text, None


def held_back(text: str, stop: list[str]) -> int:
    """Length of the longest end of ``text`` that begins some stop string."""
    return max((n for n in range(1, len(text) + 1) if any(w.startswith(text[-n:]) for w in stop)), default=0)


def run(pieces: list[str], stop: list[str], include_stop: bool = False) -> tuple[str, str | None]:
    matcher = StopMatcher(stop, include_stop=include_stop)
    out = [matcher.feed(piece).text for piece in pieces]
    return "".join([*out, matcher.flush()]), matcher.matched


words = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
pieces_of_text = st.lists(st.text("abc", max_size=4), max_size=12)


@settings(max_examples=600, deadline=None)
@given(pieces=pieces_of_text, stop=words, include_stop=st.booleans())
@example(pieces=["aab", "ab"], stop=["abab"], include_stop=False)
@example(pieces=["abc"], stop=["abc", "b"], include_stop=False)
def test_agrees_with_the_oracle_however_the_text_is_cut(pieces: list[str], stop: list[str], include_stop: bool) -> None:
    assert run(pieces, stop, include_stop) == oracle("".join(pieces), stop, include_stop)


@settings(max_examples=300, deadline=None)
@given(pieces=pieces_of_text, stop=words)
def test_holds_back_no_more_and_no_less_than_needed(pieces: list[str], stop: list[str]) -> None:
    matcher = StopMatcher(stop)
    seen = shown = ""
    for piece in pieces:
        match = matcher.feed(piece)
        seen, shown = seen + piece, shown + match.text
        if match.matched is not None:
            return
        assert shown == seen[: len(seen) - held_back(seen, stop)]


@settings(max_examples=200, deadline=None)
@given(pieces=pieces_of_text, stop=words, border=st.integers(0, 12))
def test_a_copy_goes_on_alone(pieces: list[str], stop: list[str], border: int) -> None:
    original = StopMatcher(stop)
    for piece in pieces[:border]:
        original.feed(piece)
    twin = original.copy()
    rest = [original.feed(piece) for piece in pieces[border:]]
    assert [twin.feed(piece) for piece in pieces[border:]] == rest
    assert twin.flush() == original.flush()


def test_stop_string_over_several_pieces() -> None:
    matcher = StopMatcher(["</answer>"])
    assert matcher.feed("yes </") == StopMatch(text="yes ")
    assert matcher.feed("answ") == StopMatch(text="")
    assert matcher.feed("er> and more") == StopMatch(text="", matched="</answer>")


def test_a_false_start_is_given_back() -> None:
    matcher = StopMatcher(["</answer>"])
    assert matcher.feed("a </ans") == StopMatch(text="a ")
    assert matcher.feed("x") == StopMatch(text="</ansx")


def test_the_shorter_of_two_with_the_same_beginning_wins_because_it_is_complete_first() -> None:
    assert run(["x", "abc"], ["abc", "ab"]) == ("x", "ab")


def test_the_longer_of_two_with_the_same_end_wins() -> None:
    assert run(["xa", "b!"], ["b", "ab"]) == ("x", "ab")


def test_included_stop_is_kept_and_what_follows_is_not() -> None:
    assert run(["one\n", "\ntwo"], ["\n\n"], include_stop=True) == ("one\n\n", "\n\n")


def test_with_the_stop_included_nothing_waits() -> None:
    matcher = StopMatcher(["\n\n"], include_stop=True)
    assert matcher.feed("one\n") == StopMatch(text="one\n")
    assert matcher.feed("\ntwo") == StopMatch(text="\n", matched="\n\n")


def test_after_the_match_everything_is_dropped() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("a.b.c") == StopMatch(text="a", matched=".")
    assert matcher.feed("d") == StopMatch(text="", matched=".")
    assert matcher.flush() == ""
    assert matcher.matched == "."


def test_without_stop_strings_text_passes_through() -> None:
    matcher = StopMatcher([])
    assert matcher.feed("anything") == StopMatch(text="anything")
    assert matcher.flush() == ""


def test_characters_beyond_the_basic_plane() -> None:
    assert run(["👩", "\u200d🚀", "!"], ["\u200d🚀"]) == ("👩", "\u200d🚀")


def test_an_empty_stop_string_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidArgument, match=r"stop\[1\]: is empty"):
        StopMatcher(["a", ""])
