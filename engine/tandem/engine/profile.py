"""Start-up profile: a few timed forward passes that give the latency model its first coefficients.

Runs before the engine takes requests, on the real runner and the real pool, whose blocks it clears afterwards. What the
KV holds does not matter for time, so contexts need not be computed first. Cheap passes come first; a pass that would
overrun the budget is skipped, and what is missing is filled in by the online estimator.

The fit minimises the sum of squared *relative* errors over non-negative coefficients (Lawson and Hanson, *Solving
Least Squares Problems*, ch. 23). With three coefficients every subset of them can be tried, which is exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from tandem.core.clock import Clock, MonotonicClock
from tandem.core.latency import LatencyCoefficients
from tandem.engine.config import EngineConfig
from tandem.engine.execution import Runner
from tandem.engine.runner import RunRow, build_batch

_PREFILL_SHAPES = ((16, 0), (64, 0), (32, 256), (128, 0), (64, 768), (256, 0), (512, 0))  # new, cached
_STEP_SHAPES = ((1, 32), (4, 32), (1, 512), (8, 128), (16, 64), (4, 512), (32, 128))  # rows, context of each
_NUM_REPEATS = 3  # the first is dropped: caches, allocators and compilers warm up in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One shape's time and its features in the latency formula."""

    features: tuple[float, float, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """What was measured and what came of it."""

    coefficients: LatencyCoefficients
    prefill: tuple[Sample, ...]
    step: tuple[Sample, ...]
    seconds: float


class _Pass:
    """Forward passes of chosen shapes over the pool's first blocks."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._runner = runner
        self._clock = clock

    def fits(self, num_rows: int, num_tokens: int) -> bool:
        """Whether ``num_rows`` sequences of ``num_tokens`` fit the pool and the model's context."""
        pool, spec = self._runner.pool, self._runner.spec
        return num_tokens <= spec.max_context_tokens and num_rows * self._blocks(num_tokens) <= pool.num_blocks

    def seconds(self, num_rows: int, num_new: int, num_cached: int) -> float:
        """Time one pass in which each row computes ``num_new`` tokens after ``num_cached``."""
        num_blocks = self._blocks(num_cached + num_new)
        rows = [
            RunRow(
                token_ids=[(7 * i) % self._runner.spec.vocab_size for i in range(num_new)],
                start_position=num_cached,
                block_ids=range(row * num_blocks, (row + 1) * num_blocks),
                num_logits=1,
            )
            for row in range(num_rows)
        ]
        device = self._runner.pool.data.device
        began_s = self._clock.now_s()
        with torch.inference_mode():
            batch = build_batch(rows, block_size=self._runner.pool.block_size, device=str(device))
            self._runner.forward(batch).amax(1).tolist()  # waits for the device, like sampling does
        return self._clock.now_s() - began_s

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._runner.pool.block_size)


def profile_latency(runner: Runner, config: EngineConfig, *, clock: Clock | None = None) -> LatencyProfile:
    """Measure within ``config.profile_budget_s`` and fit. The pool must not be in use; it is cleared afterwards.

    The smallest shapes are always measured, whatever the budget; with a budget of 0 nothing is, and the defaults hold.
    """
    clock = clock or MonotonicClock()
    began_s = clock.now_s()
    if config.profile_budget_s == 0.0:
        return LatencyProfile(coefficients=LatencyCoefficients(), prefill=(), step=(), seconds=0.0)
    passes = _Pass(runner, clock)
    prefill_shapes = [
        (new, cached)
        for new, cached in _PREFILL_SHAPES
        if new <= config.max_batched_tokens and passes.fits(1, new + cached)
    ]
    step_shapes = [
        (rows, context) for rows, context in _STEP_SHAPES if rows <= config.max_sequences and passes.fits(rows, context)
    ]
    half_s = config.profile_budget_s / 2

    def prefill_s(new: int, cached: int) -> float:
        return passes.seconds(1, new, cached)

    def step_s(rows: int, context: int) -> float:
        return passes.seconds(rows, 1, context - 1)

    prefill = _measure(prefill_shapes, prefill_s, _prefill_features, clock, began_s + half_s)
    step = _measure(step_shapes, step_s, _step_features, clock, began_s + 2 * half_s)
    runner.pool.data.zero_()
    coefficients = LatencyCoefficients(
        prefill=fit_non_negative(prefill, LatencyCoefficients().prefill),
        step=fit_non_negative(step, LatencyCoefficients().step),
    )
    return LatencyProfile(
        coefficients=coefficients, prefill=tuple(prefill), step=tuple(step), seconds=clock.now_s() - began_s
    )


def _prefill_features(new: int, cached: int) -> tuple[float, float, float]:
    return (1.0, float(new), new * (cached + new / 2))


def _step_features(rows: int, context: int) -> tuple[float, float, float]:
    return (1.0, float(rows), float(rows * context))


def _measure(
    shapes: Sequence[tuple[int, int]],
    run_s: Callable[[int, int], float],
    features: Callable[[int, int], tuple[float, float, float]],
    clock: Clock,
    until_s: float,
) -> list[Sample]:
    samples: list[Sample] = []
    for shape in shapes:
        expected_s = _expected_s(samples, features(*shape))
        if len(samples) >= 2 and clock.now_s() + expected_s * _NUM_REPEATS > until_s:
            continue
        times = [run_s(*shape) for _ in range(_NUM_REPEATS)]
        samples.append(Sample(features=features(*shape), seconds=min(times[1:])))  # noise only ever adds
    return samples


def _expected_s(samples: Sequence[Sample], features: tuple[float, float, float]) -> float:
    """Return what a shape will take, from those before it."""
    if len(samples) < 2:
        return 0.0
    weights = fit_non_negative(samples, (0.0, 0.0, 0.0))
    return float(np.dot(weights, features))


def fit_non_negative(samples: Sequence[Sample], default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return non-negative weights w that minimise Σ (1 - features·w / seconds)²; ``default`` without samples."""
    usable = [sample for sample in samples if sample.seconds > 0.0]
    if not usable:
        return default
    rows: npt.NDArray[np.float64] = np.array([sample.features for sample in usable])
    rows /= np.array([[sample.seconds] for sample in usable])
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    target = np.ones(len(usable))
    best, best_error = np.zeros(3), np.inf
    # Fewer samples than weights leave freedom: small subsets come first and win ties, so nothing is made up.
    for size in range(1, min(3, len(usable)) + 1):
        for columns in map(list, combinations(range(3), size)):
            weights, *_ = np.linalg.lstsq(rows[:, columns] / scale[columns], target, rcond=None)
            error = float(np.sum((rows[:, columns] / scale[columns] @ weights - target) ** 2))
            if (weights >= 0.0).all() and error < best_error - 1e-12:
                best, best_error = np.zeros(3), error
                best[columns] = weights / scale[columns]
    return (float(best[0]), float(best[1]), float(best[2]))
