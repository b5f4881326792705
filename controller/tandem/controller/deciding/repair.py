"""Workers that came back in another role than the one they died in: given that role again, at once. Pure.

A supervisor starts a worker as its plan says, in the role it was born with. The split, though, is what was decided
since, for reasons that a death does not change. So the way back is no move: it needs no dwell, no cool-down follows it,
and none holds it up. The orders are those of any switch, with every guard.
"""

from dataclasses import dataclass

from tandem.controller.deciding.values import SwitchRoles
from tandem.controller.observation import Observation, Stage
from tandem.controller.policy.bounds import Bounds, Split
from tandem.core.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A switch back, and why."""

    move: SwitchRoles
    split: Split
    reason: str


def repair_of(observation: Observation, current: Split, bounds: Bounds) -> Repair | None:
    """Return the switch that gives workers their roles back; None = nobody came back in another one."""
    for to in Role:
        now = Role.DECODE if to is Role.PREFILL else Role.PREFILL
        returned = [w.worker_id for w in observation.workers if w.died_as is to and w.stage is Stage.SERVING]
        returned = returned[: observation.count(now, Stage.SERVING) - 1]  # the last that serves stays
        if not returned:
            continue
        step = len(returned) if to is Role.PREFILL else -len(returned)
        split = Split(prefill=current.prefill + step, decode=current.decode - step)
        if bounds.forbids(split) and not bounds.forbids(current):
            continue
        names = ", ".join(returned)
        return Repair(
            move=SwitchRoles(workers=tuple(returned), to=to),
            split=split,
            reason=f"repair: {names} came back as {now.value}, after a life as {to.value}",
        )
    return None
