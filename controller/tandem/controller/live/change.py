"""Since when a stream of arrivals has had the rate it has now: the last change that is no chance. Pure.

Arrivals of a Poisson stream whose rate is the same throughout fall into any part of the time in proportion to its
length. Of all moments that may divide the known time into an older and a newer part, the one is taken that explains
the counts best with two rates; where that is better than one rate by more than chance, the older part tells nothing
of the rate now, and the newer part is looked at again by itself: there may have been two changes. Streams that are
more bursty than Poisson's (``scv`` above 1) must show so much more.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Final

# Twice the gain in log-likelihood is about chi-square with one degree of freedom: 12 is one chance in 1900 for one
# moment, and one in some hundred for the best of all that are tried.
EVIDENCE: Final = 6.0
_SHORTEST_S = 3.0
_STEP_S = 1.0


def since_change_s(ages: Sequence[float], known_s: float, *, scv: float = 1.0, evidence: float = EVIDENCE) -> float:
    """Return for how long the rate has been what it is now; ``known_s`` where no change stands out.

    ``ages``: how long ago each request of the last ``known_s`` seconds came, in any order.
    """
    times = sorted(age for age in ages if age <= known_s)
    since_s = math.inf
    while known_s < since_s:
        since_s, known_s = known_s, _last_change_s(times, known_s, evidence * max(scv, 1.0))
        del times[bisect.bisect_right(times, known_s) :]
    return known_s


def _last_change_s(times: Sequence[float], known_s: float, evidence: float) -> float:
    """Return the age of the one change that explains ``times`` (rising) best; ``known_s`` if chance does as well."""
    best_s, best = known_s, evidence
    newer_s = _SHORTEST_S
    while newer_s <= known_s - _SHORTEST_S:
        num_newer = bisect.bisect_right(times, newer_s)
        gain = _gain(num_newer, newer_s, len(times) - num_newer, known_s - newer_s)
        if gain > best:
            best_s, best = newer_s, gain
        newer_s += _STEP_S
    return best_s


def _gain(num_newer: int, newer_s: float, num_older: int, older_s: float) -> float:
    """Return by how much two rates explain the counts better than one, as a logarithm of the likelihood."""
    rate = (num_newer + num_older) / (newer_s + older_s)
    parts = ((num_newer, newer_s), (num_older, older_s))
    return sum(count * math.log(count / (rate * seconds)) for count, seconds in parts if count)
