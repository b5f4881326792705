"""Windows of a trace, and whether one routing is best or equal on them. Pure.

A window is a run of consecutive requests; windows are disjoint, so their results are independent but for the trace's
own habits. Two routings are compared window by window: what makes one window harder than another then cancels out.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cache_world import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One routing against the best of the others; errors are standard errors of the mean over the windows."""

    best_other: str
    mean_difference: float
    difference_error: float
    mean_ratio: float
    ratio_error: float

    @property
    def is_best_or_equal(self) -> bool:
        """Not above the best other by more than chance: the standard error of the paired difference."""
        return self.mean_difference <= self.difference_error


def windows(trace: Trace, num_windows: int) -> list[Trace]:
    """Cut a trace into so many runs of consecutive requests of equal number, to within one."""
    num_all = len(trace.requests)
    edges = [num_all * index // num_windows for index in range(num_windows + 1)]
    return [
        Trace(f"{trace.name}[{low}:{high}]", trace.block_tokens, trace.requests[low:high])
        for low, high in itertools.pairwise(edges)
    ]


def judge(figures: Mapping[str, Sequence[float]], ours: str) -> Verdict:
    """Compare ``figures[ours]``, one per window and lower is better, with the routing that has the lowest mean."""
    others = {name: values for name, values in figures.items() if name != ours}
    best = min(others, key=lambda name: statistics.fmean(others[name]))
    pairs = list(zip(figures[ours], others[best], strict=True))
    differences = [own - other for own, other in pairs]
    ratios = [own / other for own, other in pairs]
    return Verdict(
        best_other=best,
        mean_difference=statistics.fmean(differences),
        difference_error=_error_of_mean(differences),
        mean_ratio=statistics.fmean(ratios),
        ratio_error=_error_of_mean(ratios),
    )


def _error_of_mean(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))
