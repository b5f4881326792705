"""`tandem doctor`: each check on a machine that has what it takes and on one that has not."""

import json
import os
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from tandem.cluster.cli.app import main
from tandem.cluster.commands import checks
from tandem.cluster.commands.checks import Check, Level
from tandem.cluster.run_state import RunState, RunStates, own_start_s
from tandem.core.environment import Environment


def levels(*found: Check) -> list[Level]:
    return [check.level for check in found]


def test_this_machine_passes(tmp_path: Path) -> None:
    found = checks.all_checks(
        Environment(
            cache_folder=tmp_path / "c",
            run_folder=tmp_path / "r",
            no_color=True,
            hub_offline=True,
            test_failpoints=None,
        )
    )
    assert Level.FAIL not in levels(*found)
    assert len({check.name for check in found}) == len(found) == 12


def test_whatever_is_not_well_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    found = [
        checks.check_packages(),
        checks.check_cores(),
        checks.check_memory(),
        checks.check_shared_memory(tmp_path),
        checks.check_shared_memory(tmp_path / "none"),
        checks.check_cache(tmp_path),
        checks.check_registry(),
        checks.check_ray(),
    ]
    assert levels(*found) == [Level.FAIL] + [Level.WARN] * 7
    assert all(check.remedy for check in found)


def test_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        assert checks.check_port(port, tmp_path).level is Level.WARN
        assert not checks.port_is_free(port)
        facts = {"name": "mine", "pid": os.getpid(), "started_s": own_start_s(), "runtime": "local", "model": "m"}
        addresses = {"public_address": f"127.0.0.1:{port}", "internal_address": "127.0.0.1:2"}
        rest = {"secured": False, "internal_secured": False, "log_folder": "/logs"}
        RunStates(tmp_path).write(RunState.model_validate(facts | addresses | rest))
        assert checks.check_port(port, tmp_path) == Check(
            name="port", level=Level.OK, detail=f"{port} serves your cluster 'mine'"
        )
    assert checks.port_is_free(port)


def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_gpu(tmp_path / "none").detail == "none found: models run on the CPU"
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(checks, "version", lambda name: "2.13.0+cpu")
    assert checks.check_gpu(tmp_path).level is Level.WARN
    monkeypatch.setattr(checks, "version", lambda name: "2.13.0")
    assert checks.check_gpu(tmp_path) == Check(name="gpu", level=Level.OK, detail="1 found")


def test_old_ray_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda name: "2.51.3")
    assert checks.check_ray().level is Level.FAIL


def test_folders_that_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert levels(checks.check_cache(tmp_path / "a"), checks.check_run_folder(tmp_path / "b")) == [Level.FAIL] * 2


def test_prepared_models_are_counted(tmp_path: Path) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    assert checks.check_cache(tmp_path).detail.startswith("0 prepared")


def test_the_command_prints_a_line_per_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert len(json.loads(out)["checks"]) == 12


def test_a_failed_check_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Check(name="memory", level=Level.FAIL, detail="none", remedy="buy some")
    monkeypatch.setattr("tandem.cluster.commands.doctor.all_checks", lambda environment: [bad])
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert "fail  memory        none\n" in out
    assert "→ buy some" in out
    assert "this machine can't run Tandem: memory" in err
