"""A part of the chaos matrix, as its benchmark runs it: real processes, each fault proven, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_matrix.cell import Phase

ROOT = Path(__file__).parents[2]
ROWS = {*range(1, 30), *range(36, 40), 44, 45}


def test_the_matrix_covers_every_row_and_every_phase() -> None:
    assert {cell.row for cell in faults.CELLS} == ROWS
    assert {cell.phase for cell in faults.CELLS} == set(Phase)
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
