"""The drawing step's own promises: exact sums, and no token past the end."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.types import SamplingParams
from tandem.engine.sampling.draw import draw, token_weights, weight_scale
from tandem.engine.sampling.filters import has_rank_filter, rank_mask

PLAIN = SamplingParams(temperature=1.0)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 255, 256, 49_152, 262_144])
def test_no_sum_of_weights_leaves_the_exact_integers(vocab_size: int) -> None:
    scale = weight_scale(vocab_size)
    assert scale == int(scale)
    assert 2**51 <= scale * (vocab_size + 1) < 2**54
    assert scale * vocab_size < 2**53


def test_weights_are_integers_and_the_best_has_the_whole_scale() -> None:
    logits = torch.randn((3, 777), generator=torch.Generator().manual_seed(0)) * 5
    temperatures = torch.tensor([[0.3], [1.0], [5.0]], dtype=torch.float64)
    weights = token_weights(logits, temperatures)
    assert weights.dtype == torch.float64
    assert torch.equal(weights, weights.round())
    assert weights.amax(1).tolist() == [weight_scale(777)] * 3
    exact = torch.softmax(logits.double() / temperatures, dim=1)
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), exact, atol=1e-12, rtol=0)


def test_weights_do_not_depend_on_where_a_row_lies() -> None:
    """A row of odd length begins at any alignment and ends in any lane of a vector register."""
    logits = torch.randn((9, 1003), generator=torch.Generator().manual_seed(0))
    temperatures = torch.full((9, 1), 0.7, dtype=torch.float64)
    together = token_weights(logits, temperatures)
    for index in range(9):
        assert torch.equal(token_weights(logits[index : index + 1].clone(), temperatures[:1])[0], together[index])


@pytest.mark.parametrize("vocab_size", [1, 2, 1000, 65_535])
def test_the_ends_of_the_unit_interval(vocab_size: int) -> None:
    uniform = np.array([0.0, 1.0 - 2.0**-53])
    drawn = draw(torch.zeros((2, vocab_size)), [PLAIN, PLAIN], uniform)
    assert drawn.tolist() == [0, vocab_size - 1]


def test_a_dropped_token_is_never_drawn_at_either_end() -> None:
    logits = torch.tensor([[-1.0, 2.0, 2.0, -1.0]]).repeat(2, 1)
    params = [SamplingParams(temperature=1.0, top_k=2)] * 2
    assert draw(logits, params, np.array([0.0, 1.0 - 2.0**-53])).tolist() == [1, 2]


def test_uniforms_map_to_tokens_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.1, 0.4]]).log().repeat(4, 1)
    assert draw(logits, [PLAIN] * 4, np.array([0.1, 0.4, 0.55, 0.7])).tolist() == [0, 1, 2, 3]


def test_which_settings_need_a_rank() -> None:
    assert not has_rank_filter(PLAIN, 100)
    assert not has_rank_filter(SamplingParams(temperature=1.0, top_k=100), 100)
    assert not has_rank_filter(SamplingParams(temperature=1.0, top_k=500), 100)
    assert has_rank_filter(SamplingParams(temperature=1.0, top_k=99), 100)
    assert has_rank_filter(SamplingParams(temperature=1.0, top_p=0.999), 100)


def test_rank_mask_counts() -> None:
    logits = torch.tensor([[3.0, 1.0, 3.0, 2.0, 3.0]]).repeat(4, 1)
    params = [SamplingParams(temperature=1.0, top_k=k) for k in (1, 2, 4, 5)]
    weights = token_weights(logits, torch.ones((4, 1), dtype=torch.float64))
    assert rank_mask(logits, weights, params).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.1, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_top_p_stops_exactly_where_the_mass_is_reached(top_p: float, num_kept: int) -> None:
    logits, weights = torch.zeros((1, 4)), torch.ones((1, 4), dtype=torch.float64)
    mask = rank_mask(logits, weights, [SamplingParams(temperature=1.0, top_p=top_p)])
    assert mask.tolist() == [[index < num_kept for index in range(4)]]


@given(st.integers(1, 2**53 - 1), st.integers(0, 2**53 - 1))
def test_a_uniform_times_an_exact_total_stays_below_it(total: int, bits: int) -> None:
    """Why ``draw`` needs no bound on its target."""
    assert float(bits) * 2.0**-53 * float(total) < total
    assert (1.0 - 2.0**-53) * float(total) < total
