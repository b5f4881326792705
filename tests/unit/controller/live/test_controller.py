"""The controller at work on a cluster in memory: switches, faults, successors, rivals; on a clock by hand."""

import pytest

from tandem.controller.live.controller import Controller
from tandem.controller.live.leadership import LEADER_RECORD, read_lease
from tandem.controller.live.scaling import SCALE_RECORD, read_orders
from tandem.core.decisions import ControllerRound
from tandem.core.errors import Unavailable
from tandem.core.ids import Epoch, WorkerId
from tandem.core.records import MemoryRecords
from tandem.core.role_commands import CommandKind, RoleCommand
from tandem.core.traffic import ClassTargets, StoredRecord, Written
from tandem.core.types import PriorityClass, Role
from tests.fakes.live_world import LiveWorld, fixed, small_world


async def test_without_a_policy_nothing_is_touched() -> None:
    world = small_world()
    await world.run(world.controller(), 10)
    assert not any(worker.guard.term for worker in world.workers.values())


async def test_a_switch_is_drained_and_told() -> None:
    world = small_world()
    await world.apply(fixed(3, 1))
    controller = world.controller()
    await world.run(controller, 10)
    assert world.split == "3:1"
    changed = [w for w in world.workers.values() if w.obeyed]
    assert [[c.kind for c in w.obeyed] for w in changed] == [[CommandKind.DRAIN, CommandKind.SWITCH]]
    moves = [d for d in world.told if isinstance(d.detail, ControllerRound) and d.detail.verdict == "move"]
    assert len(moves) == 1
    assert moves[0].source == "a"
    assert isinstance(moves[0].detail, ControllerRound)
    assert moves[0].detail.term == controller.term


async def test_who_is_busy_is_waited_for_and_then_told_to_hand_over() -> None:
    world = small_world()
    for worker in world.workers.values():
        worker.busy = True
    await world.apply(fixed(3, 1))
    await world.run(world.controller(), 5)
    assert world.split == "2:1", "it drains, and was not switched"
    await world.run(controller := world.controller(), 0.0)
    assert not controller.leads
    await world.run(world.controller("a"), 12)
    assert world.split == "3:1"
    kinds = [c.kind for w in world.workers.values() for c in w.obeyed]
    assert CommandKind.HAND_OVER in kinds


@pytest.mark.parametrize("mode", ["Advisory", "Off"])
async def test_advisory_and_off_touch_nobody(mode: str) -> None:
    world = small_world()
    await world.apply(fixed(3, 1, mode=mode))
    await world.run(world.controller(), 10)
    assert world.split == "2:2"
    assert not any(worker.obeyed for worker in world.workers.values())
    verdicts = {one.record.verdict.value for one in world.rounds}
    assert verdicts == ({"hold", "advise"} if mode == "Advisory" else set())
    assert not world.guidance


async def test_a_changed_policy_is_followed_without_a_restart() -> None:
    world = small_world()
    await world.apply(fixed(2, 2))
    controller = world.controller()
    await world.run(controller, 6)
    assert world.split == "2:2"
    await world.apply(fixed(1, 3))
    await world.run(controller, 6)
    assert world.split == "1:3"
    await world.apply("metadata: {name: broken")
    await world.run(controller, 3)
    assert controller._policies.problem
    assert world.split == "1:3", "what is wrong changes nothing"


async def test_stale_numbers_freeze_and_their_return_begins_the_dwell_anew() -> None:
    world = small_world()
    world.routers_answer = False
    await world.apply(fixed(3, 1))
    controller = world.controller()
    await world.run(controller, 15)
    assert world.split == "2:2"
    assert {one.record.verdict.value for one in world.rounds} == {"freeze"}
    world.routers_answer = True
    await world.run(controller, 1.5)
    assert world.split == "2:2"
    await world.run(controller, 5)
    assert world.split == "3:1"


