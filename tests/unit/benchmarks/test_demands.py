"""A benchmark ends well only if its figures are those that were asked for: bounds that can fail, named figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import campaign, cancel_fuzz, faults, kv_race, recovery, sim_faults
from benchmarks.demands import Demand, at_least, at_most, exactly, exit_unless_met, none_of, unmet
from benchmarks.fault_matrix.lanes import MatrixResult

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"

RACE = {
    "victims": 400,
    "stale_refused": 400,
    "wrong_tokens": 0,
    "hangs": 0,
    "leaks": 0,
    "caught_without_guard": 30,
    "caught_without_receiver_guard": 30,
    "refused_by_that_look_alone": 30,
}
RECOVERY = {
    "streams": 50,
    "completed": 50,
    "mismatches": 0,
    "gap_p50_ms": 250.0,
    "gap_p99_ms": 700.0,
    "detect_max_s": 5.5,
    "stall_aborts": 0,
    "rounds": 11,
    "total_streams": 550,
    "total_completed": 550,
    "moved_streams": 190,
    "rounds_without_a_move": 0,
    "faults_verified": True,
    "leaks": 0,
    "trace_violations": 0,
    "tag_mismatches": 0,
}
FUZZ = {
    "requests": 5000,
    "cancelled": 3000,
    "cancelled_holding_blocks": 1600,
    "wrong_tokens": 0,
    "hangs": 0,
    "errors": 0,
    "leaks": 0,
    "trace_violations": 0,
    "worker_deaths": 0,
    "free_p99_s": 0.2,
}
MATRIX = {
    "cells": 174,
    "passed": 174,
    "faults_verified": 174,
    "ray_cells": 14,
    "controls": 11,
    "controls_passed": 11,
    "wrong_tokens": 0,
    "hangs": 0,
    "leaks": 0,
    "violations": 0,
}
CAMPAIGN = {
    "faulted_requests": 100_400,
    "faulted_in_storm": 50_000,
    "wrong_tokens": 0,
    "hangs": 0,
    "leaks": 0,
    "findings": 0,
}


def test_bounds_are_included_and_what_is_missing_is_in_none() -> None:
    demands = [*exactly(a=2), *at_least(b=1), *at_most(c=1.0), *none_of("d")]
    assert unmet({"a": 2, "b": 1, "c": 1.0, "d": 0}, demands) == []
    assert unmet({"a": 3, "b": 0, "c": 1.1, "d": 1}, demands) == [
        "a is 3, must be at most 2",
        "b is 0, must be at least 1",
        "c is 1.1, must be at most 1.0",
        "d is 1, must be at most 0",
    ]
    assert unmet({"a": None, "b": 1, "c": 0}, demands) == ["a was not measured", "d was not measured"]


def test_problems_are_told_and_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    exit_unless_met([])
    with pytest.raises(SystemExit) as ended:
        exit_unless_met(["x is 1, must be at most 0"])
    assert ended.value.code == 1
    assert "x is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("good", "demands", "changes"),
    [
        (
            RACE,
            kv_race.demands(quick=False),
            {
                "victims": 199,
                "stale_refused": 0,
                "wrong_tokens": 1,
                "hangs": 1,
                "leaks": 1,
                "caught_without_guard": 0,
                "caught_without_receiver_guard": 0,
                "refused_by_that_look_alone": 0,
            },
        ),
        (
            RECOVERY,
            recovery.demands(quick=False, repeat=1),
            {
                "streams": 49,
                "completed": 49,
                "mismatches": 1,
                "gap_p50_ms": None,
                "gap_p99_ms": None,
                "detect_max_s": 6.1,
                "stall_aborts": 1,
                "rounds": 10,
                "total_streams": 549,
                "total_completed": 549,
                "moved_streams": 99,
                "rounds_without_a_move": 1,
                "faults_verified": False,
                "leaks": 1,
                "trace_violations": 1,
                "tag_mismatches": 1,
            },
        ),
        (
            FUZZ,
            cancel_fuzz.demands(5000),
            {
                "requests": 4999,
                "cancelled": 2000,
                "cancelled_holding_blocks": 100,
                "wrong_tokens": 1,
                "hangs": 1,
                "errors": 1,
                "leaks": 1,
                "trace_violations": 1,
                "worker_deaths": 1,
                "free_p99_s": 1.01,
            },
        ),
        (
            MATRIX,
            [*faults.demands(MATRIX, num_cells=160, num_ray_cells=14), *faults.whole_demands()],
            {
                "cells": 173,
                "passed": 173,
                "faults_verified": 173,
                "ray_cells": 11,
                "controls": 0,
                "controls_passed": 10,
                "wrong_tokens": 1,
                "hangs": 1,
                "leaks": 1,
                "violations": 1,
            },
        ),
        (
            CAMPAIGN,
            campaign.demands(100_000),
            {
                "faulted_requests": 99_999,
                "faulted_in_storm": 49_999,
                "wrong_tokens": 1,
                "hangs": 1,
                "leaks": 1,
                "findings": 1,
            },
        ),
    ],
    ids=["kv_race", "recovery", "cancel_fuzz", "faults", "campaign"],
)
def test_every_figure_can_fail_its_program(
    good: dict[str, Any], demands: Sequence[Demand], changes: dict[str, Any]
) -> None:
    assert unmet(good, demands) == []
    assert changes.keys() == good.keys()
    for name, bad in changes.items():
        assert unmet({**good, name: bad}, demands), name


def committed(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["result"]
    return result


def test_committed_results_are_as_demanded() -> None:
    matrix = committed("faults")
    num_ray = matrix["ray_cells"]
    demands = {
        "kv_race": kv_race.demands(quick=False),
        "recovery": recovery.demands(quick=False, repeat=1),
        "cancel_fuzz": cancel_fuzz.demands(5000),
        "faults": [
            *faults.demands(matrix, num_cells=matrix["cells"] - num_ray, num_ray_cells=num_ray),
            *faults.whole_demands(),
        ],
        "campaign": campaign.demands(100_000),
        "sim_faults": sim_faults.demands(2000, is_whole=True),
    }
    assert {name: unmet(committed(name), demands[name]) for name in demands} == {name: [] for name in demands}


def test_an_instant_detection_was_none() -> None:
    assert unmet({**RECOVERY, "detect_max_s": 0.0}, recovery.demands(quick=False, repeat=1))


def test_invariants_that_nothing_was_judged_by_are_named() -> None:
    found = MatrixResult()
    found.num_checks.update({f"I{number}": 3 for number in range(1, 9) if number != 4})
    assert found.unjudged == ["I4"]
    other = MatrixResult()
    other.num_checks["I4"] = 1
    found.add(other)
    assert found.unjudged == []


def test_cells_that_do_not_exist_are_an_error_that_names_the_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["faults", "--only", "99"])
    with pytest.raises(SystemExit) as ended:
        faults.main()
    assert ended.value.code == 2
    assert "Rows are 1-29, 36-39, 44-45" in capsys.readouterr().err
