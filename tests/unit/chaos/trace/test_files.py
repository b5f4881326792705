"""Logs on disk and the command: cut-off lines, damage, several machines, exit statuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.chaos.trace import check
from tandem.chaos.trace.app import main
from tandem.core.errors import EnvironmentProblem
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import LineEncoder, ProcessLife, file_name
from tandem.core.types import Role
from tests.unit.chaos.trace.story import DECODE, ROUTER, Story, Told, good_story, ref, step


def _write(story: Story, folder: Path) -> None:
    """One file per process, as the processes would."""
    buffers: dict[ProcessLife, bytearray] = {}
    for told in story.told:
        buffer = buffers.setdefault(told.process, bytearray())
        LineEncoder(told.process).append(buffer, told.at_s, told.event)
    for life, buffer in buffers.items():
        (folder / file_name(life)).write_bytes(buffer)


def _file(folder: Path, life: ProcessLife) -> Path:
    return folder / file_name(life)


def test_a_folder_and_its_files_are_the_same(tmp_path: Path) -> None:
    _write(good_story(), tmp_path)
    (tmp_path / "notes.txt").write_text("not a log")
    of_folder, of_files = check([tmp_path]), check(sorted(tmp_path.glob("*.jsonl")))
    assert of_folder == of_files
    assert of_folder.violations == []
    assert of_folder.is_complete
    assert all(of_folder.num_checks.values())


def test_a_violation_names_file_and_line(tmp_path: Path) -> None:
    story = good_story()
    at = story.index(ev.DecodeStep)
    story.told[at] = replace(story.told[at], event=step([ref(0, 9)]))
    _write(story, tmp_path)
    violation = check([tmp_path]).violations[0]
    lines = _file(tmp_path, DECODE).read_bytes().splitlines()
    number = next(number for number, line in enumerate(lines, start=1) if b"[0,9]" in line)
    assert violation.place == f"decode-0-300.jsonl:{number}"
    assert violation.history[0].startswith("decode-0-300.jsonl:3 ")


@pytest.mark.parametrize("num_cut", [1, 2, 30, 60])
def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path, num_cut: int) -> None:
    _write(good_story(), tmp_path)
    path = _file(tmp_path, DECODE)
    path.write_bytes(path.read_bytes()[:-num_cut])
    report = check([tmp_path])
    assert report.violations == []
    assert report.is_complete
    assert report.num_killed == (1 if num_cut > 1 else 0)  # without its last newline alone the line is still whole
    assert [(log.process, log.epoch) for log in report.unfinished] == [("decode-0", 300)][: report.num_killed]
    assert all(log.pid > 0 and log.last_s > 0.0 for log in report.unfinished)


def test_damage_in_the_middle_ends_the_judgement_of_that_file(tmp_path: Path) -> None:
    _write(good_story(), tmp_path)
    path = _file(tmp_path, DECODE)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = b'{"process":"decode-0","epoch":300,"t":1.0,"event":{"kind":"of another version"}}\n'
    path.write_bytes(b"".join(lines))
    report = check([tmp_path])
    assert report.violations == []
    assert len(report.incomplete) == 1
    assert "decode-0-300.jsonl:11 can't be read" in report.incomplete[0]


def test_a_damaged_last_line_that_is_whole_is_damage(tmp_path: Path) -> None:
    _write(good_story(), tmp_path)
    path = _file(tmp_path, DECODE)
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    assert not check([tmp_path]).is_complete


def test_an_empty_file_is_a_process_that_was_killed_at_once(tmp_path: Path) -> None:
    _write(good_story(), tmp_path)
    (tmp_path / "decode-1-9.jsonl").write_bytes(b"")
    report = check([tmp_path])
    assert report.violations == []
    assert report.num_checks["I7"] > 0
    assert [(log.process, log.pid) for log in report.unfinished] == [("decode-1-9", 0)]


def test_processes_of_several_machines_are_not_ordered_by_time(tmp_path: Path) -> None:
    story = good_story()
    story.told.insert(
        story.index(ev.DecodeStep),
        Told(DECODE, story.told[story.index(ev.DecodeStep)].at_s, ev.RoleChanged(role=Role.DECODE, state="draining")),
    )
    _write(story, tmp_path)
    assert {violation.invariant for violation in check([tmp_path]).violations} == {"I7"}
    assert check([tmp_path], check_serving=False).violations == []
    path = _file(tmp_path, ROUTER)
    path.write_bytes(path.read_bytes().replace(b'"host":"h"', b'"host":"i"'))
    report = check([tmp_path])
    assert report.violations == []
    assert report.num_checks["I7"] == 0


def test_another_version_and_no_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no event log"):
        check([tmp_path])
    with pytest.raises(EnvironmentProblem, match="no event log"):
        check([tmp_path / "missing.jsonl"])
    _write(good_story(), tmp_path)
    path = _file(tmp_path, ROUTER)
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(EnvironmentProblem, match="version 2"):
        check([tmp_path])


def test_the_command_on_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(good_story(), tmp_path)
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert all(f"I{number}" in shown for number in range(1, 9))
    assert main(["--json", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["violations"] == []
    assert report["num_checks"]["I1"] > 0


def test_the_command_on_a_bad_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = good_story()
    story.told.pop(story.index(ev.BlocksCommitted))
    _write(story, tmp_path)
    assert main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "reads block 0 generation 1, but it is receiving" in shown
    assert "allocated to request request-a attempt 0 as receiving" in shown
    assert main([str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["violations"][0]["invariant"] == "I1"


def test_the_command_on_incomplete_and_missing_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = good_story()
    at = story.index(ev.BlocksCommitted)
    story.told[at] = replace(story.told[at], event=ev.RecordsLost(count=7))
    _write(story, tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "incomplete: decode-0-300: 7 records are missing" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no event log" in capsys.readouterr().err


def test_the_switch_for_runs_that_kill_the_only_worker(tmp_path: Path) -> None:
    story = good_story()
    story.told.insert(
        story.index(ev.DecodeStep),
        Told(DECODE, story.told[story.index(ev.DecodeStep)].at_s, ev.RoleChanged(role=Role.DECODE, state="draining")),
    )
    _write(story, tmp_path)
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path), "--no-serving"]) == 0
