"""One round of the controller: what it holds back, what it does, and the reasons it gives."""

import math
from dataclasses import replace
from typing import Any

import pytest

from tandem.controller.deciding.decide import decide, move_ended
from tandem.controller.deciding.values import (
    AddWorkers,
    ControllerState,
    ExchangeWorker,
    RemoveWorkers,
    SwitchRoles,
    Verdict,
)
from tandem.controller.observation import ClassTraffic, Observation, Stage
from tandem.controller.policy.bounds import Split
from tandem.core.ids import WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import Role, WorkerLoad
from tests.unit.controller.worlds import (
    ALONE,
    ANSWERS,
    PINNED,
    PROMPTS,
    STANDARD,
    first_move,
    now,
    policy,
    prompt_heavy,
    rounds,
    seen,
    traffic,
    workers,
)


def _with_figure(name: str, value: float) -> ClassTraffic:
    changed: dict[str, Any] = {name: value}
    return replace(traffic(1.0), **changed)


# --- what is not believed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (None, "there are no metrics"),
        (prompt_heavy(at_s=980.0), "metrics are 20.0 s old"),
        (prompt_heavy(at_s=1001.0), "metrics are -1.0 s old"),
        (prompt_heavy(at_s=math.nan), "metrics are nan s old"),
        (prompt_heavy(rate=math.nan), "standard arrivals_per_s is nan"),
        (prompt_heavy(rate=-1.0), "standard arrivals_per_s is -1.0"),
        (prompt_heavy(backlog_s=math.inf), "backlog_s is inf"),
        *(
            (seen(4, 4, traffic={STANDARD: _with_figure(name, value)}), f"standard {name} is {value}")
            for name in ("rate_error_per_s", "missed_now", "num_open", "left_tokens")
            for value in (math.nan, -1)
        ),
        (prompt_heavy(workers=()), "no worker was seen"),
        (prompt_heavy(4, 0), "a role has no worker that serves or starts"),
        (
            prompt_heavy(prefill_model=LatencyModel(coefficients=LatencyCoefficients(prefill=(math.nan, 1e-4, 0)))),
            "a latency coefficient is nan",
        ),
    ],
)
def test_what_cannot_be_believed_freezes(view: Observation | None, reason: str) -> None:
    decision = decide(view, policy(**PINNED), ControllerState(), now())
    assert decision.record.verdict is Verdict.FREEZE
    assert reason in decision.record.reason
    assert decision.move is None
    assert decision.borrow.share == pytest.approx(0.0)


def test_one_stale_round_begins_the_dwell_anew() -> None:
    wanted = policy(**PINNED)
    made = rounds(prompt_heavy(), wanted, seconds=15)
    assert made[-1].move is None
    stale = decide(prompt_heavy(at_s=990.0), wanted, made[-1].state, now(1020.0))
    assert stale.state.wishes == ()
    after = rounds(prompt_heavy(), wanted, seconds=15, state=stale.state, start_s=1025.0)
    assert [each.move for each in after] == [None] * 4
    assert rounds(prompt_heavy(), wanted, seconds=20, state=stale.state, start_s=1025.0)[-1].move is not None


def test_after_long_blindness_the_fallback_grows_and_never_takes_away() -> None:
    wanted = policy(
        fallback={"action": "Replicas", "after": "60s", "replicas": {"prefill": 3, "decode": 2}},
    )
    state = ControllerState()
    for at in range(0, 60, 5):
        decision = decide(prompt_heavy(2, 4, at_s=900.0), wanted, state, now(1000.0 + at))
        assert decision.move is None
        state = decision.state
    decision = decide(prompt_heavy(2, 4, at_s=900.0), wanted, state, now(1060.0))
    assert decision.move == AddWorkers(prefill=1, decode=0)
    assert decision.record.reason == "metrics are 160.0 s old for 60 s: fallback grows 2:4 to 3:4"
    assert decide(prompt_heavy(3, 4, at_s=900.0), wanted, state, now(1060.0)).move is None
    assert decide(None, wanted, state, now(1060.0)).move is None
    assert decide(prompt_heavy(2, 4, at_s=900.0), wanted, decision.state, now(1065.0)).move is None, "one in flight"


# --- modes --------------------------------------------------------------------------------------------------------


def test_off_decides_nothing() -> None:
    decision = decide(prompt_heavy(), policy(mode="Off", **PINNED), ControllerState(), now())
    assert (decision.record.verdict, decision.record.reason) == (Verdict.OFF, "mode is Off")


