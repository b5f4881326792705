"""The demo as a newcomer runs it, with the real model: once to its end, and until it is ended."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.core.environment import read_environment
from tests.fakes.command_line import CommandLine

PHASES = ["tokenize", "queue", "prefill", "TTFT", "hand-over", "first decode", "total"]


@pytest.fixture
def newcomer(tmp_path: Path) -> CommandLine:
    """A world of its own with the real cache: converting the model again would show nothing new here."""
    return CommandLine(tmp_path / "home", cache=read_environment().cache_folder.parent)


@pytest.mark.slow
def test_demo_once(newcomer: CommandLine) -> None:
    done = newcomer.run("demo", "--once", timeout_s=170.0)
    assert done.status == 0, done.err
    assert "Paris" in done.out
    figures = dict(re.findall(r"^  ([\w -]+?) {2,}([\d.]+) ms$", done.out, re.MULTILINE))
    assert list(figures) == PHASES
    assert float(figures["hand-over"]) > 0
    assert float(figures["TTFT"]) <= float(figures["total"])
    assert "prompt on prefill-0 → KV over shared memory → answer on decode-0" in done.out
    phases = re.findall(r"✓ (\w+)", done.err)
    assert phases[0] == "model"
    assert phases[-2:] == ["ready", "stop"]
    assert set(phases) >= {"registry", "router", "workers"}
    assert "first token" in done.err
    assert "Traceback" not in done.err
    told = json.loads(done.out.splitlines()[-1])
    assert told["first_token_s"] > 0
    assert told["handover_ms"] > 0
    assert (told["prefill_worker"], told["decode_worker"], told["transport"]) == ("prefill-0", "decode-0", "shm")
    assert newcomer.leftovers() == []


@pytest.mark.slow
def test_demo_stays_up_and_its_lines_work_as_printed(newcomer: CommandLine) -> None:
    process = newcomer.start("demo")
    assert process.stdout is not None
    lines: list[str] = []
    while len(lines) < 3 or not lines[-1].strip().endswith("status"):
        line = process.stdout.readline()
        assert line, f"ended early: {process.communicate()[1]}"
        lines.append(line)
    try:
        for pasted in lines[-3:]:
            done = subprocess.run(
                pasted, shell=True, cwd=newcomer.folder, env=newcomer.environment, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{pasted}: {done.stderr}"
            assert done.stdout.strip()
            assert shlex.split(pasted)
    finally:
        ended = newcomer.end(process)
    assert ended.status == 0, ended.err
    assert newcomer.leftovers() == []


@pytest.mark.slow
def test_the_model_is_prepared_with_progress(tmp_path: Path, tiny_folder: Path) -> None:
    """A plain Hugging Face folder and an empty cache: a process of its own converts it, once."""
    shell = CommandLine(tmp_path / "home")
    first = shell.run("demo", "--once", "--model", str(tiny_folder), "--question", "hello", timeout_s=170.0)
    assert first.status == 0, first.err
    assert "prepared now and kept in" in first.err
    again = shell.run("demo", "--once", "--model", str(tiny_folder), "--question", "hello", timeout_s=170.0)
    assert "prepared before" in again.err
    assert sys.executable in first.out or "tandem" in first.out
    assert shell.leftovers() == []
