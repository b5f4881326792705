"""A part of the chaos matrix, as its benchmark runs it: real processes, each fault proven, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_matrix.cell import Phase

ROOT = Path(__file__).parents[2]
I, P, T, D = Phase.IDLE, Phase.PREFILL, Phase.TRANSFER, Phase.DECODE
PHASES = {
    **dict.fromkeys((8, 9, 10, 11, 12, 13, 14, 28, 29, 44, 45), {I, P, T, D}),
    **{1: {I, P, D}, 2: {P}, 3: {T}, 4: {T}, 5: {I, P, T}, 6: {D}, 7: {I, T, D}},  # deaths of P, then of D
    **{15: {P, T, D}, **dict.fromkeys((16, 17, 18, 19, 20), {T})},  # frames: only a hand-over has any
    **{21: {I}, 22: {P}, 23: {P, T}, 24: {T, D}, 25: {D}, 26: {I, D}, 27: {D}},  # callers that leave or are slow
    **{36: {P, D}, 37: {P, D}, 38: {I, P, D}, 39: {P, T, D}},  # the engine: it computes nothing in a hand-over
}
"""Of each failure-mode row, the phases that it has: what it strikes exists only there, or its name says when."""


def test_the_matrix_covers_every_row_and_every_phase() -> None:
    assert {row: {cell.phase for cell in faults.CELLS if cell.row == row} for row in PHASES} == PHASES
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
