"""What each strategy would have if it could have it at once. Pure; damping comes after."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tandem.controller.deciding.present import Present, lent
from tandem.controller.observation import Observation, Stage, WorkerSeen
from tandem.controller.policy.base import ratio_of
from tandem.controller.policy.behavior import ScalingRules
from tandem.controller.policy.bounds import Bounds, Split
from tandem.controller.policy.model import PolicySpec, Strategy
from tandem.controller.policy.pools import PoolPolicy
from tandem.controller.sizing.prediction import Prediction, SplitJudge
from tandem.core.types import Role

_REACH = 16  # how far from the present counts a split is looked for in one round
_HPA_TOLERANCE = 0.1
_MOST_LENT = 12  # splits that are looked at with all that they might borrow: ten times the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """A split, and why."""

    split: Split
    reason: str


def wish(
    spec: PolicySpec,
    observation: Observation,
    *,
    bounds: Bounds,
    current: Split,
    judge: SplitJudge,
    present: Present,
    unix_s: float,
) -> Wished:
    """Return what the policy's strategy wants; always an allowed split."""
    if spec.strategy is Strategy.SLO:
        return _slo(spec, bounds, current, judge, present)
    if spec.strategy is Strategy.LOAD:
        wanted = _load(spec, observation, current)
    elif spec.strategy is Strategy.RATIO:
        wanted = _ratio(spec, bounds, current)
    else:
        fixed = spec.fixed_split_at(unix_s) or current
        wanted = Wished(split=fixed, reason=f"strategy Fixed wants {fixed}")
    problem = bounds.forbids(wanted.split)
    if not problem:
        return wanted
    nearest = nearest_allowed(bounds, wanted.split)
    return Wished(split=nearest, reason=f"{wanted.reason}; {problem}, so {nearest}")


def nearest_allowed(bounds: Bounds, split: Split) -> Split:
    """Return the allowed split that differs by the fewest workers; the cheaper of two."""
    return min(bounds.splits(), key=lambda each: (distance(each, split), bounds.cost(each), each.prefill))


def distance(one: Split, other: Split) -> int:
    """Workers by which two splits differ; a switched worker counts once."""
    prefill, decode = one.prefill - other.prefill, one.decode - other.decode
    return max(abs(prefill), abs(decode)) if prefill * decode < 0 else abs(prefill) + abs(decode)


# --- Slo ----------------------------------------------------------------------------------------------------------


def _slo(spec: PolicySpec, bounds: Bounds, current: Split, judge: SplitJudge, present: Present) -> Wished:
    """The cheapest split that keeps every promise, the present one before its equals; else the least bad.

    While the present split keeps them, be it with what is borrowed, only cheaper ones are looked at. A split that has
    fewer workers somewhere must keep the promises with room (``safety``), so that what was removed is not missed a
    minute later.
    """
    now = judge.judge(current)
    candidates = [judge.judge(split) for split in _around(bounds, current)]
    if present.suffices and not bounds.forbids(current):
        return _saving(spec, bounds, candidates, now=now, present=present)
    best = _cheapest_good(candidates, bounds, current, spec)
    if best is None:  # no split does it alone: which does best with what it would borrow?
        now = present.lent
        likely = sorted(candidates, key=lambda each: (each.badness(), distance(each.split, current)))[:_MOST_LENT]
        candidates = [lent(spec, judge, each.split) for each in likely]
        best = _cheapest_good(candidates, bounds, current, spec)
    if best is None:
        best = min(candidates, key=lambda each: (each.badness(), distance(each.split, current)))
    if best.split != current and not bounds.forbids(current) and not _is_worth_it(now, best, bounds, spec):
        return Wished(split=current, reason=f"{current} stays: {best.split} would not be enough better ({now.worst})")
    return Wished(split=best.split, reason=_slo_reason(now, best, bounds))


def _cheapest_good(
    candidates: Sequence[Prediction], bounds: Bounds, current: Split, spec: PolicySpec
) -> Prediction | None:
    good = [each for each in candidates if each.stress <= _limit(each.split, current, spec.damping.safety)]
    return min(
        good, key=lambda each: (bounds.cost(each.split), distance(each.split, current), each.stress), default=None
    )


def _saving(
    spec: PolicySpec, bounds: Bounds, candidates: Sequence[Prediction], *, now: Prediction, present: Present
) -> Wished:
    """The present split, or a cheaper one that keeps every promise with room."""
    cost = bounds.cost(now.split)
    cheaper = [each for each in candidates if bounds.cost(each.split) < cost and each.stress <= spec.damping.safety]
    if not cheaper:
        return Wished(split=now.split, reason=_why_it_suffices(now, present))
    best = min(cheaper, key=lambda each: (bounds.cost(each.split), distance(each.split, now.split), each.stress))
    return Wished(split=best.split, reason=f"{best.split} is enough: {best.worst}")


def _why_it_suffices(now: Prediction, present: Present) -> str:
    if now.stress <= 1.0:
        return f"{now.split} keeps every promise: {now.worst}"
    if present.lent.stress <= 1.0:
        return f"{now.split} keeps every promise with {present.borrow.share:.0%} borrowed: {present.lent.worst}"
    return f"{now.split} stays while chance may be what makes it look short: {present.lent.worst}"


