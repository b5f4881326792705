"""The requests of the Ray cells: each has a prompt of its own, and a name by which its one right answer is known."""

import pytest

from benchmarks.fault_matrix.cell import Phase
from benchmarks.fault_matrix.ray_cells import CELLS, CONTROLS, RayCell, requests_of

BLOCK = 16


def test_no_cell_asks_what_another_one_asked() -> None:
    cells = (*CONTROLS, *CELLS)
    requests = requests_of(cells, range(3000))
    specs = [spec for found in requests for spec in found]
    assert [len(found) for found in requests] == [cell.num_requests for cell in cells]
    assert len({spec.prompt[:BLOCK] for spec in specs}) == len({spec.label for spec in specs}) == len(specs)


def test_idle_cells_ask_during_the_fault_and_after_it() -> None:
    assert {cell.num_requests for cell in CELLS if cell.phase is Phase.IDLE} == {3}
    assert {cell.what for cell in CONTROLS} == {"nothing"}
    assert {cell.phase for cell in CONTROLS} == {Phase.IDLE, Phase.TRANSFER, Phase.DECODE}


def test_prompts_that_begin_alike_would_be_answered_from_a_cache() -> None:
    with pytest.raises(ValueError, match="begin alike"):
        requests_of(CELLS, [5] * 3000)


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        requests_of((RayCell(row=2, phase=Phase.PREFILL, victim="prefill"),), range(100))
