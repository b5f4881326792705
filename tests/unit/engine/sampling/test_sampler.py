"""The sampler against a slow oracle, and its promises: order of the stages, independence of rows, failing alone."""

import dataclasses
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tandem.core.types import SamplingParams
from tandem.engine.sampling.philox import uniforms
from tandem.engine.sampling.sampler import SampledToken, Sampler, SampleRow
from tests.unit.engine.sampling import oracle

NAN, INF = float("nan"), float("inf")


def row(
    params: SamplingParams | None = None,
    *,
    child: int = 0,
    position: int = 0,
    prompt: tuple[int, ...] = (),
    output: tuple[int, ...] = (),
) -> SampleRow:
    return SampleRow(
        params=params or SamplingParams(),
        child=child,
        position=position,
        prompt_token_ids=prompt,
        output_token_ids=output,
    )


def sample(logits: torch.Tensor, rows: list[SampleRow]) -> list[SampledToken]:
    return Sampler().sample(logits.clone(), rows)


def tokens(logits: torch.Tensor, rows: list[SampleRow]) -> list[int | None]:
    return [result.token_id for result in sample(logits, rows)]


def expected_token(logits: torch.Tensor, one: SampleRow) -> int:
    changed = oracle.adjusted(logits.numpy(), one)
    if one.params.temperature == 0:
        return int(np.argmax(changed))
    uniform = uniforms([one.params.seed], [one.child], [one.position])[0]
    return oracle.draw(changed, one.params, float(uniform))


VOCAB = 13
# A few round numbers, so that equal logits are common.
LOGITS = st.lists(
    st.one_of(st.sampled_from([-2.0, 0.0, 0.5, 1.0]), st.floats(-20, 20, width=32)), min_size=VOCAB, max_size=VOCAB
)
TOKEN_IDS = st.lists(st.integers(0, VOCAB - 1), max_size=12).map(tuple)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-6, 0.5, 1.0, 1.7, 10.0]),
    top_k=st.sampled_from([0, 1, 2, 5, VOCAB]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.25, 1e-9]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8, 10.0]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -0.5]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -1.0, 2.0]), max_size=3),
    seed=st.integers(0, 2**64 - 1),
    num_logprobs=st.sampled_from([None, 0, 3, VOCAB]),
)
ROWS = st.builds(
    SampleRow,
    params=PARAMS,
    child=st.integers(0, 7),
    position=st.integers(0, 5000),
    prompt_token_ids=TOKEN_IDS,
    output_token_ids=TOKEN_IDS,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(LOGITS, ROWS), min_size=1, max_size=5))
def test_equals_the_oracle(batch: list[tuple[list[float], SampleRow]]) -> None:
    logits = torch.tensor([values for values, _ in batch], dtype=torch.float32)
    results = sample(logits, [one for _, one in batch])
    for index, (_, one) in enumerate(batch):
        assert results[index].token_id == expected_token(logits[index], one)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(LOGITS, ROWS), min_size=2, max_size=6), st.randoms())
def test_a_row_does_not_depend_on_the_other_rows(batch: list[tuple[list[float], SampleRow]], random: Random) -> None:
    together = sample(torch.tensor([values for values, _ in batch], dtype=torch.float32), [one for _, one in batch])
    order = list(range(len(batch)))
    random.shuffle(order)
    shuffled = sample(torch.tensor([batch[i][0] for i in order], dtype=torch.float32), [batch[i][1] for i in order])
    for place, index in enumerate(order):
        assert shuffled[place] == together[index]
        alone = sample(torch.tensor([batch[index][0]], dtype=torch.float32), [batch[index][1]])
        assert alone[0] == together[index]


MIXED = [
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(temperature=0.8, seed=1, top_k=40),
    SamplingParams(temperature=1.3, seed=2**63, top_p=0.9),
    SamplingParams(temperature=1.0, seed=3, top_k=100, top_p=0.95, min_p=0.01),
    SamplingParams(temperature=0.7, seed=4, repetition_penalty=1.2, num_logprobs=3),
    SamplingParams(frequency_penalty=0.3, logit_bias={5: 4.0}, num_logprobs=5),
]


