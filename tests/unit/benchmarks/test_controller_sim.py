"""The controller on virtual time, with the production code of everything but the workers' steps."""

import itertools

from benchmarks.controller_sim.play import play
from benchmarks.controller_sim.shapes import SHAPES, Shape


async def test_a_shift_to_long_answers_is_followed_in_time() -> None:
    alone = await play(SHAPES["step"], seed=2, controlled=False)
    led = await play(SHAPES["step"], seed=2, controlled=True)
    assert alone.moves == []
    assert alone.attainment < 0.8
    assert led.attainment >= 0.95
    assert len(led.moves) == 1
    assert led.moves[0].endswith("to decode")


async def test_what_borrowing_carries_is_carried_without_a_move() -> None:
    phases = SHAPES["steady-prompts"].phases
    led = await play(Shape(split=(4, 4), phases=[phases[0].lasting(90.0)]), seed=1, controlled=True)
    assert led.moves == []
    assert led.attainment >= 0.95


async def test_there_and_back_in_one_move_each_and_never_two_within_a_minute() -> None:
    phases = [phase.lasting(80.0) for phase in SHAPES["shift"].phases[1:]]
    led = await play(Shape(split=(4, 4), phases=phases), seed=3, controlled=True)
    assert led.attainment >= 0.9
    assert 1 <= len(led.moves) <= 3
    assert all(later - earlier >= 60.0 for earlier, later in itertools.pairwise(led.moved_s))
