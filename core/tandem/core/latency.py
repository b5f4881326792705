"""The one latency model: predicted time of a prefill, of a decode step, of a transfer. Zero I/O.

The same object serves placement, admission, the controller and the simulator.

Formulas, times in seconds, ``new`` = prompt tokens to compute, ``cached`` = tokens before them whose KV exists::

    t_prefill(new, cached) = a0 + a1·new + a2·new·(cached + new/2)     linear layers + causal attention
    t_step(batch, context) = b0 + b1·batch + b2·context                weights read once, per-row work, KV read
    t_transfer(bytes)      = c0 + c1·bytes
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def _prefill_features(num_new_tokens: int, num_cached_tokens: int) -> Vector:
    return np.array([1.0, num_new_tokens, num_new_tokens * (num_cached_tokens + num_new_tokens / 2)])


def _step_features(num_sequences: int, num_context_tokens: int) -> Vector:
    return np.array([1.0, num_sequences, num_context_tokens])


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCoefficients:
    """Fitted numbers of one worker kind; all non-negative, seconds per unit."""

    prefill: tuple[float, float, float] = (2e-3, 1e-4, 1e-8)
    step: tuple[float, float, float] = (5e-3, 2e-4, 1e-7)
    transfer: tuple[float, float] = (1e-3, 5e-10)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Predictions from fitted coefficients. All results in seconds."""

    coefficients: LatencyCoefficients = field(default_factory=LatencyCoefficients)

    def prefill_s(self, *, num_new_tokens: int, num_cached_tokens: int = 0) -> float:
        """Time to compute ``num_new_tokens`` prompt tokens after ``num_cached_tokens`` cached ones."""
        # Plain floats: placement asks for each worker and request, and numpy costs 20 times as much on three numbers.
        base, per_token, per_pair = self.coefficients.prefill
        pairs = num_new_tokens * (num_cached_tokens + num_new_tokens / 2)
        return base + per_token * num_new_tokens + per_pair * pairs

    def step_s(self, *, num_sequences: int, num_context_tokens: int) -> float:
        """Time of one decode step over ``num_sequences`` with ``num_context_tokens`` of KV in sum."""
        base, per_sequence, per_token = self.coefficients.step
        return base + per_sequence * num_sequences + per_token * num_context_tokens

    def transfer_s(self, *, num_bytes: int) -> float:
        """Time to move ``num_bytes`` of KV between two workers."""
        base, per_byte = self.coefficients.transfer
        return base + per_byte * num_bytes


class _AnchoredLeastSquares:
    """Least squares with forgetting, held to where it began; no weight is below zero.

    Of features scaled to about one, with ``f`` = 0.99 and w0 the start, it minimises

        Σ f^age·((y - w·x) / max(|x|, 1))² + anchor·|w - w0|²,    w >= 0

    (ridge regression toward a prior mean, Hoerl and Kennard 1970; what takes long varies by more). What the samples
    tell outweighs the anchor by their number; what they can't tell stays as it was measured at the start: batches that
    are all alike do not say what a sequence costs and what its context does. Without the anchor, forgetting would let
    noise fill those directions without bound.
    """

    _FORGETTING = 0.99

    def __init__(self, weights: Sequence[float], scale: Sequence[float], anchor: float) -> None:
        self._scale = np.array(scale)
        self._start: Vector = np.array(weights) * self._scale
        self._anchor = anchor * np.eye(len(self._start))
        self._seen = np.zeros_like(self._anchor)  # Σ f^age·x·xᵀ
        self._news = np.zeros_like(self._start)  # Σ f^age·x·(y - w0·x)
        self._weights = self._start

    def observe(self, features: Vector, value: float) -> None:
        size = max(float(np.linalg.norm(features / self._scale)), 1.0)
        x, value = features / self._scale / size, value / size
        self._seen = self._FORGETTING * self._seen + np.outer(x, x)
        self._news = self._FORGETTING * self._news + x * (value - x @ self._start)
        self._solve()

    def fade(self, share: float) -> None:
        """Move by ``share`` of the way towards the start; what was seen of the features stays."""
        self._news = (1.0 - share) * self._news
        self._solve()

    def weights(self) -> tuple[float, ...]:
        return tuple(float(w) for w in self._weights / self._scale)

    def _solve(self) -> None:
        """Solve for all weights; those that come out below zero are set to it, and the others solved for again."""
        matrix, start = self._seen + self._anchor, self._start
        free = np.full(len(start), True)
        change = np.zeros_like(start)
        for _ in range(len(start)):
            held = self._news - matrix[:, ~free] @ -start[~free]
            change = np.where(free, 0.0, -start)
            change[free] = np.linalg.solve(matrix[np.ix_(free, free)], held[free])
            below = free & (start + change < 0.0)
            if not below.any():
                break
            free &= ~below
        self._weights = np.maximum(start + change, 0.0)


