"""The command's surface: help, options, exit statuses, errors; nothing heavy is imported to show it."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tandem.cluster.cli.app import app, main
from tandem.cluster.cli.errors import run_guarded
from tandem.cluster.interrupts import Interrupted
from tandem.core.errors import EnvironmentProblem

COMMANDS = ["demo", "up", "down", "status", "generate", "chat", "doctor", "init", "certs", "keys", "policy", "cache"]
SUBCOMMANDS = ["certs init", "keys new", "policy validate", "policy diff", "policy convert"]
SUBCOMMANDS += ["cache stats", "cache top", "cache flush"]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def guarded(work: Callable[[], None], words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def fake_app(*, args: list[str], prog_name: str) -> Any:
        assert "--debug" not in args
        work()

    with pytest.raises(SystemExit) as ended:
        run_guarded(fake_app, words)
    return int(ended.value.code or 0), capsys.readouterr().err


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in COMMANDS:
        assert command in shown.output


@pytest.mark.parametrize("command", [*COMMANDS[:8], *SUBCOMMANDS])
def test_every_command_has_help(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "Usage: " in shown.output


def test_help_is_quick_and_light() -> None:
    """The quickest of three: a busy machine must not fail this, a stray import must."""
    script = (
        "import sys, time; began = time.perf_counter()\n"
        "from tandem.cluster.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'grpc', 'pydantic', 'numpy', 'redis'} & set(sys.modules)\n"
        "sys.stderr.write(f'{time.perf_counter() - began} {sorted(heavy)}')\n"
    )
    runs = []
    for _ in range(3):
        began_s = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        runs.append(time.monotonic() - began_s)
        assert done.stderr.endswith("[]"), done.stderr
        if runs[-1] < 0.3:
            break
    assert min(runs) < 1.0, f"took {min(runs):.2f} s even at its best"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(["--version"], capsys)
    assert status == 0
    assert out.startswith("tandem ")


@pytest.mark.parametrize("words", [["nonsense"], ["up", "--nonsense"], ["generate"], ["demo", "--runtime", "docker"]])
def test_a_wrong_command_line_is_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words, capsys)[0] == 2


def test_a_problem_is_one_with_a_remedy(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(["up", "-f", str(tmp_path / "none.yaml")], capsys)
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert "none.yaml: can't be read" in err
    assert "\n  → give the path of a YAML file\n" in err
    assert "Traceback" not in err
    assert "\x1b" not in err


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--debug", "up", "-f", str(tmp_path / "x")], ["up", "-f", str(tmp_path / "x"), "--debug"]):
        status, _, err = run(words, capsys)
        assert status == 1
        assert "Traceback" in err


def test_after_two_dashes_debug_is_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[str]] = []

    def fake_app(*, args: list[str], prog_name: str) -> None:
        seen.append(args)

    run_guarded(fake_app, ["generate", "--", "--debug"])
    assert seen == [["generate", "--", "--debug"]]


def test_a_defect_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ValueError("oh")

    status, err = guarded(broken, ["x"], capsys)
    assert status == 1
    assert err.startswith("error: this is a defect in Tandem: ValueError: oh\n  → ")
    assert "Traceback" not in err
    status, err = guarded(broken, ["x", "--debug"], capsys)
    assert "Traceback" in err


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_an_interruption_is_130(kind: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise kind

    status, err = guarded(interrupted, [], capsys)
    assert (status, err) == (130, "")


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def problem() -> None:
        raise EnvironmentProblem("a", remedy="b")

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31merror\x1b[0m: a" in guarded(problem, [], capsys)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert guarded(problem, [], capsys)[1].startswith("error: a")


def test_main_is_what_the_package_installs() -> None:
    from importlib.metadata import entry_points  # noqa: PLC0415

    (entry,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "tandem"]
    assert entry.value == "tandem.cluster.cli:main"
    assert isinstance(app, typer.Typer)
