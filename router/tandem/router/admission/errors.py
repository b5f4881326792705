"""How far predictions of the time to first token are off, lately. Zero I/O.

Samples are requests that got their first token, and requests that were shed because they had waited too long: they have
waited at least so long. One refused at the door has no time, and to count it as one would let refusals feed on
themselves. For the same reason samples age: when nothing is admitted any more, what was wrong once
must not keep everybody out.
"""

import bisect
from collections import deque


class RollingError:
    """The 95th percentile of (actual - predicted) over the last samples, at least 0 and at most ``most_s``."""

    def __init__(
        self, *, window: int = 128, max_age_s: float = 30.0, most_s: float = 2.0, min_samples: int = 8
    ) -> None:
        self._window = window
        self._max_age_s = max_age_s
        self._most_s = most_s
        self._min_samples = min_samples
        self._samples: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._samples)

    def observe(self, *, predicted_s: float, actual_s: float, now_s: float) -> None:
        """Take one sample."""
        error_s = actual_s - predicted_s
        self._samples.append((now_s, error_s))
        bisect.insort(self._sorted, error_s)
        self._expire(now_s)

    def bound(self, most_s: float) -> None:
        """Never answer more than that."""
        self._most_s = most_s

    def p95_s(self, now_s: float) -> float:
        """What to add to a prediction so that 19 of 20 are not exceeded."""
        self._expire(now_s)
        if len(self._sorted) < self._min_samples:
            return 0.0
        index = min(len(self._sorted) - 1, round(0.95 * (len(self._sorted) - 1)))
        return min(max(self._sorted[index], 0.0), self._most_s)

    def _expire(self, now_s: float) -> None:
        while self._samples and (len(self._samples) > self._window or now_s - self._samples[0][0] > self._max_age_s):
            _, error_s = self._samples.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, error_s)]