async def test_a_round_that_fails_begins_the_dwell_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world()
    await world.apply(fixed(3, 1))
    controller = world.controller()
    await world.run(controller, 1.5)
    assert world.split == "2:2"
    assert [one.record.verdict.value for one in world.rounds] == ["hold", "hold"], "wished for, and not for long enough"

    async def fail() -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(world, "list_workers", fail)
        world.clock.at_s += 1.0
        with pytest.raises(RuntimeError, match="planted"):
            await controller.step()
    begun_s = world.clock.at_s
    while world.split == "2:2":
        await world.run(controller, 0.25)
        assert world.clock.at_s < begun_s + 20.0
    assert world.clock.at_s - begun_s >= 2.0, "a whole dwell, as nobody saw what was wanted meanwhile"


async def test_a_worker_that_does_not_answer_makes_numbers_stale() -> None:
    world = small_world(3, 2)
    await world.apply(fixed(3, 2))
    controller = world.controller()
    await world.run(controller, 3)
    world.workers["prefill-2"].answers = False
    await world.run(controller, 6)
    assert world.rounds[-1].record.verdict.value == "freeze"
    del world.workers["prefill-2"]  # the registry forgets it: it is expected back
    await world.run(controller, 3)
    assert world.rounds[-1].record.verdict.value == "hold"
    assert str(world.rounds[-1].record.current) == "3:2"
    world.add("prefill-2", Role.PREFILL, epoch=2)
    await world.run(controller, 3)
    assert world.workers["prefill-2"].guard.term == controller.term, "its next life is claimed as well"


async def test_a_successor_calls_back_whom_a_dead_controller_left_draining() -> None:
    world = small_world()
    for worker in world.workers.values():
        worker.busy = True
    await world.apply(fixed(3, 1))
    await world.run(world.controller(), 4)
    assert world.split == "2:1"
    for worker in world.workers.values():
        worker.busy = False
    await world.apply(fixed(2, 2))
    await world.run(world.controller(), 3)  # the same name: it takes over at once
    assert world.split == "2:2"


async def test_a_successor_keeps_to_its_predecessors_cool_down() -> None:
    world = small_world(3, 3)
    slow = fixed(4, 2).replace("cooldown: 5s", "cooldown: 60s")
    await world.apply(slow)
    await world.run(world.controller(), 6)
    assert world.split == "4:2"
    await world.apply(slow.replace("replicas: 4", "replicas: 3").replace("replicas: 2", "replicas: 3"))
    await world.run(world.controller(), 30)
    assert world.split == "4:2", "the move of the one before is not forgotten"
    await world.run(world.controller(), 40)
    assert world.split == "3:3"


async def test_of_two_controllers_one_waits_until_the_other_is_silent() -> None:
    world = small_world()
    await world.apply(fixed(3, 1))
    first, second = world.controller("a"), world.controller("b")
    await first.step()
    await second.step()
    assert first.leads
    assert not second.leads
    world.clock.at_s += 6.0
    await second.step()
    assert second.leads
    await first.step()
    assert not first.leads
    assert first._command.deposed
    await world.run(second, 6)
    assert world.split == "3:1"


async def test_a_zombies_order_comes_to_nothing() -> None:
    world = small_world(3, 2)
    await world.apply(fixed(3, 2))
    zombie = world.controller("a")
    await world.run(zombie, 2)
    world.clock.at_s += 6.0
    await world.run(world.controller("b"), 2)
    worker = world.workers["prefill-0"]
    order = RoleCommand(
        kind=CommandKind.DRAIN, worker_id=WorkerId("prefill-0"), epoch=Epoch(1), term=zombie.term, sequence=99
    )
    answer = await world.command(worker.info, order)
    assert "is over" in answer.refusal
    assert not worker.guard.draining


class Forgetful(MemoryRecords):
    """A store that can be switched off."""

    down = False

    async def read(self, key: str) -> StoredRecord | None:
        if self.down:
            raise Unavailable("down")
        return await super().read(key)

    async def write(self, key: str, value: bytes, *, expected_version: int) -> Written:
        if self.down:
            raise Unavailable("down")
        return await super().write(key, value, expected_version=expected_version)


