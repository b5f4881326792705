"""Tokens to final text: composition, replay, copies."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.text.stops import StopMatcher
from tandem.text.stream import TextDelta, TextStream
from tests.unit.text.small_tokenizers import EXACT, wrapped
from tests.unit.text.test_detokenizer import ids_of, whole


def test_a_stop_string_over_token_borders_ends_the_text() -> None:
    tokenizer = wrapped("byte_level")
    stream = TextStream(tokenizer, tokenizer.encode("Count:"), ["STOP"])
    deltas = [stream.feed(i) for i in tokenizer.encode(" 1 2 STOP 3", add_special_tokens=False)]
    assert "".join(delta.text for delta in deltas) + stream.finish() == " 1 2 "
    assert stream.matched_stop == "STOP"
    assert deltas[-1].matched_stop == "STOP"


def test_stop_string_kept_when_asked() -> None:
    tokenizer = wrapped("byte_level")
    stream = TextStream(tokenizer, [], ["STOP"], include_stop=True)
    text = "".join(stream.feed(i).text for i in tokenizer.encode("a STOP b", add_special_tokens=False))
    assert text + stream.finish() == "a STOP"


def test_finish_gives_back_a_false_start_once() -> None:
    tokenizer = wrapped("byte_level")
    stream = TextStream(tokenizer, [], ["STOP"])
    text = "".join(stream.feed(i).text for i in tokenizer.encode("go STO", add_special_tokens=False))
    assert text == "go "
    assert stream.finish() == "STO"
    assert stream.finish() == ""
    assert stream.matched_stop is None


def test_finish_finds_a_stop_string_in_text_that_was_not_final() -> None:
    tokenizer = wrapped("gemma")
    stream = TextStream(tokenizer, [], ["€"])
    for byte in "ü€!".encode():
        assert stream.feed(3 + byte) == TextDelta(text="")
    assert stream.finish() == "ü"
    assert stream.matched_stop == "€"


def test_special_tokens_yield_nothing() -> None:
    tokenizer = wrapped("byte_level")
    end = tokenizer.backend.token_to_id("<|end|>")
    assert end is not None
    assert TextStream(tokenizer, []).feed(end) == TextDelta(text="")


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_replay_then_feed_equals_feeding_everything(name: str, data: st.DataObject) -> None:
    tokenizer = wrapped(name)
    prompt, output = data.draw(ids_of(tokenizer)), data.draw(ids_of(tokenizer))
    border = data.draw(st.integers(0, len(output)))
    stop = data.draw(st.lists(st.sampled_from(["e", " t", "the", "\ufffd", "é", "fox"]), max_size=3))
    first, second = TextStream(tokenizer, prompt, stop), TextStream(tokenizer, prompt, stop)
    for token_id in output[:border]:
        first.feed(token_id)
    second.replay(output[:border])
    third = second.copy()
    rest = [first.feed(token_id) for token_id in output[border:]]
    assert [second.feed(token_id) for token_id in output[border:]] == rest
    assert [third.feed(token_id) for token_id in output[border:]] == rest
    assert first.finish() == second.finish() == third.finish()


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_text_is_the_whole_text_cut_at_the_stop(name: str, data: st.DataObject) -> None:
    tokenizer = wrapped(name)
    prompt, output = data.draw(ids_of(tokenizer)), data.draw(ids_of(tokenizer))
    stop = data.draw(st.lists(st.sampled_from(["e", " t", "the", "\ufffd", "é", "fox"]), max_size=3))
    stream = TextStream(tokenizer, prompt, stop)
    text = "".join(stream.feed(token_id).text for token_id in output) + stream.finish()
    matcher = StopMatcher(stop)
    expected = matcher.feed(whole(tokenizer, prompt, output)).text + matcher.flush()
    assert (text, stream.matched_stop) == (expected, matcher.matched)


@pytest.mark.parametrize("name", ["byte_level", "llama2", "metaspace"])
def test_cost_per_token_is_small_and_does_not_grow(name: str) -> None:
    tokenizer = wrapped(name)
    draw = random.Random(3)
    ids = [draw.randrange(tokenizer.tokenizer_vocab_size) for _ in range(20_000)]
    stream = TextStream(tokenizer, ids[:100], ["\n\nUser:", "</s>"])
    started = time.perf_counter()
    for token_id in ids:
        stream.feed(token_id)
    # 20 us is the target on an idle core; the bound leaves room for a loaded machine,
    # yet decoding the whole text anew at each token would be beyond it by far.
    assert (time.perf_counter() - started) / len(ids) < 200e-6
