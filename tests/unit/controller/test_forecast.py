"""Forecasts: what each can follow, and what none may do."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.controller.forecast.choice import AnyForecast, expected_rate, make_forecast
from tandem.controller.forecast.holt_winters import HoltWintersForecast
from tandem.controller.forecast.kalman import KalmanForecast
from tandem.controller.policy.base import Seconds
from tandem.controller.policy.predictor import HoltWintersSection, PredictorKind, PredictorSection

KINDS = list(PredictorKind)


def made(kind: PredictorKind, season_s: float = 0.0) -> AnyForecast:
    season = HoltWintersSection().model_copy(update={"season_length_s": Seconds(season_s)})
    section = PredictorSection().model_copy(update={"kind": kind, "holt_winters": season})
    return make_forecast(section, interval_s=5.0)


def fed(forecast: AnyForecast, values: list[float], *, step_s: float = 5.0, unix_s: float = 0.0) -> AnyForecast:
    for index, value in enumerate(values):
        forecast = forecast.observe(value, index * step_s, unix_s + index * step_s)
    return forecast


@pytest.mark.parametrize("kind", KINDS)
def test_a_steady_rate_is_forecast_as_it_is(kind: PredictorKind) -> None:
    assert fed(made(kind), [7.0] * 50).ahead(60.0) == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@given(values=st.lists(st.floats(0.0, 1e4), max_size=30), horizon_s=st.floats(0.0, 1e4))
def test_a_forecast_is_a_rate(kind: PredictorKind, values: list[float], horizon_s: float) -> None:
    found = fed(made(kind), values).ahead(horizon_s)
    assert math.isfinite(found)
    assert found >= 0.0


@pytest.mark.parametrize("kind", [PredictorKind.HOLT_WINTERS, PredictorKind.KALMAN])
def test_a_ramp_is_seen_coming(kind: PredictorKind) -> None:
    draw = random.Random(1)
    ramp = [10.0 + 0.05 * 5 * i + draw.gauss(0.0, 0.3) for i in range(120)]
    found = fed(made(kind), ramp)
    assert found.ahead(120.0) == pytest.approx(10.0 + 0.05 * (119 * 5 + 120), rel=0.15)
    assert fed(made(PredictorKind.CONSTANT), ramp).ahead(120.0) < found.ahead(120.0) - 3.0


def test_a_season_is_remembered_and_its_place_is_the_clock() -> None:
    season_s = 600.0
    wave = [20.0 + 10.0 * math.sin(2 * math.pi * i * 5.0 / season_s) for i in range(120 * 30)]
    forecast = fed(made(PredictorKind.HOLT_WINTERS, season_s), wave, unix_s=600.0 * 1000)
    end_s = 5.0 * (len(wave) - 1)
    for horizon_s in (75.0, 150.0, 300.0, 450.0):
        truth = 20.0 + 10.0 * math.sin(2 * math.pi * (end_s + horizon_s) / season_s)
        assert forecast.ahead(horizon_s) == pytest.approx(truth, abs=4.0)


def test_noise_does_not_become_a_trend() -> None:
    draw = random.Random(3)
    noise = [max(draw.gauss(20.0, 3.0), 0.0) for _ in range(200)]
    for kind in KINDS:
        assert fed(made(kind), noise).ahead(60.0) == pytest.approx(20.0, abs=6.0)


@pytest.mark.parametrize("kind", [PredictorKind.HOLT_WINTERS, PredictorKind.KALMAN])
def test_a_time_seen_twice_changes_nothing(kind: PredictorKind) -> None:
    forecast = fed(made(kind), [3.0, 4.0])
    assert forecast.observe(9.0, 5.0, 5.0) == forecast


def test_it_is_ready_for_the_larger_of_now_and_then() -> None:
    falling = replace(KalmanForecast(level_noise=0.1, trend_noise=0.1), level=10.0, trend_per_s=-0.1, seen_s=0.0)
    rising = replace(falling, trend_per_s=0.1)
    assert expected_rate(falling, 60.0) == pytest.approx(10.0)
    assert expected_rate(rising, 60.0) == pytest.approx(16.0)


def test_a_long_season_is_kept_in_few_parts() -> None:
    day = made(PredictorKind.HOLT_WINTERS, 86400.0).observe(1.0, 0.0, 0.0)
    assert isinstance(day, HoltWintersForecast)
    assert len(day.season) == 288


def test_nothing_seen_is_nothing_expected() -> None:
    assert [made(kind).ahead(60.0) for kind in KINDS] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["Constant", "HoltWinters", "Kalman"])
def test_a_level_that_has_moved_is_believed_at_once(kind: str) -> None:
    forecast = make_forecast(PredictorSection.model_validate({"kind": kind}), 1.0)
    for second in range(60):
        forecast = forecast.observe(2.0, float(second), float(second))
    assert forecast.observe(6.0, 60.0, 60.0).ahead(0.0) < 5.0
    moved = forecast.moved_to(6.0, 60.0, 60.0)
    assert moved.ahead(0.0) == pytest.approx(6.0)
    assert moved.ahead(30.0) == pytest.approx(6.0), "no trend is known of it"
