"""The streamed text equals the whole text, for every decoder family, whatever the tokens."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandem.text.detokenizer import IncrementalDetokenizer, without_common_prefix
from tandem.text.pieces import REPLACEMENT, Family
from tandem.text.tokenizer import Tokenizer
from tests.unit.text.small_tokenizers import CORPUS, EXACT, wrapped

TEXTS = [
    *CORPUS,
    "🙂",
    " leading",
    "  two",
    "",
    "end in spaces   ",
    "\n\n",
    "日本語テキスト",
    "Ĳ ﷽ \u200d e\u0301",
    "a \ufffd b\ufffd",
    "नमस्ते 👩🏽‍🚀!",
]


def whole(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> str:
    """The slow, obvious definition."""
    decode = tokenizer.backend.decode
    return without_common_prefix(decode([*prompt, *output]), decode(prompt))


def streamed(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)
    return "".join([*(detokenizer.feed(token_id) for token_id in output), detokenizer.flush()])


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    # Some ids beyond the vocabulary: padded embeddings make a model able to produce them.
    return st.lists(st.integers(0, tokenizer.tokenizer_vocab_size + 3), max_size=24)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_streamed_text_equals_whole_text_for_random_tokens(name: str, data: st.DataObject) -> None:
    tokenizer = wrapped(name)
    prompt, output = data.draw(ids_of(tokenizer)), data.draw(ids_of(tokenizer))
    assert streamed(tokenizer, prompt, output) == whole(tokenizer, prompt, output)


@pytest.mark.parametrize("name", ["llama2", "gemma"])
@settings(max_examples=300, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 262), max_size=8),
    output=st.lists(st.sampled_from([*range(3, 259), 1, 2, 259, 260, 261]), max_size=16),
)
@example(prompt=[1, 3 + 0xC3], output=[3 + 0xA9, 261])  # the prompt's half character is completed
@example(prompt=[1, 3 + 0xC3, 3 + 0xA9], output=[3 + 0xA9, 261])  # a valid run of the prompt made invalid
@example(prompt=[1], output=[3 + 0x20, 3 + 0x20, 261])  # the text begins with spaces written as bytes
@example(prompt=[1], output=[259, 259, 261])
def test_runs_of_byte_tokens(name: str, prompt: list[int], output: list[int]) -> None:
    tokenizer = wrapped(name)
    assert streamed(tokenizer, prompt, output) == whole(tokenizer, prompt, output)


@settings(max_examples=500, deadline=None)
@given(prompt=st.lists(st.integers(1, 6), max_size=4), output=st.lists(st.integers(1, 6), max_size=6))
@example(prompt=[1], output=[2, 2, 2, 3])
@example(prompt=[4], output=[1, 5, 1, 3])
@example(prompt=[2], output=[1, 5])
def test_the_start_of_the_text_is_not_always_the_first_token(prompt: list[int], output: list[int]) -> None:
    tokenizer = wrapped("awkward")
    assert streamed(tokenizer, prompt, output) == whole(tokenizer, prompt, output)


@pytest.mark.parametrize("text", ["<tool>", "a b", "héé", "x a b", "<|wörk|>"])
def test_added_tokens_that_are_not_written_in_the_byte_alphabet(text: str) -> None:
    tokenizer = wrapped("byte_level")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, [], ids) == tokenizer.decode(ids)


@settings(max_examples=300, deadline=None)
@given(prompt=st.binary(max_size=6), output=st.binary(max_size=16))
@example(prompt=b"\xf0\x9f", output=b"\x99\x82!")  # the prompt ends inside a character that the output completes
@example(prompt=b"\xf0\x9f", output=b"!")  # ... or does not
@example(prompt=b"\xef\xbf", output=b"\xbd")  # a real U+FFFD
@example(prompt=b"", output=b"\xed\xa0\x80")  # a surrogate is three bad bytes
@example(prompt=b"\xf0\xf0\x9f", output=b"\x99\x82")
@example(prompt=b"\xed\xa0", output=b"")  # held back as if a character, shown as two bad bytes
@example(prompt=b"\xed\xa0", output=b"\x80")
@example(prompt=b"\xed\xa0", output=b"a")
def test_raw_bytes_of_a_byte_level_tokenizer(prompt: bytes, output: bytes) -> None:
    tokenizer = wrapped("byte_level")
    id_of = {value: i for i in range(256) if len(value := tokenizer.pieces.bytes_of[i]) == 1}
    first, second = ([id_of[data[i : i + 1]] for i in range(len(data))] for data in (prompt, output))
    assert streamed(tokenizer, first, second) == whole(tokenizer, first, second)


@pytest.mark.parametrize("name", [*EXACT, "mixed_chain"])
@pytest.mark.parametrize("text", TEXTS)
def test_encoded_text_at_every_border_of_prompt_and_output(name: str, text: str) -> None:
    tokenizer = wrapped(name)
    if name == "suffix_bpe":
        text = "abc ab a"
    ids = tokenizer.encode(text)
    for border in range(len(ids) + 1):
        prompt, output = ids[:border], ids[border:]
        assert streamed(tokenizer, prompt, output) == whole(tokenizer, prompt, output)


@pytest.mark.parametrize("name", ["byte_level", "llama2", "gemma", "mixed_chain"])
def test_no_piece_shows_half_a_character(name: str) -> None:
    tokenizer = wrapped(name)
    text = "🙂 é 你好 👩🏽‍🚀 x" * 3
    detokenizer = IncrementalDetokenizer(tokenizer, tokenizer.encode("say"))
    pieces = [detokenizer.feed(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False)]
    assert all(REPLACEMENT not in piece for piece in pieces)
    assert "".join([*pieces, detokenizer.flush()]).strip() == text


def test_a_character_comes_out_with_its_last_byte() -> None:
    tokenizer = wrapped("byte_level")
    ids = tokenizer.encode("\U0001f9ff", add_special_tokens=False)
    assert len(ids) >= 3
    detokenizer = IncrementalDetokenizer(tokenizer, [])
    assert [detokenizer.feed(token_id) for token_id in ids] == [*[""] * (len(ids) - 1), "\U0001f9ff"]


def test_flush_shows_what_was_cut_and_only_once() -> None:
    tokenizer = wrapped("byte_level")
    detokenizer = IncrementalDetokenizer(tokenizer, [])
    for token_id in tokenizer.encode("\U0001f9ff", add_special_tokens=False)[:-1]:
        assert detokenizer.feed(token_id) == ""
    assert detokenizer.flush() == REPLACEMENT
    assert detokenizer.flush() == ""


def test_the_answer_s_leading_space_depends_on_the_prompt() -> None:
    tokenizer = wrapped("llama2")
    (the,) = tokenizer.encode("the", add_special_tokens=False)
    assert streamed(tokenizer, [1], [the]) == "the"
    assert streamed(tokenizer, [1, the], [the]) == " the"


def test_special_tokens_add_no_text_and_do_not_split_a_run() -> None:
    tokenizer = wrapped("llama2")
    euro = [3 + byte for byte in "€".encode()]
    (the,) = tokenizer.encode("the", add_special_tokens=False)
    assert streamed(tokenizer, [1, the], [euro[0], 2, euro[1], 1, euro[2], the]) == "€ the"


@pytest.mark.parametrize("name", [*EXACT, "mixed_chain"])
def test_copies_are_independent(name: str) -> None:
    tokenizer = wrapped(name)
    draw = random.Random(7)
    ids = [draw.randrange(tokenizer.tokenizer_vocab_size) for _ in range(60)]
    for border in range(0, 60, 7):
        original = IncrementalDetokenizer(tokenizer, [1])
        for token_id in ids[:border]:
            original.feed(token_id)
        twin = original.copy()
        rest = "".join([*(original.feed(i) for i in ids[border:]), original.flush()])
        assert "".join([*(twin.feed(i) for i in ids[border:]), twin.flush()]) == rest


@pytest.mark.parametrize("name", ["byte_level", "llama2", "metaspace"])
def test_a_long_prompt_is_not_decoded_as_a_whole(name: str) -> None:
    tokenizer = wrapped(name)
    prompt = tokenizer.encode(CORPUS[0]) * 4000
    started = time.perf_counter()
    for _ in range(20):
        IncrementalDetokenizer(tokenizer, prompt)
    assert time.perf_counter() - started < 1.0  # decoding 20 times 100k tokens takes many seconds


def test_endless_broken_bytes_stay_cheap_and_bounded() -> None:
    tokenizer = wrapped("byte_level")
    lead = next(i for i in range(256) if tokenizer.pieces.bytes_of[i] == b"\xe2")
    detokenizer = IncrementalDetokenizer(tokenizer, [])
    shown = [detokenizer.feed(lead) for _ in range(20_000)]
    # Each lead byte proves the one before it broken: nothing piles up.
    assert shown == ["", *[REPLACEMENT] * 19_999]


def test_families_are_told_apart() -> None:
    assert wrapped("byte_level").pieces.family is Family.BYTES
    assert wrapped("llama2").pieces.family is Family.RUNS
    assert wrapped("metaspace").pieces.family is Family.LOCAL
    assert wrapped("mixed_chain").pieces.may_end_inside_character
    assert not wrapped("byte_level").pieces.may_end_inside_character