def _limit(split: Split, current: Split, safety: float) -> float:
    has_fewer = split.prefill < current.prefill or split.decode < current.decode
    return safety if has_fewer else 1.0


def _is_worth_it(now: Prediction, best: Prediction, bounds: Bounds, spec: PolicySpec) -> bool:
    """Saving accelerators and mending for good are worth it; otherwise the gain must be above the dead band."""
    if bounds.cost(best.split) < bounds.cost(now.split) and best.stress <= spec.damping.safety:
        return True
    if now.stress > 1.0 >= best.stress:
        for_good = best.stress <= spec.damping.safety or bounds.cost(best.split) > bounds.cost(now.split)
        return for_good or now.stress - best.stress > spec.damping.dead_band
    for before, after in zip(now.badness(), best.badness(), strict=True):
        if before == after:  # also two infinities
            continue
        return before - after > spec.damping.dead_band * (1.0 if math.isinf(before) else before)
    return False


def _slo_reason(now: Prediction, best: Prediction, bounds: Bounds) -> str:
    if best.split == now.split:
        return (
            f"{now.split} keeps every promise: {now.worst}" if now.stress <= 1 else f"no split is better: {now.worst}"
        )
    problem = bounds.forbids(now.split)
    if problem:
        return f"{problem}; {best.split} is predicted to have {best.worst}"
    if now.stress <= 1.0:
        return f"{best.split} is enough: {best.worst}"
    return f"{now.split} is predicted to have {now.worst}; {best.split}: {best.worst}"


def _around(bounds: Bounds, current: Split) -> Iterator[Split]:
    """Yield the allowed splits within reach, or, if the bounds lie far away, the nearest one."""
    found = False
    low = max(bounds.prefill_min, current.prefill - _REACH)
    for num_prefill in range(low, min(bounds.prefill_max, current.prefill + _REACH) + 1):
        decodes = bounds.decodes_beside(num_prefill)
        start = max(decodes.start, current.decode - _REACH)
        for num_decode in range(start, min(decodes.stop, current.decode + _REACH + 1)):
            found = True
            yield Split(prefill=num_prefill, decode=num_decode)
    if not found:
        yield nearest_allowed(bounds, current)


# --- Load, Ratio --------------------------------------------------------------------------------------------------


def _load(spec: PolicySpec, observation: Observation, current: Split) -> Wished:
    prefill_busy = min(observation.prefill_busy, 1.0) + observation.backlog_s / (
        max(current.prefill, 1) * spec.sizing.catch_up_s
    )
    serving = [w for w in observation.workers if w.role is Role.DECODE and w.stage is Stage.SERVING]
    decode_busy = sum(_decode_load(w, observation.max_sequences) for w in serving) / max(len(serving), 1)
    prefill = _pool_size(spec.pools.prefill, current.prefill, prefill_busy, _running(observation, Role.PREFILL))
    decode = _pool_size(spec.pools.decode, current.decode, decode_busy, _running(observation, Role.DECODE))
    split = Split(prefill=prefill, decode=decode)
    return Wished(split=split, reason=f"load {prefill_busy:.2f} prefill, {decode_busy:.2f} decode: {split}")


def _decode_load(worker: WorkerSeen, max_sequences: int) -> float:
    load = worker.load
    slots = (load.num_running + load.num_waiting) / max(max_sequences, 1)
    return max(slots, (load.total_blocks - load.free_blocks) / load.total_blocks if load.total_blocks else 0.0)


def _running(observation: Observation, role: Role) -> int:
    return sum(w.load.num_running + w.load.num_waiting for w in observation.workers if w.role is role)


def _pool_size(pool: PoolPolicy, size: int, load: float, num_running: int) -> int:
    target = pool.load.target_running
    if target is not None:
        wanted = max(math.ceil(num_running / target), 1)
        rules: ScalingRules = pool.behavior.scale_up if wanted > size else pool.behavior.scale_down
        tolerance = _HPA_TOLERANCE if rules.tolerance is None else rules.tolerance
        return size if abs(num_running / (target * max(size, 1)) - 1.0) <= tolerance + 1e-9 else wanted
    if load > pool.load.up:
        return size + 1
    if size > 1 and load * size / (size - 1) < pool.load.down:
        return size - 1
    return size


def _ratio(spec: PolicySpec, bounds: Bounds, current: Split) -> Wished:
    """The split nearest to the target of those that have as many accelerators as now, or as near to it as allowed."""
    target = ratio_of(spec.ratio.target or f"{current.prefill}:{current.decode}")
    cost = bounds.cost(current)

    def order(split: Split) -> tuple[float, float, int]:
        ratio = Fraction(split.prefill, split.decode)
        off = abs(math.log(ratio / target))
        return abs(bounds.cost(split) - cost), off, distance(split, current)

    best = min(bounds.splits(), key=order)
    return Wished(split=best, reason=f"strategy Ratio wants {spec.ratio.target}: {best}")
