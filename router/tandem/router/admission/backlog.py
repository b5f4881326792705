"""What waits ahead of a newcomer in a queue that serves classes strictly and tenants fairly. Pure.

The queue serves, among the tenants of one class, the one with the lowest counter, and adds to it what the request cost
(divided by the tenant's weight). So a newcomer of tenant u, behind u's own backlog B_u, is served when u's counter has
come to ``T = c_u + B_u / w_u``; until then every other tenant v is served what lifts it to T, at most all it has::

    ahead = B_u + Σ_v min(B_v, (T - c_v) · w_v)

A flood of v alone therefore does not make u wait: that is what admission has to know, or it would refuse u for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tandem.core.ids import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Waiting work: what it costs its tenant, and what it needs of each stage."""

    cost_tokens: float = 0.0
    work_s: float = 0.0  # predicted prefill seconds
    num_sequences: float = 0.0  # slots of decode workers; a fraction of a request counts as such
    kv_tokens: float = 0.0  # KV to reserve on decode workers

    def plus(self, other: "Backlog") -> "Backlog":
        """Both."""
        return Backlog(
            cost_tokens=self.cost_tokens + other.cost_tokens,
            work_s=self.work_s + other.work_s,
            num_sequences=self.num_sequences + other.num_sequences,
            kv_tokens=self.kv_tokens + other.kv_tokens,
        )

    def minus(self, other: "Backlog") -> "Backlog":
        """What is left without the other, which is part of it."""
        return Backlog(
            cost_tokens=max(self.cost_tokens - other.cost_tokens, 0.0),
            work_s=max(self.work_s - other.work_s, 0.0),
            num_sequences=max(self.num_sequences - other.num_sequences, 0.0),
            kv_tokens=max(self.kv_tokens - other.kv_tokens, 0.0),
        )

    def times(self, share: float) -> "Backlog":
        """That share of it."""
        return Backlog(
            cost_tokens=self.cost_tokens * share,
            work_s=self.work_s * share,
            num_sequences=self.num_sequences * share,
            kv_tokens=self.kv_tokens * share,
        )

    def up_to(self, cost_tokens: float) -> "Backlog":
        """The part of it that costs at most so much."""
        if self.cost_tokens <= cost_tokens:
            return self
        return self.times(max(cost_tokens, 0.0) / self.cost_tokens)


NOTHING = Backlog()


def total(parts: Iterable[Backlog]) -> Backlog:
    """The sum. Plain floats: there may be thousands of tenants, and an object for each costs ten times as much."""
    cost_tokens = work_s = num_sequences = kv_tokens = 0.0
    for part in parts:
        cost_tokens += part.cost_tokens
        work_s += part.work_s
        num_sequences += part.num_sequences
        kv_tokens += part.kv_tokens
    return Backlog(cost_tokens=cost_tokens, work_s=work_s, num_sequences=num_sequences, kv_tokens=kv_tokens)


def fair_ahead(
    tenant: Tenant,
    *,
    waiting: Mapping[Tenant, Backlog],
    counters: Mapping[Tenant, float],
    start: float,
    weights: Mapping[Tenant, float],
) -> Backlog:
    """Return what one class serves before a newcomer of ``tenant``, whose counter is ``start`` when it joins."""
    own = waiting.get(tenant, NOTHING)
    turn = start + own.cost_tokens / weights.get(tenant, 1.0)
    return total(
        backlog if name == tenant else backlog.up_to((turn - counters.get(name, 0.0)) * weights.get(name, 1.0))
        for name, backlog in waiting.items()
        if name == tenant or counters.get(name, 0.0) < turn
    )


def class_ahead(*, urgent: Backlog, own: Backlog, batch: Backlog, batch_floor: float) -> Backlog:
    """Return what goes before a newcomer of a class that is not batch.

    ``urgent`` is all that waits in more urgent classes, ``own`` what its own class serves first; batch gets its floor
    of that on top, as far as any of it waits.
    """
    first = urgent.plus(own)
    return first.plus(batch.up_to(batch_floor * first.cost_tokens))


def batch_ahead(*, urgent: Backlog, own: Backlog, cost_tokens: float, batch_floor: float) -> Backlog:
    """The same for a newcomer of the batch class: it waits for the rest, but never beyond what its floor earns it."""
    if batch_floor <= 0.0:
        return urgent.plus(own)
    return own.plus(urgent.up_to((own.cost_tokens + cost_tokens) / batch_floor))
