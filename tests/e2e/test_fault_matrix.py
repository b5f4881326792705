"""A part of the chaos matrix, as its benchmark runs it: real processes, each fault proven, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_matrix.cell import Phase

ROOT = Path(__file__).parents[2]
LETTERS = {"i": Phase.IDLE, "p": Phase.PREFILL, "t": Phase.TRANSFER, "d": Phase.DECODE}
PHASES = {
    **dict.fromkeys((8, 9, 10, 11, 12, 13, 14, 28, 29, 44, 45), "iptd"),
    **{1: "ipd", 2: "p", 3: "t", 4: "t", 5: "ipt", 6: "d", 7: "itd"},  # deaths of P, then of D
    **{15: "ptd", 16: "td", 17: "t", 18: "t", 19: "t", 20: "t"},  # frames: only a hand-over, or its abort, has any
    **{21: "i", 22: "p", 23: "pt", 24: "td", 25: "d", 26: "id", 27: "d"},  # callers that leave or are slow
    **{36: "pd", 37: "pd", 38: "ipd", 39: "ptd"},  # the engine: it computes nothing in a hand-over
}
"""Of each failure-mode row, the phases that it has: what it strikes exists only there, or its name says when."""


def test_the_matrix_covers_every_row_and_every_phase() -> None:
    for row, letters in PHASES.items():
        assert {cell.phase for cell in faults.CELLS if cell.row == row} == {LETTERS[letter] for letter in letters}, row
    assert {cell.row for cell in faults.CELLS} == set(PHASES) == {*range(1, 30), *range(36, 40), 44, 45}
    assert len(faults.CELLS) >= 100
    names = [cell.name for cell in faults.CELLS]
    assert len(set(names)) == len(names)
    assert {cell.shape for cell in faults.CELLS} <= {shape for lane in faults.PLAN for shape in lane}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_cells_and_their_controls_pass() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--json", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    result = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    assert result["cells"] >= 10
    assert result["passed"] == result["faults_verified"] == result["cells"]
    assert result["wrong_tokens"] == result["hangs"] == result["leaks"] == result["violations"] == 0
    assert result["controls_passed"] >= 3