def test_advisory_says_what_it_would_do_and_does_nothing() -> None:
    made = rounds(
        prompt_heavy(rate=17.0), policy(mode="Advisory", **PINNED | {"borrow": {"maxShare": 0.1}}), seconds=60
    )
    assert all(each.move is None and each.borrow.share == 0.0 for each in made)
    assert made[-1].record.verdict is Verdict.ADVISE
    assert isinstance(made[-1].record.move, SwitchRoles)
    assert made[-1].record.borrow_share > 0.0
    assert made[-1].state.in_flight is None


# --- the switch ---------------------------------------------------------------------------------------------------


def test_a_switch_names_worker_reason_and_numbers() -> None:
    decision = first_move(prompt_heavy(), policy(**PINNED))
    assert decision.move == SwitchRoles(workers=(WorkerId("decode-0"), WorkerId("decode-1")), to=Role.PREFILL)
    record = decision.record
    assert record.reason.startswith(
        "switch decode-0, decode-1 to prefill: 4:4 is predicted to have standard ttft p95 without end"
    )
    assert record.current == Split(prefill=4, decode=4)
    assert record.wished is not None
    assert record.wished.prefill >= 6
    assert math.isinf(record.numbers["stress"])
    assert record.numbers["standard.rate_per_s"] == pytest.approx(9.0)


def test_nothing_is_decided_while_a_move_is_under_way_nor_in_the_rest_after_it() -> None:
    wanted = policy(**PINNED)
    begun = first_move(prompt_heavy(), wanted)
    assert begun.state.in_flight is not None
    during = rounds(prompt_heavy(), wanted, seconds=100, state=begun.state, start_s=1100.0)
    assert all(each.move is None and each.record.clamps == ("one move at a time",) for each in during)
    rested = move_ended(during[-1].state, now(1200.0))
    after = rounds(prompt_heavy(), wanted, seconds=100, state=rested, start_s=1201.0)
    first = next(index for index, each in enumerate(after) if each.move is not None)
    assert 1201.0 + 5 * first >= 1260.0
    assert any("cool-down: " in clamp for clamp in after[3].record.clamps)


def test_a_wish_must_last() -> None:
    wanted = policy(**PINNED)
    made = rounds(prompt_heavy(), wanted, seconds=15)
    assert made[-1].record.clamps == ("dwell: not wanted for 20 s yet",)
    calm = decide(seen(4, 4, at_s=1020.0), wanted, made[-1].state, now(1020.0))
    again = rounds(prompt_heavy(), wanted, seconds=5, state=calm.state, start_s=1025.0)
    assert again[-1].move is None


def test_the_idlest_worker_is_taken() -> None:
    view = prompt_heavy(4, 4)
    loads = {"decode-0": 9, "decode-1": 5, "decode-2": 1, "decode-3": 7}
    busy = tuple(replace(w, load=WorkerLoad(num_running=loads.get(w.worker_id, 0))) for w in view.workers)
    move = first_move(replace(view, workers=busy), policy(**PINNED)).move
    assert isinstance(move, SwitchRoles)
    assert move.workers[0] == "decode-2"


def test_the_last_serving_worker_of_a_role_never_goes() -> None:
    wanted = policy(budget={"min": 5, "max": 5}, **ALONE)
    assert all(each.move is None for each in rounds(prompt_heavy(4, 1, rate=30.0), wanted, seconds=100))
    starting = tuple(replace(w, stage=Stage.STARTING) if w.worker_id == "decode-1" else w for w in workers(3, 2))
    view = prompt_heavy(3, 2, rate=30.0, workers=starting)
    made = rounds(view, wanted, seconds=100)
    assert all(each.move is None for each in made)
    assert "decode-1 is starting: nothing is switched or removed meanwhile" in made[-1].record.clamps


def test_several_workers_switch_in_one_move_but_no_more_than_allowed() -> None:
    view = prompt_heavy(1, 7, rate=10.0)
    two = first_move(view, policy(**PINNED)).move
    assert isinstance(two, SwitchRoles)
    assert len(two.workers) == 2
    one = first_move(view, policy(**PINNED, roleSwitch={"maxWorkers": 1})).move
    assert isinstance(one, SwitchRoles)
    assert len(one.workers) == 1


