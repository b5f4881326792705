"""The latency model where it could be led astray: foreign times, absurd sizes, long silence, one kind of sample."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.latency import LatencyCoefficients, LatencyEstimator, LatencyModel

KINDS = ("prefill", "step", "transfer")
ZERO = LatencyCoefficients(prefill=(0.0, 0.0, 0.0), step=(0.0, 0.0, 0.0), transfer=(0.0, 0.0))


def _observe(estimator: LatencyEstimator, kind: str, size: int, seconds: float) -> None:
    if kind == "prefill":
        estimator.observe_prefill(num_new_tokens=size, num_cached_tokens=size // 2, seconds=seconds)
    elif kind == "step":
        estimator.observe_step(num_sequences=1 + size % 64, num_context_tokens=size, seconds=seconds)
    else:
        estimator.observe_transfer(num_bytes=size, seconds=seconds)


def _predict(model: LatencyModel, kind: str, size: int) -> float:
    if kind == "prefill":
        return model.prefill_s(num_new_tokens=size, num_cached_tokens=size // 2)
    if kind == "step":
        return model.step_s(num_sequences=1 + size % 64, num_context_tokens=size)
    return model.transfer_s(num_bytes=size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("start", [LatencyCoefficients(), ZERO])
def test_a_time_that_is_none_teaches_nothing(kind: str, seconds: float, start: LatencyCoefficients) -> None:
    """Times of other processes come over sockets; one NaN in the weights would never leave them again."""
    estimator = LatencyEstimator(start, num_cold=0)
    _observe(estimator, kind, 100, seconds)
    assert estimator.model().coefficients == start
    _observe(estimator, kind, 100, 0.5)
    assert math.isfinite(_predict(estimator.model(), kind, 100))
    assert estimator.model().coefficients != start


def test_a_time_that_is_none_does_not_use_up_the_cold_ones() -> None:
    start = LatencyCoefficients()
    estimator = LatencyEstimator(start, num_cold=1)
    _observe(estimator, "step", 100, math.nan)
    _observe(estimator, "step", 100, 9.0)  # this is the cold one
    assert estimator.model().coefficients == start


def test_kinds_are_cold_each_for_itself() -> None:
    estimator = LatencyEstimator(num_cold=1)
    for kind in KINDS:
        before = estimator.model().coefficients
        _observe(estimator, kind, 64, 9.0)
        assert estimator.model().coefficients == before
        _observe(estimator, kind, 64, 9.0)
        assert estimator.model().coefficients != before


def test_one_kind_of_sample_does_not_touch_the_other_kinds() -> None:
    start = LatencyCoefficients()
    for kind in KINDS:
        estimator = LatencyEstimator(start, num_cold=0)
        for size in (10, 100, 1000):
            _observe(estimator, kind, size, 0.7)
        fitted = estimator.model().coefficients
        changed = {name for name in KINDS if getattr(fitted, name) != getattr(start, name)}
        assert changed == {kind}


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.sampled_from([0, 1, 2, 500, 10**5, 10**9, 2**40]),
            st.sampled_from([0.0, -1.0, 1e-9, 1e-3, 1.0, 1e4, 1e12, math.nan, math.inf]),
        ),
        max_size=60,
    )
)
def test_nothing_makes_a_prediction_negative_or_infinite(samples: list[tuple[str, int, float]]) -> None:
    estimator = LatencyEstimator(num_cold=0)
    for kind, size, seconds in samples:
        _observe(estimator, kind, size, seconds)
    model = estimator.model()
    for kind in KINDS:
        for size in (0, 1, 4096, 2**30):
            assert 0.0 <= _predict(model, kind, size) < math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_equal_samples_leave_it_able_to_learn(kind: str) -> None:
    """Forgetting lets go of what is not seen any more; the start holds it, for at most a hundredth."""
    estimator = LatencyEstimator(num_cold=0)
    for _ in range(10_000):
        _observe(estimator, kind, 256, 0.02)
    assert _predict(estimator.model(), kind, 256) == pytest.approx(0.02, rel=0.02)
    for size in (64, 512, 1024) * 40:
        _observe(estimator, kind, size, 0.01 + 1e-4 * size)
    assert _predict(estimator.model(), kind, 512) == pytest.approx(0.01 + 1e-4 * 512, rel=0.25)


@pytest.mark.parametrize("rows", [(1, 3), (30, 34)], ids=["few", "many"])
def test_batches_that_are_all_alike_and_noise_do_not_swing_what_is_said_of_others(rows: tuple[int, int]) -> None:
    """Without an anchor, 400 such steps ended in a prediction of days."""
    true = LatencyModel(coefficients=LatencyCoefficients(step=(0.1, 0.012, 0.0)))
    for seed in range(10):
        random = Random(seed)
        estimator = LatencyEstimator(true.coefficients, num_cold=0)
        for _ in range(400):
            count = random.randint(*rows)
            context = count * random.randint(60, 110)
            slow = 1.0 + random.choice((0.0, random.expovariate(1.25)))
            seconds = slow * true.step_s(num_sequences=count, num_context_tokens=context)
            estimator.observe_step(num_sequences=count, num_context_tokens=context, seconds=seconds)
        for count in (2, 33):
            ratio = estimator.model().step_s(num_sequences=count, num_context_tokens=80 * count) / true.step_s(
                num_sequences=count, num_context_tokens=80 * count
            )
            assert 0.8 < ratio < 2.0, (seed, count)


def test_an_outlier_counts_as_far_as_the_bound_and_no_further() -> None:
    results = []
    for seconds in (8.0, 80.0, 8e9):
        estimator = LatencyEstimator(LatencyCoefficients(step=(1.0, 0.0, 0.0)), num_cold=0, outlier_factor=8.0)
        estimator.observe_step(num_sequences=1, num_context_tokens=0, seconds=seconds)
        results.append(estimator.model().coefficients)
    assert results[0] == results[1] == results[2]
    assert results[0].step[0] > 1.0


def test_a_snapshot_is_not_moved_by_what_is_learnt_later() -> None:
    estimator = LatencyEstimator(num_cold=0)
    model = estimator.model()
    before = model.step_s(num_sequences=3, num_context_tokens=300)
    for _ in range(10):
        _observe(estimator, "step", 300, 5.0)
    assert model.step_s(num_sequences=3, num_context_tokens=300) == before


def test_a_model_from_nothing_predicts_nothing() -> None:
    model = LatencyModel(coefficients=ZERO)
    assert [_predict(model, kind, 10_000) for kind in KINDS] == [0.0, 0.0, 0.0]
