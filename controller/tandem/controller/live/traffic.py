"""From routers' reports to the traffic of each class. Pure.

Shares are over the requests that came and ended within ``_KEPT_S``; what was shed, failed or came too late missed every
promise, what its caller gave up counts for nothing. Requests that came before the last disturbance (a move, a backlog)
was over tell of it, and not of the split that serves now: the sizing, which is corrected by these shares, knows of a
backlog by itself.
"""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tandem.controller.observation import ClassTraffic, RequestShape
from tandem.controller.policy.slo import SloClass
from tandem.core.traffic import EndedRequest, TrafficReport
from tandem.core.types import Outcome, PriorityClass

WINDOW_S = 60.0
_RATE_S = 10.0
_KEPT_S = 30.0
_MOST_SHAPES = 64
_FEWEST_GAPS = 20
_SCV_BOUNDS = (0.25, 8.0)

_VALUES: Mapping[str, Callable[[EndedRequest], float | None]] = {
    "ttft": lambda request: request.ttft_s,
    "itl": lambda request: request.gap_p95_s,
    "tpot": lambda request: request.tpot_s,
    "e2e": lambda request: request.e2e_s,
}


def class_traffic(
    reports: Sequence[TrafficReport],
    promises: Mapping[PriorityClass, SloClass],
    *,
    interval_s: float,
    calm_s: float = _KEPT_S,
) -> dict[PriorityClass, ClassTraffic]:
    """Return the traffic of every class; one without any asks for nothing. It has been calm for ``calm_s``."""
    return {
        priority: _of(priority, reports, promises.get(priority), interval_s, min(calm_s, _KEPT_S))
        for priority in PriorityClass
    }


def _of(
    priority: PriorityClass,
    reports: Sequence[TrafficReport],
    promise: SloClass | None,
    interval_s: float,
    kept_s: float,
) -> ClassTraffic:
    rate_s = max(_RATE_S, 2 * interval_s)
    windows = [min(report.window_s, rate_s) for report in reports]
    ages = [report.arrivals.get(priority, ()) for report in reports]
    rate = sum(
        sum(1 for age in own if age <= window_s) / window_s
        for own, window_s in zip(ages, windows, strict=True)
        if window_s > 0.0
    )
    ended = sorted(
        (request for report in reports for request in report.ended if request.priority is priority),
        key=lambda request: -request.age_s,
    )
    shapes = tuple(
        RequestShape(
            new_tokens=request.new_tokens, cached_tokens=request.cached_tokens, output_tokens=request.output_tokens
        )
        for request in ended
        if request.outcome is Outcome.OK and request.output_tokens
    )
    judged = [r for r in ended if r.age_s + (r.e2e_s or 0.0) <= kept_s and r.outcome is not Outcome.CANCELLED]
    targets = _targets(promise)
    return ClassTraffic(
        arrivals_per_s=rate,
        shapes=shapes[-_MOST_SHAPES:],
        arrival_scv=_scv(age for own in ages for age in own),
        num_ended=len(judged),
        kept={name: _share(judged, [(name, target_s)]) for name, target_s in targets} if judged else {},
        attainment=_share(judged, targets) if judged and targets else None,
    )


def _targets(promise: SloClass | None) -> list[tuple[str, float]]:
    if promise is None:
        return []
    objectives = {"ttft": promise.ttft, "itl": promise.itl, "tpot": promise.tpot, "e2e": promise.e2e}
    return [(name, objective.target_s) for name, objective in objectives.items() if objective is not None]


def _share(requests: Sequence[EndedRequest], targets: Sequence[tuple[str, float]]) -> float:
    return sum(_keeps(request, targets) for request in requests) / len(requests)


def _keeps(request: EndedRequest, targets: Sequence[tuple[str, float]]) -> bool:
    if request.outcome is not Outcome.OK:
        return False
    values = ((_VALUES[name](request), target_s) for name, target_s in targets)
    return all(value is None or value <= target_s for value, target_s in values)


def _scv(ages: Iterable[float]) -> float:
    """Squared coefficient of variation of the gaps between arrivals; 1 where little is known."""
    times = sorted(ages)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    if len(gaps) < _FEWEST_GAPS:
        return 1.0
    mean = statistics.fmean(gaps)
    if mean <= 0.0:
        return 1.0
    low, high = _SCV_BOUNDS
    return min(max(statistics.pvariance(gaps) / mean**2, low), high)