def test_the_ratio_is_not_left() -> None:
    tight = PINNED | {"ratio": {"min": "1:3", "max": "1:1"}}
    assert all(each.move is None for each in rounds(prompt_heavy(), policy(**tight), seconds=100))


def test_out_of_a_forbidden_ratio_it_goes_step_by_step() -> None:
    """A policy that was changed finds 7:1 where 2:1 is the most: one switch leads nearer."""
    wanted = policy(budget={"min": 8, "max": 8}, ratio={"max": "2:1"}, roleSwitch={"maxWorkers": 1})
    assert first_move(seen(7, 1), wanted).move == SwitchRoles(workers=(WorkerId("prefill-0"),), to=Role.DECODE)
    assert first_move(seen(6, 2), wanted).move == SwitchRoles(workers=(WorkerId("prefill-0"),), to=Role.DECODE)
    assert first_move(seen(5, 3), wanted).move is None


def test_load_takes_nobody_away_whom_a_promise_needs() -> None:
    """Its thresholds see idle prefill workers; the model sees that two of them would be too slow."""
    asked = {STANDARD: traffic(3.4, PROMPTS)}
    view = seen(3, 1, traffic=asked, workers=workers(3, 1, num_running=150), prefill_busy=0.1)
    assert first_move(view, policy(strategy="Load")).move is None
    unpromised = policy(strategy="Load", classes={})
    assert isinstance(first_move(view, unpromised).move, RemoveWorkers)


def test_a_small_gain_is_left_alone() -> None:
    """Within the dead band a worker stays where it is."""
    view = seen(4, 4, traffic={STANDARD: traffic(12.4, ANSWERS, PROMPTS)})
    eager, calm = (policy(**PINNED, damping={"dwell": "20s", "deadBand": band}) for band in (0.0, 0.5))
    decision = first_move(view, eager, seconds=100)
    assert isinstance(decision.move, SwitchRoles)
    assert 1.0 < decision.record.numbers["stress"] < decision.record.numbers["stress_wished"] + 0.5
    made = rounds(view, calm, seconds=100)
    assert all(each.move is None for each in made)
    assert "would not be enough better" in made[-1].record.reason


# --- without a switch: both or neither ----------------------------------------------------------------------------


def test_at_the_limit_of_the_budget_workers_are_exchanged() -> None:
    move = first_move(prompt_heavy(), policy(**PINNED, roleSwitch={"enabled": False})).move
    assert move == ExchangeWorker(remove=WorkerId("decode-0"), add=Role.PREFILL)


def test_half_an_exchange_is_none() -> None:
    still = {"scaleDown": {"selectPolicy": "Disabled"}}
    wanted = policy(
        **PINNED, roleSwitch={"enabled": False},
        pools={"prefill": {"maxReplicas": 8}, "decode": {"maxReplicas": 8, "behavior": still}},
    )  # fmt: skip
    made = rounds(prompt_heavy(), wanted, seconds=100)
    assert all(each.move is None for each in made)
    assert made[-1].record.clamps == ("behavior allows only one half of an exchange: neither is done",)


def test_with_room_in_the_budget_it_grows_first() -> None:
    wanted = policy(budget={"min": 8, "max": 9}, roleSwitch={"enabled": False}, **ALONE)
    assert first_move(prompt_heavy(), wanted).move == AddWorkers(prefill=1)


# --- growing and shrinking ----------------------------------------------------------------------------------------


