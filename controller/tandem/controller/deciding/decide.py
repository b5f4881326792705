"""``decide(observation, policy, state, now) -> decision with reason``: one round of the controller. Pure.

Three speeds: *borrow* (a share of the prompts is computed by decode workers; changes every round, costs nothing),
*switch* (a worker changes its role in place), *scale* (workers come and go). At most one move is in flight; whatever
can't be believed freezes everything.
"""

from collections.abc import Mapping
from dataclasses import replace

from tandem.controller.deciding.damping import longest_window_s
from tandem.controller.deciding.moving import Chosen, Situation, choose_move
from tandem.controller.deciding.pace import LONGEST_PERIOD_S
from tandem.controller.deciding.present import Present, present_of
from tandem.controller.deciding.repair import Repair, repair_of
from tandem.controller.deciding.values import (
    AddWorkers,
    Borrow,
    ControllerState,
    Decision,
    DecisionRecord,
    ExchangeWorker,
    Move,
    MoveInFlight,
    PoolChange,
    RemoveWorkers,
    SwitchRoles,
    Verdict,
    Wish,
)
from tandem.controller.deciding.wishes import Wished, wish
from tandem.controller.forecast.choice import AnyForecast, expected_rate, make_forecast
from tandem.controller.observation import Now, Observation, Stage
from tandem.controller.policy.bounds import Bounds, Split
from tandem.controller.policy.model import AutoscalingPolicy, Mode, PolicySpec
from tandem.controller.policy.sections import StaleAction
from tandem.controller.sizing.correction import corrections_of
from tandem.controller.sizing.demand import demand_of
from tandem.controller.sizing.prediction import SplitJudge
from tandem.core.types import PriorityClass, Role


def decide(observation: Observation | None, policy: AutoscalingPolicy, state: ControllerState, now: Now) -> Decision:
    """Return what to do now, why, and what to remember."""
    spec = policy.spec
    if spec.mode is Mode.OFF:
        return _idle(policy, state, now, verdict=Verdict.OFF, why="mode is Off", seen=observation)
    problem = _distrust(observation, spec, now)
    if observation is None or problem:
        return _freeze(observation, policy, state, now, problem)
    current = split_of(observation)
    unlearnt = make_forecast(spec.predictor, spec.interval_s)
    forecasts = _learn(unlearnt, state.forecasts if state.unlearnt == unlearnt else {}, observation, now)
    state = replace(state, forecasts=forecasts, unlearnt=unlearnt, stale_since_s=None)
    rates = {priority: expected_rate(each, spec.predictor.horizon_s) for priority, each in forecasts.items()}
    judge = _judge(spec, observation, rates, current, state.borrow_share)
    sure = _judge(spec, observation, _lowered(rates, observation), current, state.borrow_share)
    present = present_of(spec, observation, current, judge=judge, sure=sure)
    borrow = present.borrow if spec.mode is Mode.AUTO else Borrow()
    state = replace(state, borrow_share=borrow.share)
    bounds = spec.bounds_at(now.unix_s)
    wished = wish(
        spec, observation, bounds=bounds, current=current, judge=judge, present=present, unix_s=now.unix_s
    )  # fmt: skip
    if state.in_flight is not None:
        since_s = now.monotonic_s - state.in_flight.begun_s
        wished = Wished(split=wished.split, reason=f"{describe(state.in_flight.move)}: for {since_s:.0f} s under way")
        chosen = Chosen(clamps=("one move at a time",))
        state = replace(state, wishes=())
    elif (repair := _repair(spec, observation, current, bounds)) is not None:
        wished, chosen = Wished(split=repair.split, reason=repair.reason), Chosen(move=repair.move)
        record = _record(policy, now, current, wished=wished, chosen=chosen, present=present, judge=judge)
        flight = MoveInFlight(move=repair.move, begun_s=now.monotonic_s, is_repair=True)
        state = replace(state, in_flight=flight, wishes=())
        return Decision(record=replace(record, is_repair=True), state=state, move=repair.move, borrow=borrow)
    else:
        state = replace(state, wishes=_remember(state.wishes, wished.split, now, spec))
        situation = Situation(
            spec=spec, observation=observation, bounds=bounds, current=current, judge=judge, present=present,
            state=state, now_s=now.monotonic_s,
        )  # fmt: skip
        chosen = choose_move(situation, wished.split)
    record = _record(policy, now, current, wished=wished, chosen=chosen, present=present, judge=judge)
    if chosen.move is None or spec.mode is not Mode.AUTO:
        return Decision(record=record, state=state, borrow=borrow)
    return Decision(record=record, state=_begun(state, chosen.move, current, now), move=chosen.move, borrow=borrow)


