"""A round of the controller that fails as a whole."""

import pytest

from tandem.core.errors import Unavailable
from tests.fakes.live_world import fixed, small_world


async def test_a_round_that_fails_as_a_whole_begins_the_dwell_anew() -> None:
    """What was wanted before and after it has not been wanted throughout."""
    world = small_world()
    await world.apply(fixed(3, 1))
    controller = world.controller()
    await world.run(controller, 1.5)
    assert world.split == "2:2", "not for long enough yet"
    looking, world.list_workers = world.list_workers, unreachable  # type: ignore[method-assign]
    for _ in range(3):
        world.clock.at_s += 1.0
        with pytest.raises(Unavailable):
            await controller.step()
    world.list_workers = looking  # type: ignore[method-assign]
    await world.run(controller, 1.5)
    assert world.split == "2:2"
    assert not [one for one in world.rounds if one.record.move is not None]
    await world.run(controller, 5)
    assert world.split == "3:1"


async def unreachable() -> tuple[()]:
    raise Unavailable("nobody answers")