class LatencyEstimator:
    """Fits a LatencyModel to observations. The first ``num_cold`` of each kind are dropped: cold starts are not news.

    An observation further than ``outlier_factor`` times from the prediction is clipped to that bound, so that one
    descheduled step can't swing the model.
    """

    def __init__(
        self,
        initial: LatencyCoefficients | None = None,
        *,
        num_cold: int = 2,
        outlier_factor: float = 8.0,
        anchor: float = 1.0,
    ) -> None:
        start = initial or LatencyCoefficients()
        self._prefill = _AnchoredLeastSquares(start.prefill, (1.0, 256.0, 256.0 * 512.0), anchor)
        self._step = _AnchoredLeastSquares(start.step, (1.0, 8.0, 4096.0), anchor)
        self._transfer = _AnchoredLeastSquares(start.transfer, (1.0, 16e6), anchor)
        self._num_left_cold = {"prefill": num_cold, "step": num_cold, "transfer": num_cold}
        self._outlier_factor = outlier_factor

    def model(self) -> LatencyModel:
        """Return the present fit as a frozen model."""
        p, s, t = self._prefill.weights(), self._step.weights(), self._transfer.weights()
        return LatencyModel(
            coefficients=LatencyCoefficients(prefill=(p[0], p[1], p[2]), step=(s[0], s[1], s[2]), transfer=(t[0], t[1]))
        )

    def fade(self, share: float) -> None:
        """Forget ``share`` (0 to 1) of what was learnt since the start.

        For a worker that gets no work: nothing it could show would mend an estimate that made others look better.
        """
        self._prefill.fade(share)
        self._step.fade(share)
        self._transfer.fade(share)

    def observe_prefill(self, *, num_new_tokens: int, num_cached_tokens: int, seconds: float) -> None:
        """Learn from one prefill of a whole prompt or chunk."""
        if self._is_no_news("prefill", seconds):
            return
        predicted = self.model().prefill_s(num_new_tokens=num_new_tokens, num_cached_tokens=num_cached_tokens)
        features = _prefill_features(num_new_tokens, num_cached_tokens)
        self._prefill.observe(features, self._clip(seconds, predicted))

    def observe_step(self, *, num_sequences: int, num_context_tokens: int, seconds: float) -> None:
        """Learn from one pure decode step."""
        if self._is_no_news("step", seconds):
            return
        predicted = self.model().step_s(num_sequences=num_sequences, num_context_tokens=num_context_tokens)
        self._step.observe(_step_features(num_sequences, num_context_tokens), self._clip(seconds, predicted))

    def observe_transfer(self, *, num_bytes: int, seconds: float) -> None:
        """Learn from one hand-over."""
        if self._is_no_news("transfer", seconds):
            return
        predicted = self.model().transfer_s(num_bytes=num_bytes)
        self._transfer.observe(np.array([1.0, num_bytes]), self._clip(seconds, predicted))

    def _is_no_news(self, kind: str, seconds: float) -> bool:
        if not math.isfinite(seconds):
            return True  # times come from other processes too, and one NaN would stay in the weights for ever
        if self._num_left_cold[kind] == 0:
            return False
        self._num_left_cold[kind] -= 1
        return True

    def _clip(self, seconds: float, predicted: float) -> float:
        if predicted <= 0.0:
            return seconds
        return min(max(seconds, predicted / self._outlier_factor), predicted * self._outlier_factor)