async def test_a_store_that_forgets_everything_does_no_harm() -> None:
    world = small_world()
    world.store = store = Forgetful()
    await world.apply(fixed(3, 1))
    controller = world.controller()
    await world.run(controller, 2)
    store._records.clear()
    await world.run(controller, 8)
    assert controller.leads
    assert world.split == "3:1", "the policy is known"
    lease = read_lease(await store.read(LEADER_RECORD))
    assert lease is not None
    assert lease.term == controller.term


async def test_new_workers_are_ordered_by_name_and_awaited() -> None:
    world = small_world()
    await world.apply(fixed(3, 2))
    controller = world.controller()
    await world.run(controller, 5)
    orders = read_orders(await world.store.read(SCALE_RECORD))
    assert dict(orders.added) == {"prefill-2": Role.PREFILL}
    assert controller._state.in_flight is not None, "it is not there yet"
    world.add("prefill-2", Role.PREFILL)
    await world.run(controller, 3)
    assert controller._state.in_flight is None
    assert world.split == "3:2"


async def test_a_worker_is_drained_before_it_is_ended() -> None:
    world = small_world(2, 3)
    world.workers["decode-0"].busy = world.workers["decode-1"].busy = world.workers["decode-2"].busy = True
    await world.apply(fixed(2, 2, extra="roleSwitch: {enabled: false}"))
    controller = world.controller()
    await world.run(controller, 6)
    assert world.split == "2:2"
    assert read_orders(await world.store.read(SCALE_RECORD)).removed == (), "it holds something"
    for worker in world.workers.values():
        worker.busy = False
    await world.run(controller, 2)
    (gone,) = read_orders(await world.store.read(SCALE_RECORD)).removed
    assert world.workers[gone].guard.draining
    await world.run(controller, 3)
    assert world.workers[gone].guard.draining, "nobody calls it back"
    del world.workers[gone]
    await world.run(controller, 3)
    assert world.split == "2:2"


async def test_routers_hear_what_the_policy_promises_and_hear_of_its_change() -> None:
    world = small_world()
    controller = world.controller()
    await world.apply(fixed(2, 2))
    await world.run(controller, 2)
    assert not world.guidance[-1].targets
    for ttft_s in (2.0, 0.5):
        interactive = f"{{ttft: {{target: {ttft_s:g}s}}, e2e: {{target: 9s}}}}"
        classes = f"classes: {{interactive: {interactive}, batch: {{tpot: {{target: 90ms}}}}}}"
        await world.apply(fixed(2, 2, extra=classes))
        await world.run(controller, 3)
        assert world.guidance[-1].targets == {
            PriorityClass.INTERACTIVE: ClassTargets(ttft_s=ttft_s, e2e_s=9.0),
            PriorityClass.BATCH: ClassTargets(),
        }


async def test_the_share_to_borrow_reaches_routers_and_a_higher_term_there_deposes() -> None:
    world = small_world()
    await world.apply(fixed(2, 2))
    controller = world.controller()
    await world.run(controller, 2)
    assert world.guidance[-1].term == controller.term
    assert world.guidance[-1].ttl_s >= 3.0
    world.router_term = controller.term + 5
    await world.run(controller, 2)
    assert not controller.leads


async def run_until_rounds(world: LiveWorld, controller: Controller, count: int) -> None:
    while len(world.rounds) < count:
        await world.run(controller, 1)


async def test_a_policy_of_promises_moves_the_ratio_with_the_load() -> None:
    world = small_world(4, 4)
    world.rate_per_s, world.prompt_tokens, world.output_tokens = 8.0, 600, 10
    await world.apply(
        """
metadata: {name: slo}
spec:
  interval: 1s
  classes: {standard: {ttft: {target: 2s}, tpot: {target: 100ms}}}
  budget: {min: 8, max: 8}
  borrow: {enabled: false}
  damping: {dwell: 3s, reverseDwell: 3s, cooldown: 5s}
  predictor: {window: 3s, horizon: 3s}
  fallback: {staleAfter: 3s}
  pools: {prefill: {maxReplicas: 7}, decode: {maxReplicas: 7}}
"""
    )
    controller = world.controller()
    await world.run(controller, 30)
    prefill = int(world.split.split(":")[0])
    assert prefill >= 5
    world.rate_per_s, world.prompt_tokens, world.output_tokens = 12.0, 50, 100
    await world.run(controller, 60)
    assert int(world.split.split(":")[0]) < prefill


