"""How sequences end: stop tokens, stop strings, length; at the first token, in the middle, across the P/D border."""

import pytest

from tandem.core.messages import AttemptReleased, PrefillDone
from tandem.core.types import FinishReason, GenerationTask, SamplingParams, StopParams
from tests.fakes.engine_driver import (
    TOKENIZER,
    Collected,
    drive,
    key_of,
    make_engine,
    make_task,
    run_local,
    run_split,
)
from tests.fakes.fake_runner import EOS_ID, reference_tokens

FORCE = 100.0  # logit bias that decides every draw


def forced(token_id: int, **stop: object) -> GenerationTask:
    """A task whose every token is ``token_id``."""
    stops = StopParams(max_tokens=8, **stop)  # type: ignore[arg-type]
    return make_task(sampling=SamplingParams(logit_bias={token_id: FORCE}), stop=stops)


def both_ways(task: GenerationTask) -> list[Collected]:
    """Run on one worker and on two."""
    return [run_local(make_engine(), [task]), run_split(make_engine(), make_engine(), [task])]


def test_length() -> None:
    for out in both_ways(make_task(max_tokens=5, stop=StopParams(max_tokens=5, ignore_eos=True))):
        assert len(out.tokens["r0", 0]) == 5
        assert out.finished["r0", 0] is FinishReason.LENGTH


def test_end_token_is_listed_and_gives_no_text() -> None:
    for out in both_ways(forced(EOS_ID)):
        assert out.tokens["r0", 0] == [EOS_ID]
        assert out.text["r0", 0] == ""
        assert out.finished["r0", 0] is FinishReason.STOP


def test_ignored_end_token_goes_on() -> None:
    for out in both_ways(forced(EOS_ID, ignore_eos=True)):
        assert out.tokens["r0", 0] == [EOS_ID] * 8
        assert out.finished["r0", 0] is FinishReason.LENGTH


def test_stop_token_of_the_task_gives_no_text_either() -> None:
    letter = TOKENIZER.encode("a")[0]
    for out in both_ways(forced(letter, stop_token_ids=(letter,))):
        assert out.tokens["r0", 0] == [letter]
        assert out.text["r0", 0] == ""


def test_stop_wins_over_length() -> None:
    task = make_task(sampling=SamplingParams(logit_bias={EOS_ID: FORCE}), stop=StopParams(max_tokens=1))
    for out in both_ways(task):
        assert out.finished["r0", 0] is FinishReason.STOP


@pytest.mark.parametrize("include_stop", [False, True])
def test_stop_string_across_the_border(include_stop: bool) -> None:
    """Every token is "a" and the stop string is "aaa": the first token's text is held back on P and matched on D."""
    letter = TOKENIZER.encode("a")[0]
    for out in both_ways(forced(letter, stop=("aaa",), include_stop=include_stop)):
        assert out.tokens["r0", 0] == [letter] * 3
        assert out.text["r0", 0] == ("aaa" if include_stop else "")
        assert out.finished["r0", 0] is FinishReason.STOP
        last = [delta for result in out.results for delta in result.tokens][-1]
        assert last.matched_stop == "aaa"


def test_held_back_text_comes_out_at_the_end() -> None:
    letter = TOKENIZER.encode("a")[0]
    for out in both_ways(forced(letter, stop=("aaaaaaaaaaaab",))):
        assert out.text["r0", 0] == "a" * 8
        assert out.finished["r0", 0] is FinishReason.LENGTH


def test_no_half_characters_across_the_border() -> None:
    """A character of several tokens whose first half is P's only token."""
    ids = TOKENIZER.encode("界")
    assert len(ids) > 1
    task = make_task(prompt=[9, 8, 7], sampling=SamplingParams(logit_bias={ids[0]: FORCE}), max_tokens=1)
    assert run_local(make_engine(), [task]).text["r0", 0] == "\ufffd"
    longer = forced(ids[0])
    one, two = both_ways(longer)
    assert one.text == two.text
    first = next(delta for result in two.results for delta in result.tokens)
    assert first.text == ""


def test_children_end_one_by_one_and_free_their_blocks() -> None:
    task = make_task(num_prompt=10, n=4, sampling=SamplingParams(temperature=1.5, seed=3, logit_bias={EOS_ID: 7.0}))
    task_tokens = [reference_tokens(task, c) for c in range(4)]
    assert len({len(tokens) for tokens in task_tokens}) > 1, "the children must end at different steps"
    for out in both_ways(task):
        assert [out.tokens["r0", c] for c in range(4)] == task_tokens
        assert len(out.finished) == 4


def test_all_children_ending_at_the_first_token_need_no_decode_worker() -> None:
    source = make_engine()
    task = make_task(n=3, sampling=SamplingParams(logit_bias={EOS_ID: FORCE}))
    source.start_prefill(task)
    out = drive(source)
    assert [first.finished for first in out.sealed[0].first_tokens] == [True] * 3
    assert len(out.finished) == 3
    assert source.load().free_blocks < source.num_blocks, "held until the worker says so"
    assert source.release(key_of(task))
    assert not source.release(key_of(task))


def test_some_children_end_at_the_first_token() -> None:
    sampling = next(
        sampling
        for sampling in (SamplingParams(temperature=1.0, seed=seed, logit_bias={EOS_ID: 8.0}) for seed in range(50))
        if {reference_tokens(make_task(n=3, sampling=sampling), c)[0] == EOS_ID for c in range(3)} == {True, False}
    )
    task = make_task(n=3, sampling=sampling)
    for out in both_ways(task):
        assert [out.tokens["r0", c] for c in range(3)] == [reference_tokens(task, c) for c in range(3)]


def test_released_comes_once_and_after_the_tokens() -> None:
    task = make_task(num_prompt=10, n=4, sampling=SamplingParams(temperature=1.5, seed=3, logit_bias={EOS_ID: 7.0}))
    out = run_local(make_engine(), [task])
    assert len({len(out.tokens["r0", child]) for child in range(4)}) > 1, "the children end at different steps"
    released = [i for i, result in enumerate(out.results) if any(isinstance(e, AttemptReleased) for e in result.events)]
    last_token = max(i for i, result in enumerate(out.results) if result.tokens)
    assert released == [last_token + 1]


def test_prompt_is_reported_once_even_when_it_is_computed_again() -> None:
    tasks = [make_task(f"r{i}", num_prompt=10, stop=StopParams(max_tokens=20, ignore_eos=True)) for i in range(5)]
    out = run_local(make_engine(13, growth_margin=0.0), tasks)
    assert len(out.events_of(PrefillDone)) == 5


def test_logprobs_come_with_their_tokens() -> None:
    task = make_task(sampling=SamplingParams(num_logprobs=2), stop=StopParams(max_tokens=4, ignore_eos=True))
    for out in both_ways(task):
        deltas = [delta for result in out.results for delta in result.tokens]
        assert [delta.logprobs[0].chosen.token_id for delta in deltas] == out.tokens["r0", 0]
        assert all(len(delta.logprobs[0].top) == 2 for delta in deltas)
