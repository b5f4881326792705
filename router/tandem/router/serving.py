"""Whether this router splits requests at present, and why not: what status and metrics say of the placements. Zero I/O.

Each placement is decided by itself; this only tells what they come to. Splitting collapses when nearly all of the last
placements were computed where they decode, and is back when fewer than half of them are: so the word does not flicker.
"""

from collections import Counter, deque

from tandem.core.cluster import ServingMode, ServingStatus
from tandem.router.placement import PlacementCause

_WINDOW = 64
_NEARLY_ALL = 0.9
_FEW = 0.5


class ServingWatch:
    """The last placements of one router."""

    def __init__(self) -> None:
        self.mode = ServingMode.SPLIT
        self.num_placed: Counter[PlacementCause] = Counter()
        self._last: deque[PlacementCause] = deque(maxlen=_WINDOW)
        self._since_s: float | None = None  # of the first placement

    def note(self, cause: PlacementCause, now_s: float) -> ServingMode | None:
        """A request was placed for that cause. Return the mode if this changed it."""
        self.num_placed[cause] += 1
        self._since_s = now_s if self._since_s is None else self._since_s
        self._last.append(cause)
        mode = self._judge()
        if mode is self.mode:
            return None
        self.mode, self._since_s = mode, now_s
        return mode

    def status(self, now_s: float) -> ServingStatus:
        """What to tell."""
        return ServingStatus(
            mode=self.mode,
            cause=self.cause,
            since_s=0.0 if self._since_s is None else now_s - self._since_s,
            num_placed={cause.value: count for cause, count in sorted(self.num_placed.items())},
        )

    @property
    def cause(self) -> str:
        """The most frequent cause of the last placements; empty before the first."""
        return Counter(self._last).most_common(1)[0][0].value if self._last else ""

    def _judge(self) -> ServingMode:
        share_local = sum(not cause.is_split for cause in self._last) / len(self._last)
        if share_local >= _NEARLY_ALL:
            return ServingMode.AGGREGATED
        if share_local <= 1.0 - _NEARLY_ALL:
            return ServingMode.SPLIT
        if self.mode is ServingMode.AGGREGATED and share_local >= _FEW:
            return ServingMode.AGGREGATED
        return ServingMode.MIXED
