"""One model for a role out of the fits of several workers."""

import pytest

from tandem.controller.live.fits import middle
from tandem.controller.observation import ClassTraffic, RequestShape
from tandem.core.latency import LatencyCoefficients
from tandem.core.types import PriorityClass

RIGHT = LatencyCoefficients(prefill=(0.1, 2.5e-3, 0.0), step=(0.1, 0.012, 0.0))
# The same at the sizes that these two saw, and put into other coefficients.
BY_CONTEXT = LatencyCoefficients(prefill=(0.1, 0.0, 8.3e-6), step=(0.1, 0.0, 1.5e-4))
BY_BASE = LatencyCoefficients(prefill=(1.6, 0.0, 0.0), step=(0.316, 0.0, 0.0))
TRAFFIC = {
    PriorityClass.STANDARD: ClassTraffic(
        arrivals_per_s=2.0, shapes=(RequestShape(new_tokens=600, cached_tokens=0, output_tokens=16),) * 9
    )
}


def test_the_model_is_one_workers_whole_fit_and_no_mixture() -> None:
    fits = [BY_CONTEXT, RIGHT, BY_BASE, RIGHT, BY_CONTEXT]
    model = middle(fits, TRAFFIC)
    assert model.coefficients.prefill in {fit.prefill for fit in fits}
    assert model.coefficients.step == RIGHT.step
    assert model.prefill_s(num_new_tokens=600) == pytest.approx(1.6, rel=0.05)


def test_two_that_are_wrong_do_not_outvote_three_that_are_right() -> None:
    slow = LatencyCoefficients(prefill=(0.1, 0.1, 0.0), step=(0.1, 0.4, 0.0))
    for fits in ([slow, RIGHT, RIGHT, slow, RIGHT], [RIGHT, slow, RIGHT, RIGHT, slow]):
        assert middle(fits, TRAFFIC).coefficients == RIGHT


def test_one_alone_is_believed_also_before_anybody_asks_for_anything() -> None:
    assert middle([BY_CONTEXT], {}).coefficients == BY_CONTEXT
