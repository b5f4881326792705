"""Level, trend and season (additive, after Holt and Winters).

The season is what a part of it is above a slow mean, so that a quick level does not swallow it; level and trend follow
what the season leaves. Its place comes from the wall clock, in at most 288 parts, so that a new controller meets the
same season.
"""

import math
from dataclasses import dataclass, replace

_MOST_PARTS = 288  # five minutes of a day
_MEAN_SEASONS = 4  # over fewer the mean would swing with the season


@dataclass(frozen=True, slots=True, kw_only=True)
class HoltWintersForecast:
    """Smoothing per ``interval_s`` (the season: per visit); uneven intervals count by their length."""

    level_weight: float
    trend_weight: float
    season_weight: float
    season_length_s: float  # 0 = no season
    interval_s: float
    level: float = 0.0
    trend_per_s: float = 0.0
    mean: float = 0.0  # over some seasons
    season: tuple[float, ...] = ()
    seen_s: float | None = None
    unix_s: float = 0.0

    def observe(self, value: float, monotonic_s: float, unix_s: float) -> "HoltWintersForecast":
        """Return the forecast after one more value."""
        season = self.season or (0.0,) * self._num_parts()
        if self.seen_s is None:
            return replace(self, level=value, mean=value, season=season, seen_s=monotonic_s, unix_s=unix_s)
        elapsed_s = monotonic_s - self.seen_s
        if elapsed_s <= 0.0:
            return self
        part = self._part(unix_s)
        steps = elapsed_s / self.interval_s
        expected = self.level + self.trend_per_s * elapsed_s
        level = expected + _weight(self.level_weight, steps) * (value - season[part] - expected)
        slope = (level - self.level) / elapsed_s
        trend = self.trend_per_s + _weight(self.trend_weight, steps) * (slope - self.trend_per_s)
        mean = self.mean
        if self.season_length_s > 0.0:
            mean += (1.0 - math.exp(-elapsed_s / (_MEAN_SEASONS * self.season_length_s))) * (value - mean)
            visits = elapsed_s * self._num_parts() / self.season_length_s
            moved = season[part] + _weight(self.season_weight, visits) * (value - mean - season[part])
            season = (*season[:part], moved, *season[part + 1 :])
        return replace(
            self, level=level, trend_per_s=trend, mean=mean, season=season, seen_s=monotonic_s, unix_s=unix_s
        )

    def moved_to(self, value: float, monotonic_s: float, unix_s: float) -> "HoltWintersForecast":
        """Return the forecast after the level has changed to ``value``: no trend is known of it; the season stays."""
        if self.seen_s is None:
            return self.observe(value, monotonic_s, unix_s)
        level = value - self.season[self._part(unix_s)]
        return replace(self, level=level, trend_per_s=0.0, seen_s=monotonic_s, unix_s=unix_s)

    def ahead(self, horizon_s: float) -> float:
        """Return the expected value ``horizon_s`` from the last one."""
        if self.seen_s is None:
            return 0.0
        return max(self.level + self.trend_per_s * horizon_s + self.season[self._part(self.unix_s + horizon_s)], 0.0)

    def _num_parts(self) -> int:
        if self.season_length_s <= 0.0:
            return 1
        return max(min(_MOST_PARTS, math.floor(self.season_length_s / self.interval_s)), 1)

    def _part(self, unix_s: float) -> int:
        if self.season_length_s <= 0.0:
            return 0
        parts = self._num_parts()
        return min(int(unix_s % self.season_length_s / self.season_length_s * parts), parts - 1)


def _weight(weight: float, steps: float) -> float:
    """Return the weight of ``steps`` intervals together."""
    return float(1.0 - (1.0 - weight) ** steps)
