"""How a program of ours is started: with the collector out of the way while it imports, and back when it works."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_MODULE = """
import gc, json, sys

import_time = {"name": __name__, "collects": gc.isenabled()}

def main():
    seen = {**import_time, "arguments": sys.argv[1:], "collects_later": gc.isenabled(), "frozen": gc.get_freeze_count()}
    print(json.dumps({**seen, "line": sys.stdin.readline()}))
    sys.exit(7)
"""


def _run(folder: Path, module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "tandem.cluster.processes.program", module],
        input="one line\n",
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )


def test_a_program_runs_as_if_it_alone_had_been_started(tmp_path: Path) -> None:
    (tmp_path / "some_program.py").write_text(_MODULE, encoding="utf-8")
    ended = _run(tmp_path, "some_program")
    assert ended.returncode == 7, ended.stderr
    seen: dict[str, Any] = json.loads(ended.stdout)
    assert seen.pop("frozen") > 1000
    assert seen == {
        "name": "some_program",
        "collects": False,
        "arguments": [],
        "collects_later": True,
        "line": "one line\n",
    }


@pytest.mark.parametrize("text", ["raise RuntimeError('planted')", "def main():\n    raise RuntimeError('planted')"])
def test_a_program_that_fails_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad_program.py").write_text(text, encoding="utf-8")
    ended = _run(tmp_path, "bad_program")
    assert ended.returncode == 1
    assert "planted" in ended.stderr
