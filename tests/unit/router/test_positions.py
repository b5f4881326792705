"""Order of one child's output: whatever comes in whatever order, what goes out is the output once, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InternalError
from tandem.core.types import FinishReason, TokenDelta
from tandem.router.positions import ChildStream
from tests.unit.router.builders import make_delta, text_of, token_of


def outputs(stream: ChildStream, deltas: list[TokenDelta]) -> list[TokenDelta]:
    return [out for delta in deltas for out in stream.accept(delta, 0.0)]


def test_in_order_passes_through_untouched() -> None:
    stream = ChildStream()
    deltas = [make_delta(0), make_delta(1), make_delta(2, num_tokens=3)]
    for delta in deltas:
        (out,) = stream.accept(delta, 0.0)
        assert out is delta
    assert stream.next_position == 5


def test_d_ahead_of_p_is_held_until_the_first_token_comes() -> None:
    stream = ChildStream()
    assert stream.accept(make_delta(1), 5.0) == ()
    assert stream.accept(make_delta(2), 6.0) == ()
    assert (stream.num_held, stream.held_since_s) == (2, 5.0)
    assert [delta.position for delta in stream.accept(make_delta(0), 7.0)] == [0, 1, 2]
    assert (stream.num_held, stream.held_since_s) == (0, None)


def test_a_second_gap_keeps_the_rest_held_and_restarts_its_clock() -> None:
    stream = ChildStream()
    for position in (1, 3):
        stream.accept(make_delta(position), 5.0)
    assert [delta.position for delta in stream.accept(make_delta(0), 7.0)] == [0, 1]
    assert (stream.num_held, stream.held_since_s) == (1, 7.0)


def test_a_repeat_is_dropped_and_counted() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0), make_delta(1)])
    assert stream.accept(make_delta(0), 0.0) == ()
    assert stream.accept(make_delta(0, num_tokens=2), 0.0) == ()
    assert stream.num_repeated == 2


def test_an_overlap_is_trimmed_in_tokens_and_text() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(position) for position in range(3)])
    (out,) = stream.accept(make_delta(1, num_tokens=4), 0.0)
    assert (out.position, out.token_ids) == (3, (token_of(0, 3), token_of(0, 4)))
    assert out.text == text_of(0, 3) + text_of(0, 4)


def test_an_overlap_that_cuts_a_delta_of_several_tokens_is_an_error() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0, num_tokens=3)])
    with pytest.raises(InternalError):
        stream.accept(make_delta(2, num_tokens=3), 0.0)


def test_nothing_follows_the_end() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0, finish=FinishReason.STOP)])
    assert stream.finished
    assert stream.accept(make_delta(1), 0.0) == ()
    assert stream.num_repeated == 1


def test_an_end_without_tokens_is_forwarded_once() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0)])
    end = make_delta(1, num_tokens=0, finish=FinishReason.STOP, text="rest")
    assert list(stream.accept(end, 0.0)) == [end]
    assert stream.accept(end, 0.0) == ()


def test_a_repeat_that_brings_the_end_forwards_only_the_end() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0)])
    (out,) = stream.accept(make_delta(0, finish=FinishReason.LENGTH), 0.0)
    assert (out.token_ids, out.text, out.finish_reason) == ((), "", FinishReason.LENGTH)


def test_what_is_held_behind_the_end_is_dropped() -> None:
    stream = ChildStream()
    stream.accept(make_delta(1), 0.0)
    outputs(stream, [make_delta(0, finish=FinishReason.STOP)])
    assert stream.num_held == 0
    assert stream.held_since_s is None


def test_a_new_attempt_forgets_what_was_held() -> None:
    stream = ChildStream()
    outputs(stream, [make_delta(0)])
    stream.accept(make_delta(2), 0.0)
    stream.drop_held()
    assert [delta.position for delta in outputs(stream, [make_delta(1), make_delta(2)])] == [1, 2]


@st.composite
def traffic(draw: st.DrawFn) -> tuple[int, list[TokenDelta]]:
    """Single-token deltas of one output, some of them joined, shuffled within a window, some repeated."""
    length = draw(st.integers(1, 40))
    deltas: list[TokenDelta] = []
    position = 0
    while position < length:
        size = min(draw(st.sampled_from([1, 1, 1, 2, 3])), length - position)
        position += size
        finish = FinishReason.LENGTH if position == length else None
        deltas.append(make_delta(position - size, num_tokens=size, finish=finish))
    repeats = draw(st.lists(st.sampled_from(deltas), max_size=10))
    return length, draw(st.permutations(deltas + repeats))


@given(traffic())
def test_any_order_with_repeats_gives_the_output_once(case: tuple[int, list[TokenDelta]]) -> None:
    length, deltas = case
    stream = ChildStream()
    out: list[TokenDelta] = []
    for delta in deltas:
        for ready in stream.accept(delta, 0.0):
            assert ready.position == sum(len(earlier.token_ids) for earlier in out)
            out.append(ready)
    assert [token for delta in out for token in delta.token_ids] == [token_of(0, p) for p in range(length)]
    assert "".join(delta.text for delta in out) == "".join(text_of(0, p) for p in range(length))
    assert [delta.finish_reason for delta in out if delta.finish_reason] == [FinishReason.LENGTH]
    assert stream.finished
    assert stream.num_held == 0
