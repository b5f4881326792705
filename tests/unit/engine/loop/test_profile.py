"""The start-up profile: finds the coefficients of a machine that follows the formula, keeps to its budget."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.engine.batch import ForwardBatch
from tandem.engine.config import EngineConfig
from tandem.engine.kv.pool import KvPool
from tandem.engine.profile import Sample, fit_non_negative, profile_latency
from tests.fakes.engine_driver import SettableClock
from tests.fakes.fake_runner import FAKE_SPEC, fake_pool

TRUE = LatencyCoefficients(prefill=(4e-3, 2e-4, 3e-8), step=(9e-3, 1e-3, 4e-7))


class TimedRunner:
    """Takes exactly the time the formula says; the first pass of every shape is five times slower."""

    def __init__(self, clock: SettableClock, pool: KvPool, slowness: float = 1.0) -> None:
        self.spec = FAKE_SPEC
        self.pool = pool
        self._clock = clock
        self._slowness = slowness
        self._model = LatencyModel(coefficients=TRUE)
        self._seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        shape = (batch.query_lens_list, batch.context_lens_list)
        if max(batch.query_lens_list) > 1:
            new = batch.query_lens_list[0]
            seconds = self._model.prefill_s(num_new_tokens=new, num_cached_tokens=batch.context_lens_list[0] - new)
        else:
            seconds = self._model.step_s(
                num_sequences=batch.num_sequences, num_context_tokens=sum(batch.context_lens_list)
            )
        self._clock.time_s += seconds * self._slowness * (1 if shape in self._seen else 5)
        self._seen.add(shape)
        self.pool.data[batch.slots // self.pool.block_size] = 1.0
        return torch.zeros(len(batch.logit_rows), self.spec.vocab_size)


def test_finds_the_coefficients_and_clears_the_pool() -> None:
    clock = SettableClock()
    runner = TimedRunner(clock, fake_pool(1200))
    profile = profile_latency(runner, EngineConfig(profile_budget_s=60.0), clock=clock)
    assert profile.coefficients.prefill == pytest.approx(TRUE.prefill, rel=1e-6)
    assert profile.coefficients.step == pytest.approx(TRUE.step, rel=1e-6)
    assert len(profile.prefill) == len(profile.step) == 7
    assert not runner.pool.data.any()


@pytest.mark.parametrize("budget_s", [0.5, 1.0, 2.0])
def test_keeps_to_the_budget(budget_s: float) -> None:
    clock = SettableClock()
    profile = profile_latency(TimedRunner(clock, fake_pool(1200)), EngineConfig(profile_budget_s=budget_s), clock=clock)
    assert profile.seconds <= budget_s * 1.35  # the first pass of a shape is slower than could be known
    assert len(profile.prefill) >= 2
    assert len(profile.step) >= 2


def test_a_slow_machine_still_measures_the_smallest_shapes() -> None:
    clock = SettableClock()
    runner = TimedRunner(clock, fake_pool(1200), slowness=100.0)
    profile = profile_latency(runner, EngineConfig(profile_budget_s=0.1), clock=clock)
    assert (len(profile.prefill), len(profile.step)) == (2, 2)
    model = LatencyModel(coefficients=profile.coefficients)
    assert model.step_s(num_sequences=1, num_context_tokens=32) == pytest.approx(1.0, rel=0.1)


def test_a_small_pool_limits_the_shapes() -> None:
    clock = SettableClock()
    runner = TimedRunner(clock, fake_pool(32))
    profile = profile_latency(runner, EngineConfig(profile_budget_s=60.0), clock=clock)
    assert max(sample.features[1] for sample in profile.prefill) == 128
    assert all(sample.features[2] <= 128 for sample in profile.step)


def test_budget_zero_measures_nothing() -> None:
    runner = TimedRunner(SettableClock(), fake_pool(8))
    profile = profile_latency(runner, EngineConfig(profile_budget_s=0.0))
    assert profile.coefficients == LatencyCoefficients()


SHAPES = st.lists(st.tuples(st.integers(1, 512), st.integers(0, 2000), st.floats(1e-4, 10.0)), min_size=1, max_size=8)


@given(shapes=SHAPES)
def test_fit_is_never_negative_and_never_worse_than_any_single_term(shapes: list[tuple[int, int, float]]) -> None:
    samples = [Sample(features=(1.0, float(a), float(a * b)), seconds=s) for a, b, s in shapes]
    weights = fit_non_negative(samples, (9.0, 9.0, 9.0))
    assert min(weights) >= 0.0

    def error(w: tuple[float, ...]) -> float:
        return sum((1 - float(np.dot(w, s.features)) / s.seconds) ** 2 for s in samples)

    for column in range(3):
        single = [0.0, 0.0, 0.0]
        ratios = np.array([s.features[column] / s.seconds for s in samples])
        if ratios.any():
            single[column] = float(ratios.sum() / (ratios @ ratios))
            assert error(weights) <= error(tuple(single)) + 1e-6


def test_fit_without_samples_keeps_the_default() -> None:
    assert fit_non_negative([], (1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)
