"""The role switch under two controllers, crashes and a hostile network; each guard taken out is found out."""

import pytest

from tandem.controller.moves import command as commanding
from tandem.controller.moves.command import Claimed
from tandem.core.types import Role
from tests.unit.controller.role_world import World, explore


def test_each_role_always_has_a_worker_that_takes_work() -> None:
    assert explore(range(300)) == ""


@pytest.mark.parametrize("guard", ["fence", "order", "claim", "fresh"])
def test_without_a_guard_a_role_is_emptied(guard: str) -> None:
    """As the mutants NO_FENCE, NO_SEQ, NO_CLAIM and STALE_VIEW of docs/spec/flip.pml."""
    assert "worker takes work" in explore(range(800), **{guard: False})


def test_a_worker_whose_answer_is_out_must_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claimed, "is_settled", property(lambda self: True))
    assert "worker takes work" in explore(range(800))


def test_the_last_one_must_not_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commanding.Command, "num_serving", lambda self, role: 2)
    assert "worker takes work" in explore(range(200))


def test_switches_do_happen() -> None:
    """A world in which nothing is ever switched would prove nothing."""
    total = 0
    for seed in range(60):
        world = World(seed=seed)
        for _ in range(150):
            world.step()
        total += world.switches
    assert total >= 5


@pytest.mark.parametrize("seed", range(12))
def test_when_the_storm_is_over_nobody_is_left_draining(seed: int) -> None:
    """Whatever the controllers left in the middle, the newest one finishes or undoes it."""
    world = World(seed=seed)
    for _ in range(150):
        world.step()
    world.calm()
    assert not any(guard.draining for guard in world.guards.values())
    assert {guard.role for guard in world.guards.values()} == set(Role)
    newest = world.controllers[-1]
    assert newest.command.term == max(guard.term for guard in world.guards.values())
    assert all(each.is_settled for each in newest.command.workers.values())
