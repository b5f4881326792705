"""Who comes first. Pure."""

import math
from dataclasses import dataclass

from tandem.core.types import PriorityClass

_RANK = {PriorityClass.INTERACTIVE: 0, PriorityClass.STANDARD: 1, PriorityClass.BATCH: 2}


@dataclass(frozen=True, slots=True, order=True)
class Urgency:
    """Sort key of an attempt, most urgent first: class, then first come first served, then the earlier deadline.

    The router has ordered requests already; ``tick`` counts engine steps, so only attempts that came between the same
    two steps are ordered by deadline. ``serial`` makes the order total.
    """

    rank: int
    tick: int
    deadline_s: float
    serial: int


def urgency(priority: PriorityClass, *, tick: int, deadline_s: float | None, serial: int) -> Urgency:
    """Return the sort key of one attempt."""
    return Urgency(_RANK[priority], tick, math.inf if deadline_s is None else deadline_s, serial)
