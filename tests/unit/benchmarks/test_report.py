"""What benchmarks print and save."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.report import finish, machine_facts, parse

METHOD = "How it was done."


def _options(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> argparse.Namespace:
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    return parse(METHOD, "quick")


def test_the_last_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    finish(_options(monkeypatch), {"cases": 3}, method=METHOD, details={"groups": [1]})
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {"cases": 3}
    assert len(lines) > 1


def test_json_prints_nothing_else(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = _options(monkeypatch, "--json", "--quick")
    assert options.quick
    finish(options, {"cases": 3}, method=METHOD, details={"groups": [1]})
    assert capsys.readouterr().out == '{"cases": 3}\n'


def test_a_saved_result_says_how_and_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "results" / "x.json"
    finish(_options(monkeypatch, "--json", "--output", str(target)), {"a": 1}, method=METHOD, details={"b": 2})
    saved = json.loads(target.read_text(encoding="utf-8"))
    assert saved["result"] == {"a": 1}
    assert saved["details"] == {"b": 2}
    assert saved["method"] == METHOD
    assert saved["machine"].keys() == machine_facts().keys()


def test_machine_facts_name_processor_and_versions() -> None:
    facts = machine_facts()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["packages"]["torch"]
