"""The models in docs/spec: a few searches, and a strict reading of the verifier's report."""

import re

import pytest

from benchmarks.spec import FOLDER, Checked, check, summarise
from benchmarks.spec_runs import LONG_RUNS, RUNS, Kind, Run
from benchmarks.spin import Search, Verdict, missing_tools, read_report, search

needs_spin = pytest.mark.skipif(bool(missing_tools()), reason=f"not installed: {missing_tools()}")
QUICK = [run for run in RUNS if run.quick]

_COMPLETE = """
(Spin Version 6.5.2 -- 6 December 2019)
State-vector 196 byte, depth reached 168, errors: 0
   357841 states, stored
"""


@needs_spin
@pytest.mark.parametrize("run", QUICK, ids=lambda run: run.name)
def test_a_quick_run_comes_out_as_it_must(run: Run) -> None:
    checked = check(run, timeout_s=60)
    assert checked.ok, str(checked)


@needs_spin
def test_a_model_that_does_not_parse_is_no_verdict() -> None:
    assert search(FOLDER / "README.md", (), reduce=True, timeout_s=5).verdict is Verdict.BROKEN


@needs_spin
def test_a_search_that_is_not_over_is_no_proof() -> None:
    assert search(FOLDER / "kv.pml", ("NR=2", "NA=2"), reduce=False, timeout_s=0.5).verdict is Verdict.CUT_OFF


def test_a_complete_search_is_clean() -> None:
    found = read_report(_COMPLETE, seconds=1.0)
    assert (found.verdict, found.num_states, found.depth) == (Verdict.CLEAN, 357841, 168)


@pytest.mark.parametrize(
    "sign",
    [
        "error: max search depth too small",
        "pan: reached -DMEMLIM bound",
        "Warning: Search not completed",
        "pan: out of memory",
    ],
)
def test_a_search_that_was_cut_off_is_not_clean(sign: str) -> None:
    assert read_report(f"{sign}\n{_COMPLETE}", seconds=1.0).verdict is Verdict.CUT_OFF


def test_a_violation_names_its_assertion_even_though_the_search_stopped_there() -> None:
    report = "pan:1: assertion violated (src_pins==0) (at depth 53)\nWarning: Search not completed\n" + _COMPLETE
    found = read_report(report.replace("errors: 0", "errors: 1"), seconds=1.0)
    assert (found.verdict, found.what, found.depth) == (Verdict.VIOLATION, "assertion violated (src_pins==0)", 53)


def test_an_error_that_is_not_understood_is_no_counterexample() -> None:
    assert read_report(_COMPLETE.replace("errors: 0", "errors: 2"), seconds=1.0).verdict is Verdict.BROKEN
    assert read_report("Segmentation fault", seconds=1.0).verdict is Verdict.BROKEN


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("kind", list(Kind))
def test_only_the_right_verdict_counts(kind: Kind, verdict: Verdict) -> None:
    run = Run(kind=kind, model="kv", name="", flags=())
    one = Checked(run=run, search=Search(verdict=verdict))
    wanted = Verdict.CLEAN if kind in (Kind.BASE, Kind.REDUNDANT) else Verdict.VIOLATION
    assert one.ok is (verdict is wanted)
    assert summarise([one], seconds=0.0)["unexpected"] == (verdict is not wanted)


def test_every_flag_is_known_to_its_model_and_every_guard_of_a_model_is_removed_in_some_run() -> None:
    for model in {run.model for run in RUNS}:
        text = (FOLDER / f"{model}.pml").read_text(encoding="utf-8")
        known = set(re.findall(r"^\s*#(?:ifdef|ifndef) (\w+)", text, re.MULTILINE))
        used = {flag.split("=")[0] for run in (*RUNS, *LONG_RUNS) if run.model == model for flag in run.flags}
        assert used <= known
        assert {flag for flag in known if flag.startswith("NO_")} <= used
