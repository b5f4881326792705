"""Benchmark of overload, in its quick form: that it runs, counts, and that admission holds where nothing would else.

On a busy machine its figures say little; the bounds here are far from the targets, and far above what a router without
admission reaches (a few hundredths of its best goodput).
"""

from typing import Any

from benchmarks.overload import QUICK, measure
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
    assert phases[1]["reasons"]["SLO_UNREACHABLE"] > 10


def _run(result: dict[str, float]) -> dict[str, Any]:
    whole = {**result, "capacity_per_s": 5.0, "num_refusals": 100}
    return {"result": whole, "details": {"phases": []}, "machine": {}}


def test_what_passes() -> None:
    good = {
        "goodput_2x": 0.95,
        "goodput_4x": 1.0,
        "goodput_10x": 0.9,
        "refusal_p99_ms": 20.0,
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
