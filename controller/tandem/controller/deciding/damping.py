"""What has been wanted for long enough. Pure."""

from collections.abc import Sequence

from tandem.controller.deciding.pace import DEFAULT_DOWN_WINDOW_S
from tandem.controller.deciding.values import Wish
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import PolicySpec
from tandem.controller.policy.pools import PoolPolicy
from tandem.core.types import Role


def steady(wishes: Sequence[Wish], current: Split, now_s: float, window_s: float) -> Split:
    """Return the least that every wish of the last ``window_s`` agreed on; ``current`` where they did not.

    Before the window is filled nothing has been wanted for long enough.
    """
    if not wishes or wishes[0].time_s > now_s - window_s:
        return current
    begin = max(index for index, each in enumerate(wishes) if each.time_s <= now_s - window_s)
    recent = wishes[begin:]
    return Split(
        prefill=_agreed([each.split.prefill for each in recent], current.prefill),
        decode=_agreed([each.split.decode for each in recent], current.decode),
    )


def _agreed(values: Sequence[int], current: int) -> int:
    if min(values) > current:
        return min(values)
    return max(values) if max(values) < current else current


def switch_window_s(
    spec: PolicySpec, *, to: Role, last_to: Role | None, rested_s: float, is_urgent: bool = False
) -> float:
    """For how long a switch must have been wanted: longer when it undoes the last one, so that no wave is followed.

    ``is_urgent``: promises are being missed; then what was done last is no reason to wait.
    """
    if is_urgent:
        return spec.damping.dwell_s
    is_reverse = last_to is not None and last_to is not to and rested_s < 5 * spec.damping.cooldown_s
    return max(spec.damping.reverse_dwell_s, spec.damping.dwell_s) if is_reverse else spec.damping.dwell_s


def up_window_s(pool: PoolPolicy, spec: PolicySpec) -> float:
    """For how long growing must have been wanted."""
    window = pool.behavior.scale_up.stabilization_window_seconds
    return spec.damping.dwell_s if window is None else float(window)


def down_window_s(pool: PoolPolicy) -> float:
    """For how long shrinking must have been wanted."""
    window = pool.behavior.scale_down.stabilization_window_seconds
    return DEFAULT_DOWN_WINDOW_S if window is None else float(window)


def longest_window_s(spec: PolicySpec) -> float:
    """For how long wishes must be remembered."""
    pools = (spec.pools.prefill, spec.pools.decode)
    dwells = (spec.damping.dwell_s, spec.damping.reverse_dwell_s)
    return max(*dwells, *(up_window_s(p, spec) for p in pools), *(down_window_s(p) for p in pools))
