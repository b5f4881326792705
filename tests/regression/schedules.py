"""Schedules of bugs that other systems had, on our hand-over: the production build must stand, a named mutant must not.

A schedule that no removed guard makes fail would prove nothing, so every one is run against such a build as well.
"""

from collections.abc import Callable

import pytest

from tandem.engine.kv.block_table import IntegrityError
from tests.stateful.handover_machine import HandoverMachine, machine
from tests.stateful.handover_parts import Build
from tests.stateful.running import Violation

Schedule = Callable[[HandoverMachine], None]


def stands(schedule: Schedule, build: Build) -> HandoverMachine:
    """Run the schedule to its end, where nothing may be left; return the world for further questions."""
    world = machine(build)()
    schedule(world)
    world.nothing_is_broken()
    world.world.close_down()
    return world


def falls(schedule: Schedule, build: Build, problem: str) -> None:
    """Run it against a build without the guard: it must break in this way."""
    world = machine(build)()
    with pytest.raises((Violation, IntegrityError), match=problem):
        schedule(world)
        world.nothing_is_broken()
        world.world.close_down()