def move_ended(state: ControllerState, now: Now) -> ControllerState:
    """Return the state after the move in flight has ended, well or not. A repair leaves the cool-down as it is."""
    if state.in_flight is not None and state.in_flight.is_repair:
        return replace(state, in_flight=None, wishes=())
    return replace(state, in_flight=None, wishes=(), last_move_ended_s=now.monotonic_s)


def split_of(observation: Observation) -> Split:
    """Return the workers that serve or are about to."""
    return Split(
        prefill=observation.count(Role.PREFILL, Stage.SERVING, Stage.STARTING),
        decode=observation.count(Role.DECODE, Stage.SERVING, Stage.STARTING),
    )


def describe(move: Move) -> str:
    """Return a move in words."""
    if isinstance(move, SwitchRoles):
        return f"switch {', '.join(move.workers)} to {move.to.value}"
    if isinstance(move, AddWorkers):
        parts = [f"{count} {role}" for count, role in ((move.prefill, "prefill"), (move.decode, "decode")) if count]
        return f"add {' and '.join(parts)}"
    if isinstance(move, RemoveWorkers):
        return f"remove {', '.join(move.workers)} ({move.role.value})"
    return f"exchange {move.remove} for a new {move.add.value} worker"


# --- what can't be believed ---------------------------------------------------------------------------------------


def _distrust(observation: Observation | None, spec: PolicySpec, now: Now) -> str:
    if observation is None:
        return "there are no metrics"
    age_s = now.monotonic_s - observation.measured_s
    if not 0.0 <= age_s <= spec.fallback.stale_after_s:  # also true of NaN
        return f"metrics are {age_s:.1f} s old"
    problem = observation.problem()
    if problem:
        return f"metrics are no numbers: {problem}"
    if min(split_of(observation).prefill, split_of(observation).decode) < 1:
        return "a role has no worker that serves or starts: whoever restarts them comes first"
    return ""


def _freeze(
    observation: Observation | None, policy: AutoscalingPolicy, state: ControllerState, now: Now, problem: str
) -> Decision:
    fallback = policy.spec.fallback
    since_s = now.monotonic_s if state.stale_since_s is None else state.stale_since_s
    state = replace(state, wishes=(), stale_since_s=since_s)
    waited_s = now.monotonic_s - since_s
    is_due = fallback.action is StaleAction.REPLICAS and waited_s >= fallback.after_s
    wanted = fallback.replicas
    if not is_due or wanted is None or observation is None or state.in_flight or policy.spec.mode is not Mode.AUTO:
        return _idle(policy, state, now, verdict=Verdict.FREEZE, why=f"{problem}: nothing moves", seen=observation)
    current = split_of(observation)
    move = AddWorkers(prefill=max(wanted.prefill - current.prefill, 0), decode=max(wanted.decode - current.decode, 0))
    grown = Split(prefill=current.prefill + move.prefill, decode=current.decode + move.decode)
    forbidden = policy.spec.bounds_at(now.unix_s).forbids(grown)
    if grown == current or forbidden:
        why = forbidden or "the fallback's workers are there"
        return _idle(policy, state, now, verdict=Verdict.FREEZE, why=f"{problem}; {why}", seen=observation)
    record = DecisionRecord(
        time_s=now.unix_s,
        policy=policy.metadata.name,
        verdict=Verdict.MOVE,
        reason=f"{problem} for {waited_s:.0f} s: fallback grows {current} to {grown}",
        current=current,
        wished=grown,
        move=move,
    )
    return Decision(record=record, state=_begun(state, move, current, now), move=move)


def _idle(
    policy: AutoscalingPolicy, state: ControllerState, now: Now, *, verdict: Verdict, why: str, seen: Observation | None
) -> Decision:
    record = DecisionRecord(
        time_s=now.unix_s,
        policy=policy.metadata.name,
        verdict=verdict,
        reason=why,
        current=Split(prefill=0, decode=0) if seen is None else split_of(seen),
    )
    return Decision(record=record, state=state)


# --- parts of a round ---------------------------------------------------------------------------------------------


def _learn(
    unlearnt: AnyForecast, forecasts: Mapping[PriorityClass, AnyForecast], observation: Observation, now: Now
) -> dict[PriorityClass, AnyForecast]:
    learnt = dict(forecasts)
    for priority, traffic in observation.traffic.items():
        known = learnt.get(priority) or unlearnt
        learn = known.moved_to if traffic.is_new_rate else known.observe
        learnt[priority] = learn(traffic.arrivals_per_s, observation.measured_s, now.unix_s)
    return learnt


