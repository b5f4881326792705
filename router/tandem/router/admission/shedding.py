"""Who is shed when not everybody fits, and when the shed one may come back. Pure.

Order: batch first; then the tenant that has the most waiting for its weight, if that is more than the newcomer's tenant
has; then the newest, which is the newcomer itself. Only *room in the queue* is won that way. A wait is not: what goes
before a newcomer goes there by right (see ``backlog``), so to shed it would be unfair and to shed the rest no help.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass

CLASSES = (PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH)

_SHORTEST_S, _LONGEST_S = 0.5, 30.0
_MOST_DOUBLINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Whose newest request loses its place."""

    priority: PriorityClass
    tenant: Tenant


def line_to_shorten(
    tenant: Tenant,
    priority: PriorityClass,
    *,
    waiting: Mapping[PriorityClass, Mapping[Tenant, float]],
    cost_tokens: float,
    weights: Mapping[Tenant, float],
) -> Line | None:
    """Return the line that loses one request for a newcomer; None: the newcomer is the one to be shed.

    ``waiting`` is the cost of what waits, by class and tenant.
    """
    for other in reversed(CLASSES):
        lines = waiting.get(other, {})
        if not lines:
            continue
        heaviest = max(lines, key=lambda name: (lines[name] / weights.get(name, 1.0), name))
        if CLASSES.index(other) > CLASSES.index(priority):
            return Line(priority=other, tenant=heaviest)
        if other is priority:
            own = (lines.get(tenant, 0.0) + cost_tokens) / weights.get(tenant, 1.0)
            is_over = heaviest != tenant and lines[heaviest] / weights.get(heaviest, 1.0) > own
            return Line(priority=other, tenant=heaviest) if is_over else None
    return None


def pushback_s(request_id: RequestId, *, wait_s: float, attempt: int) -> float:
    """Return when a shed caller may try again: the predicted wait, longer after each attempt, and not all at once.

    The jitter is ±20 %, drawn from the request's random id.
    """
    base_s = min(max(wait_s, _SHORTEST_S) * 2.0 ** min(max(attempt, 0), _MOST_DOUBLINGS), _LONGEST_S)
    draw = zlib.crc32(request_id.encode()) / 0xFFFFFFFF
    return base_s * (0.8 + 0.4 * draw)
