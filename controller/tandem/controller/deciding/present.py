"""How the present split does with what the fastest speed can add: whether anything slower is needed at all. Pure."""

import math
from dataclasses import dataclass

from tandem.controller.deciding.values import Borrow
from tandem.controller.observation import Observation
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import PolicySpec
from tandem.controller.sizing.correction import shortfall
from tandem.controller.sizing.prediction import Prediction, SplitJudge

_STEP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The present split as it is predicted to do, and as it is measured to do."""

    borrow: Borrow
    lent: Prediction  # with what is borrowed
    sure: Prediction  # the same, were the rates what they are without what chance may have added
    misses: bool  # promises are being missed, by more than chance

    @property
    def suffices(self) -> bool:
        """Whether the promises are predicted to be kept without a move, or nothing but chance says otherwise."""
        return self.lent.stress <= 1.0 or (self.sure.stress <= 1.0 and not self.misses)


def present_of(
    spec: PolicySpec, observation: Observation, current: Split, *, judge: SplitJudge, sure: SplitJudge
) -> Present:
    """Return how ``current`` does; ``sure`` judges under rates that are lower by their standard errors."""
    borrow, lowered = borrow_for(spec, judge, current), borrow_for(spec, sure, current)
    return Present(
        borrow=borrow,
        lent=judge.judge(current, borrow.share),
        sure=sure.judge(current, lowered.share),
        misses=_misses(spec, observation),
    )


def borrow_for(spec: PolicySpec, judge: SplitJudge, current: Split) -> Borrow:
    """Return the least share that lets every promise be kept; if none does, the share that is least bad."""
    plain = judge.judge(current)
    if not spec.borrow.enabled or plain.stress <= 1.0:
        return Borrow()
    best, best_share = plain, 0.0
    for step in range(1, math.floor(spec.borrow.max_share / _STEP + 1e-9) + 1):
        share = round(step * _STEP, 2)
        lent = judge.judge(current, share)
        if lent.badness() < best.badness():
            best, best_share = lent, share
        if lent.stress <= 1.0:
            break
    if best_share == 0.0:
        return Borrow(reason=f"decode workers can't help: {plain.worst}")
    return Borrow(share=best_share, reason=f"{plain.worst}; with {best_share:.0%} borrowed {best.worst}")


def lent(spec: PolicySpec, judge: SplitJudge, split: Split) -> Prediction:
    """Return what ``split`` would do with what it would best borrow."""
    return judge.judge(split, borrow_for(spec, judge, split).share)


def _misses(spec: PolicySpec, observation: Observation) -> bool:
    return any(
        shortfall(1.0 - traffic.missed_now, promised.attainment, traffic.num_latest) > 0.0
        for priority, promised in spec.classes.promises().items()
        if (traffic := observation.traffic.get(priority)) is not None
    )
