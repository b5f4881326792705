"""Tomorrow is like now: an average that forgets with a time constant, at uneven intervals, too."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantForecast:
    """Exponentially weighted mean over ``window_s``."""

    window_s: float
    level: float = 0.0
    seen_s: float | None = None

    def observe(self, value: float, monotonic_s: float, unix_s: float) -> "ConstantForecast":
        """Return the forecast after one more value; ``unix_s`` does not matter here."""
        if self.seen_s is None:
            return replace(self, level=value, seen_s=monotonic_s)
        weight = 1.0 - math.exp(-max(monotonic_s - self.seen_s, 0.0) / self.window_s)
        return replace(self, level=self.level + weight * (value - self.level), seen_s=monotonic_s)

    def moved_to(self, value: float, monotonic_s: float, unix_s: float) -> "ConstantForecast":
        """Return the forecast after the level has changed to ``value``: the mean of before is forgotten."""
        return replace(self, level=value, seen_s=monotonic_s)

    def ahead(self, horizon_s: float) -> float:
        """Return the expected value ``horizon_s`` from the last one."""
        return max(self.level, 0.0)