def test_a_real_vocabulary_gives_the_same_rows_alone_and_in_any_chunk() -> None:
    """At 49k tokens a batch is worked on in chunks of five rows; 17 rows make several, with mixed settings."""
    generator = torch.Generator().manual_seed(11)
    logits = torch.randn((17, 49_152), generator=generator) * 4
    rows = [
        row(MIXED[i % len(MIXED)], child=i, position=i * 3, prompt=tuple(range(i, 300)), output=tuple(range(i)))
        for i in range(17)
    ]
    together = sample(logits, rows)
    assert len({result.token_id for result in together}) > 10
    for index, one in enumerate(rows):
        assert sample(logits[index : index + 1], [one]) == [together[index]]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("params", MIXED, ids=str)
def test_a_row_with_a_bad_logit_fails_alone(bad: float, params: SamplingParams) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((3, 200), generator=generator)
    rows = [row(params, position=index, output=(1, 1, 2)) for index in range(3)]
    clean = sample(logits, rows)
    for broken in range(3):
        spoiled = logits.clone()
        spoiled[broken, 57] = bad
        results = sample(spoiled, rows)
        assert results[broken] == SampledToken(token_id=None)
        for index in range(3):
            if index != broken:
                assert results[index] == clean[index]


def test_all_rows_bad() -> None:
    assert tokens(torch.full((2, 5), NAN), [row(), row(MIXED[1])]) == [None, None]


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-5.0, -9.0, -5.0, -6.0]])
    assert tokens(logits, [row()] * 3) == [1, 0, 0]


def test_extreme_but_finite_logits() -> None:
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest, 0.0], [-largest, -largest, largest]])
    assert tokens(logits, [row(), row(SamplingParams(temperature=1e-3))]) == [0, 2]


def test_a_tiny_temperature_is_the_argmax() -> None:
    logits = torch.randn((50, 100), generator=torch.Generator().manual_seed(0))
    rows = [row(SamplingParams(temperature=1e-300, seed=index)) for index in range(50)]
    assert tokens(logits, rows) == logits.argmax(1).tolist()


def test_a_tiny_repetition_penalty_does_not_break_the_row() -> None:
    params = SamplingParams(repetition_penalty=1e-45, num_logprobs=1)
    [result] = sample(torch.tensor([[1.0, 2.0, 3.0]]), [row(params, prompt=(1,))])
    assert result.token_id == 1
    assert result.logprobs is not None
    assert result.logprobs.chosen.logprob == 0.0


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_of_equal_logits_keeps_the_lowest_ids(top_k: int) -> None:
    rows = [row(SamplingParams(temperature=1.0, top_k=top_k, seed=seed)) for seed in range(200)]
    assert set(tokens(torch.zeros(200, 40), rows)) == set(range(top_k))


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(300, 1)

    def seen(top_p: float) -> set[int | None]:
        params = [SamplingParams(temperature=1.0, top_p=top_p, seed=seed) for seed in range(300)]
        return set(tokens(probabilities, [row(one) for one in params]))

    assert seen(0.39) == {1}
    assert seen(0.41) == {1, 3}
    assert seen(0.69) == {1, 3}
    assert seen(0.71) == {1, 2, 3}
    assert seen(0.95) == {0, 1, 2, 3}


def test_top_p_counts_the_mass_left_by_top_k() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(200, 1)
    # After top-k 2 the first token holds 4/7 = 0.571 of the mass.
    for top_p, expected in ((0.56, {0}), (0.58, {0, 1})):
        params = SamplingParams(temperature=1.0, top_k=2, top_p=top_p)
        rows = [row(dataclasses.replace(params, seed=seed)) for seed in range(200)]
        assert set(tokens(probabilities, rows)) == expected


