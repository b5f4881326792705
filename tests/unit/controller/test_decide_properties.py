"""What holds for every world and policy: no role is emptied, bounds and calm are kept, more requests want more."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.controller.deciding.decide import decide, move_ended, split_of
from tandem.controller.deciding.values import (
    AddWorkers,
    ControllerState,
    ExchangeWorker,
    Move,
    RemoveWorkers,
    SwitchRoles,
)
from tandem.controller.observation import Observation, Stage, WorkerSeen
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import AutoscalingPolicy, Strategy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import PriorityClass, Role, WorkerLoad
from tests.unit.controller.worlds import ANSWERS, PROMPTS, now, policy, seen, traffic

MAX = 6
STAGES = st.sampled_from([Stage.SERVING] * 6 + [Stage.STARTING, Stage.DRAINING, Stage.LOST])


@st.composite
def policies(draw: st.DrawFn) -> AutoscalingPolicy:
    strategy = draw(st.sampled_from(list(Strategy)))
    pool = st.fixed_dictionaries({"minReplicas": st.integers(1, 2), "maxReplicas": st.integers(4, MAX)})
    pools = {role: draw(pool) | {"replicas": draw(st.integers(2, 4))} for role in ("prefill", "decode")}
    spec: dict[str, Any] = {
        "strategy": strategy.value,
        "pools": pools,
        "ratio": {"min": "1:4", "max": "4:1", "target": draw(st.sampled_from(["1:2", "1:1", "2:1"]))},
        "roleSwitch": {"enabled": draw(st.booleans()), "maxWorkers": draw(st.integers(1, 3))},
        "damping": {"dwell": "10s", "reverseDwell": "20s", "cooldown": "60s"},
    }
    if draw(st.booleans()):
        spec["budget"] = {"max": draw(st.integers(8, 10))}
    return policy(**spec)


@st.composite
def observations(draw: st.DrawFn, at_s: float = 1000.0) -> Observation:
    workers = tuple(
        WorkerSeen(
            worker_id=WorkerId(f"{role.value}-{index}"), epoch=Epoch(1), role=role, stage=draw(STAGES),
            load=WorkerLoad(num_running=draw(st.integers(0, 256))),
        )
        for role in Role
        for index in range(draw(st.integers(0, MAX)))
    )  # fmt: skip
    asked = traffic(draw(st.floats(0.0, 25.0)), PROMPTS, *[ANSWERS] * draw(st.integers(0, 3)))
    return seen(
        1, 1, at_s=at_s, workers=workers, traffic={PriorityClass.STANDARD: asked},
        backlog_s=draw(st.floats(0.0, 30.0)), prefill_busy=draw(st.floats(0.0, 1.0)),
    )  # fmt: skip


def carried_out(view: Observation, move: Move) -> Observation:
    """The world after a move, as an actor that does exactly what it was told leaves it."""
    workers = list(view.workers)
    if isinstance(move, SwitchRoles):
        workers = [replace(w, role=move.to) if w.worker_id in move.workers else w for w in workers]
    elif isinstance(move, RemoveWorkers | ExchangeWorker):
        gone = move.workers if isinstance(move, RemoveWorkers) else (move.remove,)
        workers = [w for w in workers if w.worker_id not in gone]
    added: Sequence[Role] = ()
    if isinstance(move, AddWorkers):
        added = [Role.PREFILL] * move.prefill + [Role.DECODE] * move.decode
    elif isinstance(move, ExchangeWorker):
        added = [move.add]
    known = {w.worker_id for w in workers}
    names = (f"new-{index}" for index in range(1000) if f"new-{index}" not in known)
    for role, name in zip(added, names, strict=False):
        workers.append(WorkerSeen(worker_id=WorkerId(name), epoch=Epoch(1), role=role, stage=Stage.SERVING))
    return replace(view, workers=tuple(workers))


def serving_without(view: Observation, move: Move) -> Split:
    """Workers that serve while a move's workers do not: the worst moment."""
    taken: tuple[WorkerId, ...] = ()
    if isinstance(move, SwitchRoles | RemoveWorkers):
        taken = move.workers
    elif isinstance(move, ExchangeWorker):
        taken = (move.remove,)
    left = [w for w in view.workers if w.stage is Stage.SERVING and w.worker_id not in taken]
    prefill = sum(w.role is Role.PREFILL for w in left)
    return Split(prefill=prefill, decode=len(left) - prefill)


