"""From routers' reports to the traffic of each class. Pure.

Shares are over the requests that came and ended within ``_KEPT_S``; what was shed, failed or came too late missed every
promise, what its caller gave up counts for nothing. Requests that came before the last disturbance (a move, a backlog)
was over tell of it, and not of the split that serves now: the sizing, which is corrected by these shares, knows of a
backlog by itself.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tandem.controller.live.change import since_change_s
from tandem.controller.live.lengths import Lengths
from tandem.controller.observation import ClassTraffic, RequestShape
from tandem.controller.policy.slo import SloClass
from tandem.core.traffic import EndedRequest, OpenRequest, TrafficReport
from tandem.core.types import Outcome, PriorityClass

WINDOW_S = 60.0
_RATE_S = 10.0
_KEPT_S = 30.0
_MOST_SHAPES = 64
_FEWEST_SHAPES = 16
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
    ages = [report.arrivals.get(priority, ()) for report in reports]
    since_s = _since_change_s(ages, _known_s(reports))
    windows = [min(report.window_s, rate_s, since_s) for report in reports]
    counts = [sum(1 for age in own if age <= window_s) for own, window_s in zip(ages, windows, strict=True)]
    rates = [(count, window_s) for count, window_s in zip(counts, windows, strict=True) if window_s > 0.0]
    scv = _scv(age for own in ages for age in own if age <= since_s)
    ended = sorted(
        (request for report in reports for request in report.ended if request.priority is priority),
        key=lambda request: -request.age_s,
    )
    under_way = [request for report in reports for request in report.open if request.priority is priority]
    expected = _expected(ended, under_way)
    targets = _targets(promise)
    judged = [r for r in ended if _came_s(r) <= kept_s and r.outcome is not Outcome.CANCELLED]
    latest = [_keeps(r, targets) for r in ended if r.age_s <= _KEPT_S and r.outcome is not Outcome.CANCELLED]
    overdue = sum(_is_overdue(request, promise) for request in under_way)
    return ClassTraffic(
        arrivals_per_s=sum(count / window_s for count, window_s in rates),
        is_new_rate=since_s < rate_s,
        rate_error_per_s=math.sqrt(sum(scv * count / window_s**2 for count, window_s in rates)),
        shapes=_latest_shapes(ended, expected, num_recent=sum(counts)),
        arrival_scv=scv,
        num_ended=len(judged),
        kept={name: _share(judged, [(name, target_s)]) for name, target_s in targets} if judged else {},
        attainment=_share(judged, targets) if judged and targets else None,
        missed_now=1.0 - sum(latest) / (len(latest) + overdue) if latest or overdue else 0.0,
        num_latest=len(latest) + overdue,
        num_open=len(under_way),
        left_tokens=sum(total - request.output_tokens for request, total in expected),
    )


def _known_s(reports: Sequence[TrafficReport]) -> float:
    """Return for how long every router that knows anything knows its arrivals."""
    return min((report.window_s for report in reports if report.window_s > 0.0), default=0.0)


def _since_change_s(ages: Sequence[Sequence[float]], known_s: float) -> float:
    """Return for how long the requests of all routers together have come as they come now; infinite = no change.

    The gaps on either side of a change differ, so that all of them together always look like bursts: what tells how
    bursty they are is each half of the time by itself.
    """
    every = [age for own in ages for age in own if age <= known_s]
    halves = ([a for a in every if a <= known_s / 2], [a for a in every if a > known_s / 2])
    since_s = since_change_s(every, known_s, scv=min(map(_scv, halves)))
    return since_s if since_s < known_s else math.inf


def _expected(ended: Sequence[EndedRequest], under_way: Sequence[OpenRequest]) -> list[tuple[OpenRequest, float]]:
    """Return what each request under way is expected to have written at its end."""
    totals = [r.output_tokens for r in ended if r.outcome is Outcome.OK and r.output_tokens]
    lengths = Lengths(totals, [request.output_tokens for request in under_way])
    return [
        (request, min(max(lengths.total(request.output_tokens), 1.0), float(request.max_output_tokens)))
        for request in under_way
    ]


def _latest_shapes(
    ended: Sequence[EndedRequest], expected: Sequence[tuple[OpenRequest, float]], *, num_recent: int
) -> tuple[RequestShape, ...]:
    """Return the sizes of the requests that came last: of those that the rate counts, if they are enough.

    Rate and sizes must speak of the same requests: the rate of new ones times the size of old ones is a load that
    nobody brings.
    """
    shapes = [
        (_came_s(r), r.new_tokens, r.cached_tokens, r.output_tokens)
        for r in ended
        if r.outcome is Outcome.OK and r.output_tokens
    ]
    shapes += [(r.age_s, r.new_tokens, r.cached_tokens, math.ceil(total)) for r, total in expected]
    shapes.sort(key=lambda shape: -shape[0])
    count = min(max(num_recent, _FEWEST_SHAPES), _MOST_SHAPES)
    return tuple(
        RequestShape(new_tokens=new, cached_tokens=cached, output_tokens=output)
        for _, new, cached, output in shapes[-count:]
    )


def _came_s(request: EndedRequest) -> float:
    """How long ago a request came that is over."""
    return request.age_s + (request.e2e_s or 0.0)


def _is_overdue(request: OpenRequest, promise: SloClass | None) -> bool:
    """Whether a request that is not over has missed its first token's time already."""
    if promise is None or promise.ttft is None or request.output_tokens:
        return False
    return request.age_s > promise.ttft.target_s


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
