"""Free runs: a set of ids first of all, and contiguous where it can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.engine.kv.free_runs import FreeRuns

COMMANDS = st.lists(
    st.tuples(st.sampled_from(["packed", "room", "after", "put"]), st.integers(1, 6), st.integers(0, 23)), max_size=60
)


def _take(runs: FreeRuns, how: str, count: int, place: int) -> list[int]:
    if how == "after":
        return runs.take_after(place, count)
    return runs.take_packed(count) if how == "packed" else runs.take_with_room(count)


@given(size=st.integers(1, 24), commands=COMMANDS)
def test_behaves_like_a_set(size: int, commands: list[tuple[str, int, int]]) -> None:
    runs, free = FreeRuns(size), set(range(size))
    for command, count, place in commands:
        if command == "put":
            back = sorted(set(range(size)) - free)[place % size : place % size + count]
            runs.put(back)
            free.update(back)
        elif count <= len(free):
            taken = _take(runs, command, count, place % size)
            assert len(set(taken)) == count
            assert set(taken) <= free
            free -= set(taken)
        assert len(runs) == len(free)
        assert {block_id for block_id in range(-1, size + 1) if block_id in runs} == free


@given(order=st.permutations(list(range(12))))
def test_ids_given_back_join_into_one_run(order: list[int]) -> None:
    runs = FreeRuns(12)
    runs.take_packed(12)
    runs.put(order)
    assert runs.take_packed(12) == list(range(12))


def test_packed_takes_the_smallest_run_that_fits() -> None:
    runs = FreeRuns(20)
    runs.take_packed(20)
    runs.put([0, 1, 2, 3, 8, 9, 12])
    assert runs.take_packed(2) == [8, 9]
    assert runs.take_packed(1) == [12]
    assert runs.take_packed(3) == [0, 1, 2]


def test_scattered_ids_come_ascending() -> None:
    runs = FreeRuns(9)
    runs.take_packed(9)
    runs.put([8, 6, 4, 2, 0])
    assert runs.take_packed(3) == sorted({0, 2, 4})


def test_neighbours_have_room_to_grow() -> None:
    runs = FreeRuns(64)
    first = runs.take_with_room(4)
    second = runs.take_with_room(4)
    assert first == [0, 1, 2, 3]
    assert second[0] - first[-1] > 16  # half of the rest lies between them
    for sequence in (first, second):
        for _ in range(8):
            sequence.extend(runs.take_after(sequence[-1], 1))
        assert sequence == list(range(sequence[0], sequence[0] + 12))


def test_growth_goes_elsewhere_when_the_next_id_is_taken() -> None:
    runs = FreeRuns(8)
    first = runs.take_packed(2)
    runs.take_packed(2)
    assert runs.take_after(first[-1], 1)[0] >= 4


def test_double_free_is_refused() -> None:
    runs = FreeRuns(4)
    with pytest.raises(ValueError, match="block 2 is free already"):
        runs.put([2])


def test_taking_from_nothing_is_refused() -> None:
    runs = FreeRuns(0)
    with pytest.raises(ValueError, match="no free block"):
        runs.take_packed(1)
