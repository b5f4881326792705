"""Benchmark of overload, in its quick form: that it runs, counts, and that admission holds where nothing would else.

On a busy machine its figures say little; the bounds here are far from the targets, and far above what a router without
admission reaches (a few hundredths of its best goodput).
"""

from benchmarks.overload import QUICK, measure, passes


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
    assert not passes({**good, "goodput_10x": 0.89})
    assert not passes({**good, "refusal_p99_ms": 51.0})
    assert not passes({**good, "tag_mismatches": 1})