# --- workers that come back in the role they were born with -------------------------------------------------------

SLOW = "damping: {dwell: 2s, reverseDwell: 2s, cooldown: 100s}"


def at_most_once_in_100_s(prefill: int, decode: int) -> str:
    return fixed(prefill, decode).replace("damping: {dwell: 2s, reverseDwell: 2s, cooldown: 5s}", SLOW)


async def test_a_worker_that_comes_back_in_another_role_is_given_its_own_again_without_a_move() -> None:
    world = small_world(3, 2)
    await world.apply(at_most_once_in_100_s(2, 3))
    controller = world.controller()
    await world.run(controller, 10)
    assert world.split == "2:3"
    (switched,) = [name for name, worker in world.workers.items() if worker.obeyed]
    before = read_lease(await world.store.read(LEADER_RECORD))
    world.add(switched, Role.PREFILL, epoch=2)
    assert world.split == "3:2"
    await world.run(controller, 4)
    assert world.split == "2:3", "although the cool-down has only begun"
    assert [c.kind for c in world.workers[switched].obeyed] == [CommandKind.DRAIN, CommandKind.SWITCH]
    (repair,) = [each.record for each in world.rounds if each.record.is_repair]
    assert repair.reason.endswith(f"{switched} came back as prefill, after a life as decode")
    after = read_lease(await world.store.read(LEADER_RECORD))
    assert before is not None
    assert after is not None
    assert (after.move_begun_unix_s, after.move_ended_unix_s) == (before.move_begun_unix_s, before.move_ended_unix_s)


async def test_a_repair_does_not_empty_a_role() -> None:
    world = small_world(2, 2)
    await world.apply(at_most_once_in_100_s(1, 3))
    controller = world.controller()
    await world.run(controller, 10)
    assert world.split == "1:3"
    (switched,) = [name for name, worker in world.workers.items() if worker.obeyed]
    (other,) = {"prefill-0", "prefill-1"} - {switched}
    del world.workers[other]  # it is gone, so the one that comes back is the only one
    world.add(switched, Role.PREFILL, epoch=2)
    await world.run(controller, 20)
    assert world.split == "1:2"
    world.add(other, Role.PREFILL, epoch=2)
    await world.run(controller, 4)
    assert world.split == "1:3", "now there is another one"


async def test_a_repair_that_fails_is_not_tried_for_ever() -> None:
    world = small_world(3, 2)
    await world.apply(at_most_once_in_100_s(2, 3).replace("onTimeout: Recover", "onTimeout: Undrain"))
    controller = world.controller()
    await world.run(controller, 10)
    (switched,) = [name for name, worker in world.workers.items() if worker.obeyed]
    world.add(switched, Role.PREFILL, epoch=2).busy = True
    await world.run(controller, 60)
    assert world.split == "3:2"
    assert [c.kind for c in world.workers[switched].obeyed] == [CommandKind.DRAIN, CommandKind.UNDRAIN]


async def test_a_successor_rests_after_a_move_that_its_predecessor_only_began() -> None:
    world = small_world(3, 2)
    await world.apply(at_most_once_in_100_s(2, 3))
    first = world.controller()
    while not any(each.record.move for each in world.rounds):
        await world.run(first, 1)
    begun_s = world.clock.at_s
    for worker in world.workers.values():
        worker.busy = False
    await world.run(world.controller(), 60)
    moves = [each for each in world.rounds if each.record.move is not None]
    assert len(moves) == 1, "called back, and not begun again"
    await world.run(world.controller(), begun_s + 110 - world.clock.at_s)
    assert world.split == "2:3"
