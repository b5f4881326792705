"""Makes the forecast that a policy asks for."""

from tandem.controller.forecast.constant import ConstantForecast
from tandem.controller.forecast.holt_winters import HoltWintersForecast
from tandem.controller.forecast.kalman import KalmanForecast
from tandem.controller.policy.predictor import PredictorKind, PredictorSection

AnyForecast = ConstantForecast | HoltWintersForecast | KalmanForecast


def make_forecast(predictor: PredictorSection, interval_s: float) -> AnyForecast:
    """Return a forecast that has seen nothing yet."""
    if predictor.kind is PredictorKind.HOLT_WINTERS:
        settings = predictor.holt_winters
        return HoltWintersForecast(
            level_weight=settings.level,
            trend_weight=settings.trend,
            season_weight=settings.season,
            season_length_s=settings.season_length_s,
            interval_s=interval_s,
        )
    if predictor.kind is PredictorKind.KALMAN:
        return KalmanForecast(level_noise=predictor.kalman.level_noise, trend_noise=predictor.kalman.trend_noise)
    return ConstantForecast(window_s=predictor.window_s)


def expected_rate(forecast: AnyForecast, horizon_s: float) -> float:
    """Return the rate to be ready for: the larger of now and then, so that a forecast lull removes nobody early."""
    return max(forecast.ahead(0.0), forecast.ahead(horizon_s))