def _judge(
    spec: PolicySpec,
    observation: Observation,
    rates: Mapping[PriorityClass, float],
    current: Split,
    lent_share: float,
) -> SplitJudge:
    """Return the judge of splits; where requests fare worse than predicted, its predictions are raised to match.

    They fared so with ``lent_share`` of the prompts borrowed.
    """

    def judge(corrections: Mapping[tuple[PriorityClass, str], float]) -> SplitJudge:
        return SplitJudge(
            demand_of(observation, rates),
            spec.classes.promises(),
            catch_up_s=spec.sizing.catch_up_s,
            max_utilization=spec.sizing.max_utilization,
            corrections=corrections,
        )

    plain = judge({})
    corrections = corrections_of(plain.judge(current, lent_share), observation.traffic, spec.classes.promises())
    return judge(corrections) if corrections else plain


def _lowered(rates: Mapping[PriorityClass, float], observation: Observation) -> dict[PriorityClass, float]:
    """Return the rates without what chance alone may have added to them."""
    return {
        priority: max(rate - observation.traffic[priority].rate_error_per_s, 0.0) if priority in observation.traffic
        else rate
        for priority, rate in rates.items()
    }  # fmt: skip


def _repair(spec: PolicySpec, observation: Observation, current: Split, bounds: Bounds) -> Repair | None:
    may_switch = spec.mode is Mode.AUTO and spec.role_switch.enabled
    return repair_of(observation, current, bounds) if may_switch else None


def _remember(wishes: tuple[Wish, ...], split: Split, now: Now, spec: PolicySpec) -> tuple[Wish, ...]:
    """Keep wishes for as long as any window asks, and the last one before it, which says what held when it began."""
    since_s = now.monotonic_s - longest_window_s(spec)
    begin = max((index for index, each in enumerate(wishes) if each.time_s <= since_s), default=0)
    return (*wishes[begin:], Wish(time_s=now.monotonic_s, split=split))


def _begun(state: ControllerState, move: Move, current: Split, now: Now) -> ControllerState:
    kept = [each for each in state.changes if each.time_s > now.monotonic_s - LONGEST_PERIOD_S]
    for role, delta in _deltas(move).items():
        size = current.prefill if role is Role.PREFILL else current.decode
        kept.append(PoolChange(time_s=now.monotonic_s, role=role, delta=delta, size_before=size))
    return replace(
        state,
        in_flight=MoveInFlight(move=move, begun_s=now.monotonic_s),
        wishes=(),
        changes=tuple(kept),
        last_move_begun_s=now.monotonic_s,
        last_switch_to=move.to if isinstance(move, SwitchRoles) else state.last_switch_to,
    )


def _deltas(move: Move) -> dict[Role, int]:
    """Return what a move adds to and takes from the pools; switches are paced by dwell and cool-down alone."""
    if isinstance(move, AddWorkers):
        return {Role.PREFILL: move.prefill, Role.DECODE: move.decode}
    if isinstance(move, RemoveWorkers):
        return {move.role: -len(move.workers)}
    if isinstance(move, ExchangeWorker):
        other = Role.DECODE if move.add is Role.PREFILL else Role.PREFILL
        return {move.add: 1, other: -1}
    return {}


def _record(
    policy: AutoscalingPolicy,
    now: Now,
    current: Split,
    *,
    wished: Wished,
    chosen: Chosen,
    present: Present,
    judge: SplitJudge,
) -> DecisionRecord:
    before, after = judge.judge(current), judge.judge(wished.split)
    if chosen.move is None:
        verdict, reason = Verdict.HOLD, wished.reason
    else:
        verdict = Verdict.MOVE if policy.spec.mode is Mode.AUTO else Verdict.ADVISE
        reason = f"{describe(chosen.move)}: {wished.reason}"
    return DecisionRecord(
        time_s=now.unix_s,
        policy=policy.metadata.name,
        verdict=verdict,
        reason=reason,
        current=current,
        wished=wished.split,
        move=chosen.move,
        borrow_share=present.borrow.share,
        clamps=chosen.clamps,
        numbers={
            "stress": before.stress,
            "stress_lent": present.lent.stress,
            "stress_sure": present.sure.stress,
            "stress_wished": after.stress,
            "prefill_busy": before.prefill_busy,
            "decode_busy": before.decode_busy,
            "decode_occupancy": before.decode_occupancy,
            **{f"{p.priority.value}.{p.objective}_s": p.predicted_s for p in before.promises},
            **{f"{each.priority.value}.rate_per_s": each.rate_per_s for each in judge.demand.classes},
            "backlog_s": judge.demand.backlog_s,
            "open": judge.demand.num_open,
            "left_tokens": judge.demand.left_tokens,
        },
    )
