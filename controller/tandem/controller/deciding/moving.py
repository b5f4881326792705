"""From what was wanted for long enough to at most one move within every clamp. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tandem.controller.deciding.damping import down_window_s, steady, switch_window_s, up_window_s
from tandem.controller.deciding.pace import allowed_growth, allowed_shrinking
from tandem.controller.deciding.present import Present, lent
from tandem.controller.deciding.values import (
    AddWorkers,
    ControllerState,
    ExchangeWorker,
    Move,
    RemoveWorkers,
    SwitchRoles,
)
from tandem.controller.observation import Observation, Stage
from tandem.controller.policy.bounds import Bounds, Split
from tandem.controller.policy.model import PolicySpec, Strategy
from tandem.controller.policy.pools import PoolPolicy
from tandem.controller.sizing.prediction import SplitJudge
from tandem.core.ids import WorkerId
from tandem.core.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A move, or why there is none."""

    move: Move | None = None
    clamps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What choosing a move needs to know."""

    spec: PolicySpec
    observation: Observation
    bounds: Bounds
    current: Split
    judge: SplitJudge
    present: Present
    state: ControllerState
    now_s: float

    def pool(self, role: Role) -> PoolPolicy:
        """The policy of a pool."""
        return self.spec.pools.prefill if role is Role.PREFILL else self.spec.pools.decode

    def size(self, role: Role) -> int:
        """Workers of a role, those that are starting included."""
        return self.current.prefill if role is Role.PREFILL else self.current.decode

    def rest_s(self) -> float:
        """How long the cool-down still lasts: from the beginning of the last move; from its end if none is missed."""
        begun_s, ended_s = self.state.last_move_begun_s, self.state.last_move_ended_s
        since = [at for at in (begun_s, None if self.present.misses and begun_s else ended_s) if at is not None]
        return max(since) + self.spec.damping.cooldown_s - self.now_s if since else 0.0

    def steady(self, window_s: float) -> Split:
        """What was wanted throughout the last ``window_s``."""
        return steady(self.state.wishes, self.current, self.now_s, window_s)


def choose_move(situation: Situation, wished: Split) -> Chosen:
    """Return the move that brings the present split nearer to what has been wanted for long enough."""
    current = situation.current
    if wished == current:
        return Chosen()
    rest_s = situation.rest_s()
    if rest_s > 0.0:
        return Chosen(clamps=(f"cool-down: {rest_s:.0f} s left",))
    opposing = (wished.prefill - current.prefill) * (wished.decode - current.decode) < 0
    if opposing:
        chosen = _shift(situation)
        if chosen.move is not None or not situation.spec.role_switch.enabled:
            return chosen
        return Chosen(move=_grow(situation).move, clamps=chosen.clamps)
    if wished.prefill > current.prefill or wished.decode > current.decode:
        return _grow(situation)
    return _shrink(situation)


# --- both pools, in opposite directions ---------------------------------------------------------------------------


def _shift(situation: Situation) -> Chosen:
    current, state = situation.current, situation.state
    window_s = switch_window_s(
        situation.spec,
        to=Role.PREFILL if state.wishes[-1].split.prefill > current.prefill else Role.DECODE,
        last_to=state.last_switch_to,
        rested_s=math.inf if state.last_move_ended_s is None else situation.now_s - state.last_move_ended_s,
        is_urgent=situation.present.misses,
    )
    wanted = situation.steady(window_s)
    if (wanted.prefill - current.prefill) * (wanted.decode - current.decode) >= 0:
        return Chosen(clamps=(f"dwell: not wanted for {window_s:.0f} s yet",))
    donor, to = (Role.PREFILL, Role.DECODE) if wanted.decode > current.decode else (Role.DECODE, Role.PREFILL)
    busy = _unrest(situation)
    if busy:
        return Chosen(clamps=(busy,))
    spare = _idlest(situation, donor)[: situation.observation.count(donor, Stage.SERVING) - 1]
    if not spare:
        return Chosen(clamps=(f"the last serving {donor.value} worker stays",))
    most = min(abs(wanted.prefill - current.prefill), abs(wanted.decode - current.decode), len(spare))
    if not situation.spec.role_switch.enabled:
        return _exchange(situation, spare[0], donor, to)
    # Between two allowed splits every step is allowed; on the way out of a forbidden one no step may be refused.
    for count in range(min(most, situation.spec.role_switch.max_workers), 0, -1):
        after = _shifted(current, to, count)
        if _helps(situation, after):
            return Chosen(move=SwitchRoles(workers=tuple(spare[:count]), to=to))
    return Chosen(clamps=(f"no step towards {wanted} helps",))


def _exchange(situation: Situation, worker: WorkerId, donor: Role, to: Role) -> Chosen:
    """With room in the budget grow first, and let the other pool shrink later; at the limit both or neither."""
    grown = _grow(situation)
    if grown.move is not None:
        return grown
    after = _shifted(situation.current, to, 1)
    problem = situation.bounds.forbids(after)
    if problem or not _helps(situation, after):
        return Chosen(clamps=(problem or f"{after} would not help",))
    paces = (
        allowed_growth(
            situation.pool(to).behavior.scale_up, situation.state.changes, to, situation.size(to), situation.now_s
        ),
        allowed_shrinking(
            situation.pool(donor).behavior.scale_down,
            situation.state.changes,
            donor,
            situation.size(donor),
            situation.now_s,
        ),
    )
    if min(paces) < 1:
        return Chosen(clamps=("behavior allows only one half of an exchange: neither is done",))
    return Chosen(move=ExchangeWorker(remove=worker, add=to))


def _shifted(split: Split, to: Role, count: int) -> Split:
    step = count if to is Role.PREFILL else -count
    return Split(prefill=split.prefill + step, decode=split.decode - step)


def _helps(situation: Situation, after: Split) -> bool:
    """Strategy Slo judges every step; the others know only where they want to be."""
    if situation.spec.strategy is not Strategy.SLO or situation.bounds.forbids(situation.current):
        return True
    spec, judge = situation.spec, situation.judge
    if judge.judge(after).badness() < judge.judge(situation.current).badness():
        return True
    return lent(spec, judge, after).badness() < situation.present.lent.badness()


# --- growing and shrinking ----------------------------------------------------------------------------------------


def _grow(situation: Situation) -> Chosen:
    counts: dict[Role, int] = {}
    clamps: list[str] = []
    waiting: list[str] = []
    for role in Role:
        pool, size = situation.pool(role), situation.size(role)
        window_s = up_window_s(pool, situation.spec)
        wanted = _of(situation.steady(window_s), role) - size
        if wanted <= 0:
            waiting.append(f"{role.value}: growing was not wanted for {window_s:.0f} s")
            continue
        allowed = allowed_growth(pool.behavior.scale_up, situation.state.changes, role, size, situation.now_s)
        if allowed < wanted:
            clamps.append(f"{role.value}: behavior allows {allowed} of {wanted} more")
        counts[role] = min(wanted, allowed)
    prefill, decode = counts.get(Role.PREFILL, 0), counts.get(Role.DECODE, 0)
    for split in _growths(situation.current, prefill, decode):
        if not situation.bounds.forbids(split) or situation.bounds.forbids(situation.current):
            if _over_maximum(situation.bounds, split):
                continue
            move = AddWorkers(
                prefill=split.prefill - situation.current.prefill, decode=split.decode - situation.current.decode
            )
            if split != _plus(situation.current, prefill, decode):
                clamps.append(f"bounds allow no more than {split}")
            return Chosen(move=move, clamps=tuple(clamps))
    return Chosen(clamps=(*waiting, *clamps) if not counts else (*clamps, "bounds allow no growth"))


def _growths(current: Split, prefill: int, decode: int) -> Iterator[Split]:
    """Yield grown splits, the largest growth first."""
    steps = [(p, d) for p in range(prefill + 1) for d in range(decode + 1) if p or d]
    for more_prefill, more_decode in sorted(steps, key=lambda step: -sum(step)):
        yield _plus(current, more_prefill, more_decode)


def _plus(split: Split, prefill: int, decode: int) -> Split:
    return Split(prefill=split.prefill + prefill, decode=split.decode + decode)


def _over_maximum(bounds: Bounds, split: Split) -> bool:
    """Whether a split breaks an upper limit: growing out of a forbidden split must not break another bound."""
    over_budget = bounds.budget_max is not None and bounds.cost(split) > bounds.budget_max
    return over_budget or split.prefill > bounds.prefill_max or split.decode > bounds.decode_max


def _shrink(situation: Situation) -> Chosen:
    clamps: list[str] = []
    busy = _unrest(situation)
    if busy:
        return Chosen(clamps=(busy,))
    for role in Role:
        pool, size = situation.pool(role), situation.size(role)
        window_s = down_window_s(pool)
        wanted = size - _of(situation.steady(window_s), role)
        if wanted <= 0:
            clamps.append(f"{role.value}: shrinking was not wanted for {window_s:.0f} s")
            continue
        allowed = allowed_shrinking(pool.behavior.scale_down, situation.state.changes, role, size, situation.now_s)
        spare = _idlest(situation, role)[: situation.observation.count(role, Stage.SERVING) - 1]
        for count in range(min(wanted, allowed, len(spare)), 0, -1):
            after = _plus(situation.current, *((-count, 0) if role is Role.PREFILL else (0, -count)))
            if _may_shrink_to(situation, after):
                return Chosen(move=RemoveWorkers(workers=tuple(spare[:count]), role=role))
        clamps.append(f"{role.value}: behavior, bounds or promises allow no removal")
    return Chosen(clamps=tuple(clamps))


def _may_shrink_to(situation: Situation, after: Split) -> bool:
    """A smaller split must be allowed; where load decides, it must also keep every promise with room."""
    if situation.bounds.forbids(situation.current):
        return after.prefill >= situation.bounds.prefill_min and after.decode >= situation.bounds.decode_min
    if situation.bounds.forbids(after):
        return False
    if situation.spec.strategy not in {Strategy.SLO, Strategy.LOAD} or not situation.spec.classes.promises():
        return True
    return situation.judge.judge(after).stress <= situation.spec.damping.safety


def _of(split: Split, role: Role) -> int:
    return split.prefill if role is Role.PREFILL else split.decode


def _unrest(situation: Situation) -> str:
    """While something comes or goes, nothing is taken away."""
    for worker in situation.observation.workers:
        if worker.stage in {Stage.STARTING, Stage.DRAINING}:
            return f"{worker.worker_id} is {worker.stage.value}: nothing is switched or removed meanwhile"
    return ""


def _idlest(situation: Situation, role: Role) -> list[WorkerId]:
    """Return the serving workers of a role, the one with the least to drain first."""
    serving = [w for w in situation.observation.workers if w.role is role and w.stage is Stage.SERVING]
    return [
        w.worker_id
        for w in sorted(
            serving, key=lambda w: (w.load.num_running + w.load.num_waiting, w.load.running_context_tokens, w.worker_id)
        )
    ]
