"""The latency model's formulas, and the estimator's fit to known coefficients."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.latency import LatencyCoefficients, LatencyEstimator, LatencyModel

TRUTH = LatencyCoefficients(prefill=(4e-3, 2e-3, 4e-7), step=(3e-2, 6e-3, 2e-6), transfer=(2e-3, 4e-10))


def test_formulas_by_hand() -> None:
    model = LatencyModel(coefficients=LatencyCoefficients(prefill=(1, 2, 3), step=(5, 7, 11), transfer=(13, 17)))
    assert model.prefill_s(num_new_tokens=4, num_cached_tokens=10) == pytest.approx(1 + 2 * 4 + 3 * 4 * (10 + 2))
    assert model.step_s(num_sequences=2, num_context_tokens=100) == pytest.approx(5 + 14 + 1100)
    assert model.transfer_s(num_bytes=3) == pytest.approx(13 + 51)


@given(st.integers(1, 4096), st.integers(0, 4096), st.integers(1, 512))
def test_prefill_grows_with_work(new: int, cached: int, more: int) -> None:
    model = LatencyModel(coefficients=TRUTH)
    base = model.prefill_s(num_new_tokens=new, num_cached_tokens=cached)
    assert model.prefill_s(num_new_tokens=new + more, num_cached_tokens=cached) > base
    assert model.prefill_s(num_new_tokens=new, num_cached_tokens=cached + more) > base


def test_splitting_a_prefill_into_chunks_keeps_the_attention_term() -> None:
    """Chunks of one prompt add up to the whole, up to the constant per pass: the a2 term telescopes."""
    model = LatencyModel(coefficients=LatencyCoefficients(prefill=(0.0, 2e-3, 4e-7)))
    chunks = sum(model.prefill_s(num_new_tokens=100, num_cached_tokens=100 * i) for i in range(5))
    assert chunks == pytest.approx(model.prefill_s(num_new_tokens=500))


def _observe_everything(estimator: LatencyEstimator, noise: float, seed: int) -> None:
    truth, draw = LatencyModel(coefficients=TRUTH), random.Random(seed)
    for _ in range(30):
        for new, cached in itertools.product((16, 64, 256, 512), (0, 256)):
            seconds = truth.prefill_s(num_new_tokens=new, num_cached_tokens=cached) * (1 + draw.uniform(-noise, noise))
            estimator.observe_prefill(num_new_tokens=new, num_cached_tokens=cached, seconds=seconds)
        for batch, context in ((1, 64), (4, 512), (8, 4096), (16, 1024)):
            seconds = truth.step_s(num_sequences=batch, num_context_tokens=context) * (1 + draw.uniform(-noise, noise))
            estimator.observe_step(num_sequences=batch, num_context_tokens=context, seconds=seconds)
        for size in (1 << 20, 1 << 24, 1 << 26):
            seconds = truth.transfer_s(num_bytes=size) * (1 + draw.uniform(-noise, noise))
            estimator.observe_transfer(num_bytes=size, seconds=seconds)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_estimator_finds_the_truth(noise: float) -> None:
    estimator = LatencyEstimator(num_cold=0)
    _observe_everything(estimator, noise, seed=1)
    fitted, truth = estimator.model(), LatencyModel(coefficients=TRUTH)
    for new, cached in ((128, 0), (400, 100)):
        expected = truth.prefill_s(num_new_tokens=new, num_cached_tokens=cached)
        assert fitted.prefill_s(num_new_tokens=new, num_cached_tokens=cached) == pytest.approx(expected, rel=0.15)
    for batch, context in ((2, 128), (12, 3000)):
        expected = truth.step_s(num_sequences=batch, num_context_tokens=context)
        assert fitted.step_s(num_sequences=batch, num_context_tokens=context) == pytest.approx(expected, rel=0.15)
    assert fitted.transfer_s(num_bytes=1 << 25) == pytest.approx(truth.transfer_s(num_bytes=1 << 25), rel=0.15)


def test_cold_samples_are_dropped() -> None:
    estimator = LatencyEstimator(TRUTH, num_cold=2)
    before = estimator.model()
    for _ in range(2):
        estimator.observe_step(num_sequences=1, num_context_tokens=10, seconds=100.0)
    assert estimator.model() == before
    estimator.observe_step(num_sequences=1, num_context_tokens=10, seconds=100.0)
    assert estimator.model() != before


def test_one_descheduled_step_does_not_swing_the_model() -> None:
    estimator = LatencyEstimator(num_cold=0)
    _observe_everything(estimator, 0.0, seed=2)
    before = estimator.model().step_s(num_sequences=4, num_context_tokens=512)
    estimator.observe_step(num_sequences=4, num_context_tokens=512, seconds=1000 * before)
    assert estimator.model().step_s(num_sequences=4, num_context_tokens=512) < 2 * before


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_coefficients_never_go_negative(seconds: list[float]) -> None:
    estimator = LatencyEstimator(num_cold=0)
    for index, value in enumerate(seconds):
        estimator.observe_step(num_sequences=1 + index % 7, num_context_tokens=index * 31, seconds=value)
        estimator.observe_prefill(num_new_tokens=1 + index, num_cached_tokens=0, seconds=value)
    coefficients = estimator.model().coefficients
    assert min(*coefficients.step, *coefficients.prefill) >= 0.0


def test_silence_then_change_is_followed() -> None:
    """Many equal samples must not freeze or blow up the gain: a machine that slows down is noticed."""
    estimator = LatencyEstimator(TRUTH, num_cold=0)
    for _ in range(2000):
        estimator.observe_step(num_sequences=1, num_context_tokens=100, seconds=0.04)
    for _ in range(300):
        estimator.observe_step(num_sequences=1, num_context_tokens=100, seconds=0.08)
    assert estimator.model().step_s(num_sequences=1, num_context_tokens=100) == pytest.approx(0.08, rel=0.1)