def test_min_p_is_relative_to_the_best_token() -> None:
    probabilities = torch.tensor([[0.5, 0.26, 0.24 - 0.04, 0.04]]).log().repeat(400, 1)
    rows = [row(SamplingParams(temperature=1.0, min_p=0.3, seed=seed)) for seed in range(400)]
    assert set(tokens(probabilities, rows)) == {0, 1, 2}


def test_bias_comes_before_the_repetition_penalty() -> None:
    # (1 + 3) / 2 = 2 beats 1.9; 1 / 2 + 3 = 3.5 would beat 3.2 as well.
    params = SamplingParams(logit_bias={0: 3.0}, repetition_penalty=2.0)
    assert tokens(torch.tensor([[1.0, 1.9], [1.0, 3.2]]), [row(params, prompt=(0,))] * 2) == [0, 1]


def test_penalties_count_output_only_but_repetition_counts_the_prompt() -> None:
    logits = torch.tensor([[1.0, 0.9]])
    prompt = (0, 0, 0)
    assert tokens(logits, [row(SamplingParams(presence_penalty=1.0, frequency_penalty=1.0), prompt=prompt)]) == [0]
    assert tokens(logits, [row(SamplingParams(repetition_penalty=1.5), prompt=prompt)]) == [1]
    assert tokens(logits, [row(SamplingParams(presence_penalty=1.0), output=(0,))]) == [1]
    once, thrice = row(SamplingParams(frequency_penalty=0.04), output=(0,)), (0, 0, 0)
    assert tokens(logits, [once]) == [0]
    assert tokens(logits, [dataclasses.replace(once, output_token_ids=thrice)]) == [1]


def test_penalties_come_before_temperature_and_greedy_sees_them() -> None:
    params = SamplingParams(temperature=0.01, frequency_penalty=1.0, seed=5)
    assert tokens(torch.tensor([[1.0, 0.5]]), [row(params, output=(0,))]) == [1]


def test_children_seeds_and_positions_are_streams_of_their_own() -> None:
    base = row(SamplingParams(temperature=1.0, seed=9), child=0, position=0)
    count = 64
    logits = torch.zeros((count, 1000))
    streams = {
        "positions": [dataclasses.replace(base, position=i) for i in range(count)],
        "children": [dataclasses.replace(base, child=i + 1, position=1000) for i in range(count)],
        "seeds": [dataclasses.replace(base, params=SamplingParams(temperature=1.0, seed=i + 10)) for i in range(count)],
    }
    drawn = {name: tokens(logits, rows) for name, rows in streams.items()}
    for name, values in drawn.items():
        assert len(set(values)) > count * 0.85, name  # 64 of 1000: about two repeats are expected
        assert values == tokens(logits, streams[name])
    assert drawn["positions"] != drawn["children"]
    assert drawn["positions"] != drawn["seeds"]


def test_a_continuation_draws_what_would_have_come() -> None:
    """Recovery: another sampler, starting at position 5, goes on with the tokens the first one draws from there."""
    logits = torch.randn((10, 50), generator=torch.Generator().manual_seed(2))
    params = SamplingParams(temperature=1.0, seed=77)
    whole = tokens(logits, [row(params, child=2, position=index) for index in range(10)])
    assert tokens(logits[5:], [row(params, child=2, position=index) for index in range(5, 10)]) == whole[5:]


CHI_CASES = [
    (SamplingParams(temperature=1.0), [0.35, 0.25, 0.2, 0.1, 0.06, 0.04]),
    (SamplingParams(temperature=0.5), [0.35, 0.25, 0.2, 0.1, 0.06, 0.04]),
    (SamplingParams(temperature=1.0, top_k=3), [0.04, 0.25, 0.35, 0.1, 0.06, 0.2]),
    (SamplingParams(temperature=1.0, top_p=0.85), [0.04, 0.25, 0.35, 0.1, 0.06, 0.2]),
    (SamplingParams(temperature=1.0, min_p=0.25), [0.04, 0.25, 0.35, 0.1, 0.06, 0.2]),
]


