"""Benchmark of overload, in its quick form: that it runs, counts, and that admission holds where nothing would else.

On a busy machine its figures say little; the bounds here are far from the targets, and far above what a router without
admission reaches (a few hundredths of its best goodput).
"""

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.overload import QUICK, measure
from benchmarks.overload_callers import Attempt, Caller, Slo
from benchmarks.overload_phases import recovered_after_s
from benchmarks.overload_runs import merged, passes


async def test_four_times_the_load_is_shed_and_not_suffered() -> None:
    measured = await measure(QUICK, seed=3)
    result, phases = measured["result"], measured["details"]["phases"]
    assert [phase["phase"] for phase in phases] == ["saturated", "4x", "victim and flood"]
    assert result["tag_mismatches"] == 0
    assert result["capacity_per_s"] > 1.0
    assert result["goodput_4x"] > 0.4
    assert result["victim_share"] > 0.4
    assert result["wasted_prefill"] < 0.5
    assert result["num_refusals"] > 20
    assert result["refusals_without_wait"] == 0
    assert phases[1]["reasons"]["SLO_UNREACHABLE"] > 10


def _run(result: Mapping[str, float | None]) -> dict[str, Any]:
    whole = {**result, "capacity_per_s": 5.0, "best_per_s": 5.5, "num_refusals": 100}
    return {"result": whole, "details": {"phases": []}, "machine": {}}


def test_what_passes() -> None:
    good = {
        "goodput_2x": 0.95,
        "goodput_4x": 1.0,
        "goodput_10x": 0.9,
        "refusal_p99_ms": 20.0,
        "refusals_without_wait": 0,
        "wasted_prefill": 0.01,
        "recovery_s": 5.0,
        "victim_share": 0.99,
        "jain": 0.99,
        "tag_mismatches": 0,
    }
    assert passes(good)
    assert passes(merged([_run(good), _run(good)])["result"])
    worst = merged([_run(good), _run({**good, "jain": 0.94}), _run({**good, "refusal_p99_ms": 51.0})])["result"]
    assert (worst["jain"], worst["refusal_p99_ms"], worst["num_runs"]) == (0.94, 51.0, 3)
    assert not passes(worst)
    assert not passes({**good, "goodput_10x": 0.89})
    assert not passes({**good, "refusal_p99_ms": 51.0})
    assert not passes({**good, "tag_mismatches": 1})
    assert not passes({**good, "refusals_without_wait": 1})
    for name in good:
        assert not passes({**good, name: None}), "there was none to show"
        assert not passes({other: value for other, value in good.items() if other != name})
    assert merged([_run(good), _run({**good, "recovery_s": None})])["result"]["recovery_s"] is None


def _came(at_s: float, *, good: bool) -> Caller:
    answer = Attempt(began_s=at_s, first_token_s=at_s + 1.0, last_token_s=at_s + 2.0, num_tokens=20, is_whole=good)
    return Caller(tenant="a", arrived_s=at_s, num_prompt_tokens=100, is_rude=False, most_attempts=1, attempts=[answer])


def test_who_does_not_recover_has_no_time_of_recovery() -> None:
    def recovered(bad_until_s: float) -> float | None:
        callers = [_came(tenth / 10, good=tenth / 10 >= bad_until_s) for tenth in range(240)]
        return recovered_after_s(callers, since_s=0.0, until_s=24.0, slo=Slo())

    assert recovered(0.0) == 0.0
    assert recovered(4.0) == pytest.approx(8.5, abs=0.6)
    assert recovered(16.0) is None, "too late to be seen to last"
    assert recovered(99.0) is None
    assert recovered_after_s([], since_s=0.0, until_s=24.0, slo=Slo()) is None
