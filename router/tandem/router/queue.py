"""The central queue: who is placed next. Zero I/O.

Order of what ``peek`` shows:

1. requests that are placed *again* after a failure (they were served once; their clients see a pause);
2. class: interactive before standard before batch, with a floor: while batch waits, every unit of work given to another
   class earns batch ``batch_floor`` units, and batch goes first when it has earned its head's cost;
3. inside a class, fairness between tenants by virtual counters (VTC, Sheng et al. 2024): a tenant's counter grows by
   what it was given costs (see ``admission.cost``), divided by its weight; the lowest counter is served; a tenant that
   was idle is lifted to the lowest counter of those that wait, so idleness earns nothing;
4. inside a tenant, the earliest deadline, then the earliest arrival.

A charge is an estimate until the request ends; then the difference to what it was worth is settled. Whether a newcomer
may wait at all is decided before (see ``admission``), from what ``ahead_of`` says. Cancelling is O(1): the entry is
marked and skipped when it surfaces; heaps are rebuilt when more than half of their entries are marked.
"""

import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.backlog import NOTHING, Backlog, batch_ahead, class_ahead, fair_ahead, total
from tandem.router.admission.shedding import CLASSES as _CLASSES
from tandem.router.admission.shedding import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How much may wait. Seconds are of predicted work in the same and more urgent classes, per prefill worker."""

    max_count: int = 4096
    max_work_s: Mapping[PriorityClass, float] = field(
        default_factory=lambda: {
            PriorityClass.INTERACTIVE: 10.0,
            PriorityClass.STANDARD: 30.0,
            PriorityClass.BATCH: 120.0,
        }
    )
    batch_floor: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """One waiting request. ``cost_tokens`` is what its tenant is charged; ``work_s`` is predicted prefill time.

    ``is_paid``: it was taken before and gave its place to another, so it is not charged again.
    """

    request_id: RequestId
    tenant: Tenant
    priority: PriorityClass
    cost_tokens: float
    work_s: float
    deadline_s: float | None
    arrived_s: float
    num_sequences: int = 1
    kv_tokens: int = 0
    is_paid: bool = False

    @property
    def backlog(self) -> Backlog:
        """What it adds to what waits."""
        return Backlog(
            cost_tokens=self.cost_tokens,
            work_s=self.work_s,
            num_sequences=self.num_sequences,
            kv_tokens=self.kv_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A request that left the queue for a moment, and what its tenant and its class were charged for that."""

    entry: QueueEntry
    charge: float  # of its tenant's counter
    earned: float  # by batch, with it; negative = spent


class _TenantLine:
    """The waiting requests of one tenant in one class, earliest deadline first."""

    __slots__ = ("backlog", "heap", "num_live")

    def __init__(self) -> None:
        self.heap: list[tuple[float, float, int, RequestId]] = []
        self.num_live = 0
        self.backlog = NOTHING