def test_it_grows_as_fast_as_behavior_allows_and_no_further_than_the_budget() -> None:
    view = prompt_heavy(2, 2, rate=10.0)
    assert first_move(view, policy()).move == AddWorkers(prefill=4)
    slow = {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
    pools = {"prefill": {"maxReplicas": 8, "behavior": slow}, "decode": {"maxReplicas": 8}}
    decision = first_move(view, policy(pools=pools))
    assert decision.move == AddWorkers(prefill=1)
    assert "prefill: behavior allows 1 of 4 more" in decision.record.clamps
    assert first_move(view, policy(budget={"max": 5}, roleSwitch={"enabled": False})).move == AddWorkers(prefill=1)


def test_it_shrinks_after_five_minutes_by_one_and_only_with_room() -> None:
    made = rounds(seen(4, 4), policy(), seconds=400)
    first = next(index for index, each in enumerate(made) if each.move is not None)
    assert 5 * first == 300
    assert made[first].move == RemoveWorkers(workers=(WorkerId("prefill-0"),), role=Role.PREFILL)
    tight = seen(3, 2, traffic={STANDARD: traffic(3.6, PROMPTS)})  # two prefill workers would be at 87 %
    assert all(each.move is None for each in rounds(tight, policy(), seconds=400))


def test_below_the_minimum_it_grows() -> None:
    pools = {"prefill": {"minReplicas": 3, "maxReplicas": 8}, "decode": {"minReplicas": 2, "maxReplicas": 8}}
    assert first_move(seen(1, 1), policy(pools=pools)).move == AddWorkers(prefill=2, decode=1)


def test_above_a_lowered_maximum_it_shrinks_even_under_load() -> None:
    pools = {"prefill": {"maxReplicas": 2}, "decode": {"maxReplicas": 8}}
    move = first_move(prompt_heavy(4, 2), policy(pools=pools, **ALONE)).move
    assert isinstance(move, RemoveWorkers)
    assert move.role is Role.PREFILL


def test_nothing_is_taken_away_while_something_starts() -> None:
    starting = tuple(replace(w, stage=Stage.STARTING) if w.worker_id == "decode-1" else w for w in workers(4, 4))
    made = rounds(seen(4, 4, workers=starting), policy(), seconds=400)
    assert all(each.move is None for each in made)


def test_workers_that_start_count_as_coming() -> None:
    starting = tuple(replace(w, stage=Stage.STARTING) if w.role is Role.PREFILL else w for w in workers(6, 2))
    serving = tuple(
        replace(w, stage=Stage.SERVING) if w.worker_id in {"prefill-0", "prefill-1"} else w for w in starting
    )
    assert first_move(prompt_heavy(rate=10.0, workers=serving), policy()).move is None


# --- schedules, other strategies ----------------------------------------------------------------------------------


def test_a_schedule_raises_the_floor_while_it_holds() -> None:
    always = {"name": "always", "start": "00:00", "end": "23:59", "pools": {"decode": {"minReplicas": 4}}}
    assert first_move(seen(1, 1), policy(schedules=[always])).move == AddWorkers(decode=3)


def test_fixed_goes_to_its_counts() -> None:
    pools = {"prefill": {"maxReplicas": 8, "replicas": 3}, "decode": {"maxReplicas": 8, "replicas": 1}}
    wanted = policy(strategy="Fixed", pools=pools)
    assert first_move(seen(1, 1), wanted).move == AddWorkers(prefill=2)
    assert first_move(seen(2, 2), wanted).move == SwitchRoles(workers=(WorkerId("decode-0"),), to=Role.PREFILL)
    assert first_move(seen(3, 1), wanted).move is None


def test_ratio_keeps_its_ratio() -> None:
    wanted = policy(strategy="Ratio", ratio={"target": "1:3"})
    assert first_move(seen(4, 4), wanted).move == SwitchRoles(
        workers=(WorkerId("prefill-0"), WorkerId("prefill-1")), to=Role.DECODE
    )
    assert first_move(seen(2, 6), wanted).move is None


@pytest.mark.parametrize(
    ("load", "busy", "expected"),
    [
        ({"num_running": 250}, 0.6, AddWorkers(decode=1)),
        ({"num_running": 100}, 0.95, AddWorkers(prefill=1)),
        ({"total_blocks": 100, "free_blocks": 5}, 0.6, AddWorkers(decode=1)),
        ({"num_running": 150}, 0.6, None),
        ({"num_running": 150}, 0.1, RemoveWorkers(workers=(WorkerId("prefill-0"),), role=Role.PREFILL)),
    ],
)
def test_load_follows_thresholds(load: dict[str, int], busy: float, expected: object) -> None:
    view = seen(2, 2, workers=workers(2, 2, **load), prefill_busy=busy)
    assert first_move(view, policy(strategy="Load", classes={}, ratio={"min": "1:8"})).move == expected


def test_load_with_a_target_counts_as_hpa_does() -> None:
    pools = {"prefill": {"maxReplicas": 8}, "decode": {"maxReplicas": 8, "load": {"targetRunning": 10}}}
    wanted = policy(strategy="Load", classes={}, pools=pools)
    view = seen(1, 2, workers=workers(1, 2, num_running=18), prefill_busy=0.6)
    assert first_move(view, wanted).move == AddWorkers(decode=2)  # 36 running / 10 = 4
    near = seen(1, 2, workers=workers(1, 2, num_running=11), prefill_busy=0.6)
    assert first_move(near, wanted).move is None  # 10 % is near enough
