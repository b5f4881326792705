"""Which forecast of the request rate is used, and its settings."""

from enum import StrEnum

import pydantic

from tandem.controller.policy.base import Duration, PolicyModel, Seconds


class PredictorKind(StrEnum):
    """Forecasts."""

    CONSTANT = "Constant"
    HOLT_WINTERS = "HoltWinters"
    KALMAN = "Kalman"


class HoltWintersSection(PolicyModel):
    """Level, trend and season, each smoothed exponentially (additive)."""

    level: float = pydantic.Field(default=0.2, gt=0, le=1)
    """Weight of the newest value in the level."""
    trend: float = pydantic.Field(default=0.02, ge=0, le=1)
    """Weight of the newest change in the trend."""
    season: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Weight of the newest deviation in its place of the season."""
    season_length_s: Duration = Seconds(0)
    """Length of a season, such as 24h; 0s = none."""


class KalmanSection(PolicyModel):
    """Local linear trend."""

    level_noise: float = pydantic.Field(default=0.01, gt=0)
    """How fast the level wanders: variance per second, relative to the measured variance."""
    trend_noise: float = pydantic.Field(default=1e-6, gt=0)
    """The same for the trend."""


class PredictorSection(PolicyModel):
    """What the next minutes will bring."""

    kind: PredictorKind = PredictorKind.CONSTANT
    """`Constant`: a moving average; `HoltWinters`; `Kalman`."""
    horizon_s: Duration = pydantic.Field(default=Seconds(60), gt=0, le=86400)
    """How far ahead to look: about what a move takes."""
    window_s: Duration = pydantic.Field(default=Seconds(30), gt=0, le=86400)
    """Constant: over how long the rate is averaged."""
    holt_winters: HoltWintersSection = HoltWintersSection()
    """Settings of HoltWinters."""
    kalman: KalmanSection = KalmanSection()
    """Settings of Kalman."""