@pytest.mark.parametrize(("params", "probabilities"), CHI_CASES)
def test_draws_follow_the_distribution(params: SamplingParams, probabilities: list[float]) -> None:
    count = 20_000
    logits = torch.tensor(probabilities).log()
    drawn = tokens(
        logits.repeat(count, 1), [row(dataclasses.replace(params, seed=6), position=i) for i in range(count)]
    )
    mass = oracle.weights(logits.numpy(), params.temperature)
    survivors = oracle.kept(logits.numpy(), mass, params)
    total = sum(mass[token_id] for token_id in survivors)
    assert set(drawn) == set(survivors)
    chi_square = sum(
        (drawn.count(token_id) - count * mass[token_id] / total) ** 2 / (count * mass[token_id] / total)
        for token_id in survivors
    )
    assert chi_square < 20.5  # 99.9 % point with 5 degrees of freedom, the most there are here


@settings(max_examples=150, deadline=None)
@given(LOGITS, ROWS, st.integers(0, VOCAB))
def test_logprobs_are_those_after_bias_and_penalties(values: list[float], one: SampleRow, wanted: int) -> None:
    one = dataclasses.replace(one, params=dataclasses.replace(one.params, num_logprobs=wanted))
    logits = torch.tensor([values], dtype=torch.float32)
    [result] = sample(logits, [one])
    assert result.logprobs is not None
    changed = oracle.adjusted(logits[0].numpy(), one)
    expected = oracle.logprobs(changed)
    assert result.logprobs.chosen.token_id == result.token_id
    assert result.token_id is not None
    assert result.logprobs.chosen.logprob == pytest.approx(expected[result.token_id], rel=1e-6, abs=2e-5)
    top = result.logprobs.top
    assert len(top) == wanted
    assert [entry.logprob for entry in top] == pytest.approx(
        [expected[entry.token_id] for entry in top], rel=1e-6, abs=2e-5
    )
    order = [(-entry.logprob, entry.token_id) for entry in top]
    assert order == sorted(order)
    best = sorted(expected, reverse=True)[:wanted]
    assert [entry.logprob for entry in top] == pytest.approx(best, rel=1e-6, abs=2e-5)


def test_equal_logprobs_come_by_token_id() -> None:
    logits = torch.zeros((2, 60))
    logits[1, 40] = 1.0
    first, second = sample(logits, [row(SamplingParams(num_logprobs=3)), row(SamplingParams(num_logprobs=2))])
    assert first.logprobs is not None
    assert second.logprobs is not None
    assert [entry.token_id for entry in first.logprobs.top] == [0, 1, 2]
    assert [entry.token_id for entry in second.logprobs.top] == [40, 0]


def test_only_rows_that_ask_get_logprobs() -> None:
    rows = [row(), row(SamplingParams(num_logprobs=0)), row(SamplingParams(temperature=1.0))]
    results = sample(torch.randn(3, 9), rows)
    assert [result.logprobs is None for result in results] == [True, False, True]
    assert results[1].logprobs is not None
    assert results[1].logprobs.top == ()


def test_no_rows() -> None:
    assert Sampler().sample(torch.empty(0, 10), []) == []


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float32"):
        Sampler().sample(torch.zeros(1, 4, dtype=torch.float64), [row()])
    with pytest.raises(ValueError, match="expected float32"):
        Sampler().sample(torch.zeros(2, 4), [row()])


@given(st.floats(0.0, 1.0, exclude_min=True))
def test_any_top_p_keeps_the_best_token(top_p: float) -> None:
    assume(top_p > 0)
    params = SamplingParams(temperature=1.0, top_p=top_p, top_k=1)
    assert tokens(torch.tensor([[0.0, 5.0, 1.0]]), [row(params)]) == [1]
