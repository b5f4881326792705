"""Where requests fare worse than predicted, predictions are raised to what was measured. Pure.

Only upwards, at most threefold, and only when a miss is more than chance: the model is right until shown wrong.
"""

import math
from collections.abc import Mapping

from tandem.controller.observation import ClassTraffic
from tandem.controller.policy.slo import SloClass
from tandem.controller.sizing.prediction import Prediction, Promise
from tandem.core.types import PriorityClass

_FEWEST_ENDED = 20
_MOST = 3.0

Corrections = dict[tuple[PriorityClass, str], float]


def corrections_of(
    predicted: Prediction, traffic: Mapping[PriorityClass, ClassTraffic], promised: Mapping[PriorityClass, SloClass]
) -> Corrections:
    """Return factors by (class, objective) that make the present split look as bad as it was measured to be."""
    found: Corrections = {}
    for promise in predicted.promises:
        seen = traffic[promise.priority]
        gap = shortfall(seen.kept.get(promise.objective), promise.percentile / 100.0, seen.num_ended)
        if gap > 0.0:
            _raise(found, promise, gap)
    for priority, promises in promised.items():
        own = [promise for promise in predicted.promises if promise.priority is priority]
        seen_by_class = traffic.get(priority)
        if not own or seen_by_class is None or any((priority, promise.objective) in found for promise in own):
            continue
        gap = shortfall(seen_by_class.attainment, promises.attainment, seen_by_class.num_ended)
        if gap > 0.0:  # each promise is kept, but not all by the same requests: the tightest one is to blame
            _raise(found, max(own, key=lambda promise: promise.stress), gap)
    return found


def shortfall(kept: float | None, wanted: float, num_ended: int) -> float:
    """Return by how much a share is missed; 0 when that may be chance or little is known."""
    if kept is None or not math.isfinite(kept) or num_ended < _FEWEST_ENDED:
        return 0.0
    noise = 2.0 * math.sqrt(wanted * (1.0 - wanted) / num_ended)
    return wanted - kept if wanted - kept > noise else 0.0


def _raise(found: Corrections, promise: Promise, gap: float) -> None:
    if 0.0 < promise.stress <= 1.0:
        found[promise.priority, promise.objective] = min((1.0 + gap) / promise.stress, _MOST)
