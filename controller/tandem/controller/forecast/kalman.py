"""A Kalman filter over level and trend: state ``(x, v)``, ``x' = x + v·dt``, only ``x`` is measured.

Noises are relative to the measured variance, which is taken as that of a Poisson count: proportional to the rate.
"""

from dataclasses import dataclass, replace

_LEAST_VARIANCE = 1e-3
_SURE_S = 300.0  # what the filter knows of a trend at first: it may double a level in about this time


@dataclass(frozen=True, slots=True, kw_only=True)
class KalmanForecast:
    """Local linear trend with covariance ``[[xx, xv], [xv, vv]]``."""

    level_noise: float
    trend_noise: float
    level: float = 0.0
    trend_per_s: float = 0.0
    xx: float = 0.0
    xv: float = 0.0
    vv: float = 0.0
    seen_s: float | None = None

    def observe(self, value: float, monotonic_s: float, unix_s: float) -> "KalmanForecast":
        """Return the forecast after one more value; ``unix_s`` does not matter here."""
        noise = max(abs(self.level), abs(value), _LEAST_VARIANCE)
        if self.seen_s is None:
            return replace(self, level=value, xx=noise, vv=noise / _SURE_S**2, seen_s=monotonic_s)
        dt = monotonic_s - self.seen_s
        if dt <= 0.0:
            return self
        level = self.level + self.trend_per_s * dt
        trend_variance = self.trend_noise * noise
        xx = self.xx + 2 * dt * self.xv + dt * dt * self.vv + self.level_noise * noise * dt + trend_variance * dt**3 / 3
        xv = self.xv + dt * self.vv + trend_variance * dt**2 / 2
        vv = self.vv + trend_variance * dt
        gain_x, gain_v = xx / (xx + noise), xv / (xx + noise)
        surprise = value - level
        return replace(
            self,
            level=level + gain_x * surprise,
            trend_per_s=self.trend_per_s + gain_v * surprise,
            xx=(1 - gain_x) * xx,
            xv=(1 - gain_x) * xv,
            vv=max(vv - gain_v * xv, 0.0),
            seen_s=monotonic_s,
        )

    def moved_to(self, value: float, monotonic_s: float, unix_s: float) -> "KalmanForecast":
        """Return the forecast after the level has changed to ``value``: it is as sure of it as of a first value."""
        fresh = KalmanForecast(level_noise=self.level_noise, trend_noise=self.trend_noise)
        return fresh.observe(value, monotonic_s, unix_s)

    def ahead(self, horizon_s: float) -> float:
        """Return the expected value ``horizon_s`` from the last one."""
        return max(self.level + self.trend_per_s * horizon_s, 0.0)