@settings(max_examples=30, deadline=None)
@given(policies(), observations())
def test_no_role_is_ever_emptied_and_no_bound_is_left(wanted: AutoscalingPolicy, view: Observation) -> None:
    """Through moves in a world that otherwise stands still; each move at its worst moment."""
    state, at, moves = ControllerState(), 1000.0, 0
    for _ in range(150):
        at += wanted.spec.interval_s
        decision = decide(replace(view, measured_s=at), wanted, state, now(at))
        state = decision.state
        assert decision.record.reason
        if decision.move is None:
            continue
        moves += 1
        left = serving_without(view, decision.move)
        before = serving_without(view, AddWorkers())
        for role in ("prefill", "decode"):
            assert getattr(left, role) >= min(getattr(before, role), 1)
        was_allowed = not wanted.spec.bounds_at(now(at).unix_s).forbids(split_of(view))
        view = carried_out(view, decision.move)
        if was_allowed:
            assert wanted.spec.bounds_at(now(at).unix_s).forbids(split_of(view)) == ""
        assert max(split_of(view).prefill, split_of(view).decode) <= 2 * MAX
        state = move_ended(state, now(at))
    assert moves <= 13, "a world that stands still is left alone: a minute's rest after each move"


@settings(max_examples=25, deadline=None)
@given(st.data(), policies())
def test_no_flapping_whatever_is_seen(data: st.DataObject, wanted: AutoscalingPolicy) -> None:
    """A new world every round: never two moves within a minute, never two at once."""
    views = data.draw(st.lists(observations(), min_size=3, max_size=6))
    state, begun = ControllerState(), []
    for index in range(60):
        at = 1000.0 + index * wanted.spec.interval_s
        view = replace(views[index // 5 % len(views)], measured_s=at)
        decision = decide(view, wanted, state, now(at))
        state = decision.state
        if decision.move is not None:
            begun.append(at)
        elif state.in_flight is not None and at >= begun[-1] + 10.0:
            state = move_ended(state, now(at))
    assert all(later - earlier >= 60.0 for earlier, later in itertools.pairwise(begun))


@settings(max_examples=40, deadline=None)
@given(policies(), observations(), st.floats(15.1, 1e6), st.integers(1, 20))
def test_stale_metrics_move_nothing(wanted: AutoscalingPolicy, view: Observation, age_s: float, count: int) -> None:
    state = ControllerState()
    for index in range(count):
        at = 1e7 + index * 5.0
        decision = decide(replace(view, measured_s=at - age_s), wanted, state, now(at))
        state = decision.state
        assert decision.move is None
        assert decision.borrow.share == 0.0
        assert state.wishes == ()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 14.0), st.floats(1.05, 3.0), st.integers(1, MAX), st.integers(1, MAX), st.booleans())
def test_more_requests_never_want_fewer_workers(
    rate: float, factor: float, prefill: int, decode: int, are_prompts: bool
) -> None:
    """From the same place, with room to grow: the wish for more traffic is at least as large."""
    wanted = policy(pools={"prefill": {"maxReplicas": 12}, "decode": {"maxReplicas": 12}})
    sizes = []
    for each in (rate, rate * factor):
        asked = traffic(each, PROMPTS if are_prompts else ANSWERS)
        view = seen(prefill, decode, traffic={PriorityClass.STANDARD: asked})
        record = decide(view, wanted, ControllerState(), now()).record
        assert record.wished is not None
        sizes.append(record.wished.prefill + record.wished.decode)
    assert sizes[1] >= sizes[0]


@settings(max_examples=40, deadline=None)
@given(policies(), observations())
def test_the_same_question_has_the_same_answer(wanted: AutoscalingPolicy, view: Observation) -> None:
    state = ControllerState()
    assert decide(view, wanted, state, now()) == decide(view, wanted, state, now())
    assert state == ControllerState()