class CentralQueue:
    """Waiting requests in the order in which they are to be placed."""

    def __init__(self, bounds: QueueBounds, weights: Mapping[Tenant, float] | None = None) -> None:
        self.bounds = bounds
        self.weights = dict(weights or {})
        self._entries: dict[RequestId, QueueEntry] = {}
        self._again: dict[RequestId, QueueEntry] = {}
        self._lines: dict[PriorityClass, dict[Tenant, _TenantLine]] = {c: {} for c in _CLASSES}
        self._counters: dict[Tenant, float] = {}
        self._last_left = 0.0  # counter of the last tenant that stopped waiting: where newcomers begin
        self._in_class = dict.fromkeys(_CLASSES, NOTHING)
        self._batch_earned = 0.0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._again)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._entries or request_id in self._again

    def work_ahead_s(self, priority: PriorityClass) -> float:
        """Predicted seconds of work that go before a new request of this class."""
        return sum(self._in_class[c].work_s for c in _CLASSES[: _CLASSES.index(priority) + 1])

    def ahead_of(self, entry: QueueEntry) -> Backlog:
        """Return what is served before ``entry``, were it pushed now; it counts as the last of its tenant's line."""
        again = total(waiting.backlog for waiting in self._again.values())
        own = fair_ahead(
            entry.tenant,
            waiting={tenant: line.backlog for tenant, line in self._lines[entry.priority].items()},
            counters=self._counters,
            start=self._start_of(entry.tenant),
            weights=self.weights,
        )
        urgent = again.plus(total(self._in_class[c] for c in _CLASSES[: _CLASSES.index(entry.priority)]))
        floor = self.bounds.batch_floor
        if entry.priority is PriorityClass.BATCH:
            return batch_ahead(urgent=urgent, own=own, cost_tokens=entry.cost_tokens, batch_floor=floor)
        return class_ahead(urgent=urgent, own=own, batch=self._in_class[PriorityClass.BATCH], batch_floor=floor)

    def waiting(self) -> Backlog:
        """All that waits."""
        return self.waiting_urgent().plus(self._in_class[PriorityClass.BATCH])

    def waiting_urgent(self) -> Backlog:
        """All that waits and is not batch."""
        again = total(entry.backlog for entry in self._again.values())
        return again.plus(total(self._in_class[c] for c in _CLASSES if c is not PriorityClass.BATCH))

    def num_by_class(self) -> Mapping[PriorityClass, int]:
        """How many requests of each class wait, those placed again included."""
        counts = {c: sum(line.num_live for line in lines.values()) for c, lines in self._lines.items()}
        for entry in self._again.values():
            counts[entry.priority] += 1
        return counts

    def costs(self) -> Mapping[PriorityClass, Mapping[Tenant, float]]:
        """Cost of what waits, by class and tenant."""
        return {c: {tenant: line.backlog.cost_tokens for tenant, line in self._lines[c].items()} for c in _CLASSES}

    def newest_of(self, line: Line) -> RequestId | None:
        """The request that joined that line last."""
        heap = self._lines[line.priority][line.tenant].heap if line.tenant in self._lines[line.priority] else ()
        live = (item for item in heap if item[3] in self._entries)
        newest = max(live, key=lambda item: item[2], default=None)
        return None if newest is None else newest[3]

    def push(self, entry: QueueEntry) -> None:
        """Add a new request."""
        line = self._lines[entry.priority].setdefault(entry.tenant, _TenantLine())
        if not self._waits(entry.tenant):
            self._lift(entry.tenant)
        self._sequence += 1
        deadline_s = math.inf if entry.deadline_s is None else entry.deadline_s
        heapq.heappush(line.heap, (deadline_s, entry.arrived_s, self._sequence, entry.request_id))
        line.num_live += 1
        line.backlog = line.backlog.plus(entry.backlog)
        self._entries[entry.request_id] = entry
        self._in_class[entry.priority] = self._in_class[entry.priority].plus(entry.backlog)

    def push_again(self, entry: QueueEntry) -> None:
        """Add a request that was placed before and failed there; it is not charged a second time."""
        self._again[entry.request_id] = entry

    def peek(self) -> QueueEntry | None:
        """The request to be placed next, or None."""
        if self._again:
            return next(iter(self._again.values()))
        if not self._entries:
            return None
        priority = self._next_class()
        return self._head(priority, self._next_tenant(priority))

    def following(self, head: QueueEntry, most: int) -> list[QueueEntry]:
        """Return at most ``most`` entries that come after ``head``, as if each had been taken before the next.

        The order of ``peek``, but that batch comes last whatever it has earned.
        """
        found = [entry for entry in itertools.islice(self._again.values(), most + 1) if entry is not head]
        counters = dict(self._counters)
        for priority in _CLASSES:
            if len(found) >= most:
                break
            found += self._following_in(priority, head, most - len(found), counters)
        return found[:most]

    def _following_in(
        self, priority: PriorityClass, head: QueueEntry, most: int, counters: dict[Tenant, float]
    ) -> list[QueueEntry]:
        # Each entry comes of the lowest counter, and taking it raises that one alone: no further tenants can be in it.
        first = heapq.nsmallest(most + 1, self._lines[priority], key=lambda name: (counters[name], name))
        lines = {tenant: self._first_of(priority, tenant, most + 1) for tenant in first}
        found: list[QueueEntry] = []
        while lines and len(found) < most:
            tenant = min(lines, key=lambda name: (counters[name], name))
            entry = lines[tenant].pop(0)
            if not lines[tenant]:
                del lines[tenant]
            counters[tenant] += entry.cost_tokens / self.weights.get(tenant, 1.0)
            if entry is not head:
                found.append(entry)
        return found

    def _first_of(self, priority: PriorityClass, tenant: Tenant, most: int) -> list[QueueEntry]:
        heap = (item for item in self._lines[priority][tenant].heap if item[3] in self._entries)
        return [self._entries[item[3]] for item in heapq.nsmallest(most, heap)]

    def take(self, entry: QueueEntry) -> None:
        """Remove ``entry`` because it was placed, and charge its tenant."""
        if self._again.pop(entry.request_id, None) is not None:
            return
        self.discard(entry.request_id)
        charge = 0.0 if entry.is_paid else entry.cost_tokens / self.weights.get(entry.tenant, 1.0)
        self._counters[entry.tenant] = self._counters.get(entry.tenant, 0.0) + charge
        if not self._waits(entry.tenant):
            self._last_left = self._counters[entry.tenant]
        batch_waits = any(line.num_live for line in self._lines[PriorityClass.BATCH].values())
        if entry.priority is PriorityClass.BATCH:
            self._batch_earned = max(0.0, self._batch_earned - entry.cost_tokens)
        elif batch_waits:
            self._batch_earned += self.bounds.batch_floor * entry.cost_tokens
        if not batch_waits:
            self._batch_earned = 0.0

    def set_aside(self, entry: QueueEntry) -> SetAside:
        """Take ``entry``, never placed before, until it is placed or ``put_back``, or has ended: then ``refund``."""
        tenant, earned = entry.tenant, self._batch_earned
        before = self._counters.get(tenant, 0.0)
        self.take(entry)
        return SetAside(
            entry=entry, charge=self._counters.get(tenant, before) - before, earned=self._batch_earned - earned
        )

    def put_back(self, aside: SetAside) -> None:
        """It was not placed: it waits as before, at the place that its deadline and its arrival give it."""
        tenant = aside.entry.tenant
        self.refund(aside)
        counter = self._counters.get(tenant)
        self.push(aside.entry)
        if counter is not None:
            self._counters[tenant] = counter  # it was never away, so there is no idle time to make it pay for

    def refund(self, aside: SetAside) -> None:
        """It was not placed, and does not wait any more: as if it had been discarded."""
        tenant = aside.entry.tenant
        if tenant in self._counters:
            self._counters[tenant] -= aside.charge
        self._batch_earned = max(0.0, self._batch_earned - aside.earned)

    def settle(self, tenant: Tenant, cost_tokens: float) -> None:
        """What was taken for ``tenant`` was worth so much more than it was charged; negative = less."""
        if tenant in self._counters:
            self._counters[tenant] += cost_tokens / self.weights.get(tenant, 1.0)

    def discard(self, request_id: RequestId) -> QueueEntry | None:
        """Remove a request without charge (cancelled, past its deadline); None if it does not wait here."""
        entry = self._again.pop(request_id, None)
        if entry is not None:
            return entry
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return None
        self._in_class[entry.priority] = self._in_class[entry.priority].minus(entry.backlog)
        line = self._lines[entry.priority][entry.tenant]
        line.num_live -= 1
        line.backlog = line.backlog.minus(entry.backlog)
        if line.num_live == 0:
            del self._lines[entry.priority][entry.tenant]
            if not any(self._lines[entry.priority].values()):
                self._in_class[entry.priority] = NOTHING  # no drift from adding and subtracting floats
            if not self._waits(entry.tenant):
                self._last_left = self._counters.get(entry.tenant, 0.0)
                self._forget_idle_counters()
        elif line.num_live * 2 < len(line.heap):
            line.heap = [item for item in line.heap if item[3] in self._entries]
            heapq.heapify(line.heap)
        return entry

    def _waits(self, tenant: Tenant) -> bool:
        return any(tenant in lines and lines[tenant].num_live for lines in self._lines.values())

    def _lift(self, tenant: Tenant) -> None:
        self._counters[tenant] = self._start_of(tenant)

    def _start_of(self, tenant: Tenant) -> float:
        """The counter with which ``tenant`` goes on: its own while it waits, else lifted to the others'."""
        own = self._counters.get(tenant, 0.0)
        if self._waits(tenant):
            return own
        waiting = [self._counters[t] for lines in self._lines.values() for t, line in lines.items() if line.num_live]
        return max(own, min(waiting) if waiting else self._last_left)

    def _forget_idle_counters(self) -> None:
        """Keep memory bounded by tenants that wait: below the floor an idle counter says nothing (see ``_lift``)."""
        if len(self._counters) > 1024:
            self._counters = {t: c for t, c in self._counters.items() if self._waits(t) or c > self._last_left}

    def _next_class(self) -> PriorityClass:
        waiting = [c for c in _CLASSES if self._lines[c]]
        if PriorityClass.BATCH in waiting and len(waiting) > 1:
            head = self._head(PriorityClass.BATCH, self._next_tenant(PriorityClass.BATCH))
            if self._batch_earned >= head.cost_tokens:
                return PriorityClass.BATCH
        return waiting[0]

    def _next_tenant(self, priority: PriorityClass) -> Tenant:
        return min(self._lines[priority], key=lambda tenant: (self._counters[tenant], tenant))

    def _head(self, priority: PriorityClass, tenant: Tenant) -> QueueEntry:
        heap = self._lines[priority][tenant].heap
        while heap[0][3] not in self._entries:
            heapq.heappop(heap)
        return self._entries[heap[0][3]]
