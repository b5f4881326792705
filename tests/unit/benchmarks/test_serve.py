"""The serving benchmark's arithmetic: arrivals, percentiles, rates."""

import itertools

import pytest

from benchmarks.serve_load import Load, Sample, make_trace
from benchmarks.serve_stats import percentiles_ms, summarise

LOAD = Load(rate_per_s=5.0, duration_s=100.0)


def _sample(sent_s: float, ttft_s: float, gaps_s: list[float], error: str = "") -> Sample:
    return Sample(
        sent_s=sent_s,
        ttft_s=ttft_s,
        gaps_s=gaps_s,
        ended_s=sent_s + ttft_s + sum(gaps_s),
        num_prompt_tokens=100,
        num_output_tokens=1 + len(gaps_s),
        error=error,
    )


def test_the_same_seed_gives_the_same_trace_and_another_another() -> None:
    assert make_trace(LOAD, seed=1) == make_trace(LOAD, seed=1)
    assert make_trace(LOAD, seed=1) != make_trace(LOAD, seed=2)


def test_arrivals_are_open_loop_at_the_rate_asked_for() -> None:
    requests = make_trace(LOAD, seed=3).requests
    assert 400 < len(requests) < 600
    times = [request.at_s for request in requests]
    assert times == sorted(times)
    assert max(times) < LOAD.duration_s
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # Exponential gaps: the standard deviation equals the mean; a fixed pace would have none.
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.25)


def test_sizes_are_bounded() -> None:
    requests = make_trace(LOAD, seed=4).requests
    assert all(40 <= len(request.prompt) <= 4000 for request in requests)
    assert all(4 <= request.max_tokens <= 96 for request in requests)
    assert len({request.prompt for request in requests}) > 0.9 * len(requests)


def test_percentiles() -> None:
    assert percentiles_ms([]) == {}
    assert percentiles_ms([0.25]) == {"p50": 250.0, "p90": 250.0, "p99": 250.0}
    hundred = [i / 1000 for i in range(101)]
    assert percentiles_ms(hundred) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_tpot_leaves_the_first_token_out() -> None:
    assert _sample(0.0, 3.0, [0.1, 0.3]).tpot_s == pytest.approx(0.2)
    assert _sample(0.0, 3.0, []).tpot_s is None
    assert Sample(sent_s=0.0).tpot_s is None


def test_summary_counts_failures_and_leaves_them_out_of_the_figures() -> None:
    good, bad = _sample(0.0, 1.0, [0.5, 0.5]), _sample(0.0, 9.0, [9.0], error="UNAVAILABLE: gone")
    figures = summarise([good, bad])
    assert (figures["requests"], figures["failures"]) == (2, 1)
    assert figures["errors"] == ["UNAVAILABLE: gone"]
    assert figures["ttft_ms"]["p99"] == 1000.0
    assert figures["output_tokens_per_s"] == 1.5
    assert figures["input_tokens_per_s"] == 50.0


def test_idle_time_between_rounds_does_not_count() -> None:
    overlapping = [_sample(0.0, 1.0, [1.0]), _sample(1.0, 1.0, [1.0])]
    later = [_sample(1000.0, 1.0, [])]
    assert summarise([*overlapping, *later])["requests_per_s"] == pytest.approx(3 / 4, abs=1e-3)


def test_an_arm_without_any_answer_has_no_rates() -> None:
    figures = summarise([_sample(0.0, 1.0, [], error="X")])
    assert figures["requests_per_s"] == 0.0
    assert figures["ttft_ms"] == {}
