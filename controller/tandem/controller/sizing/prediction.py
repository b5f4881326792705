"""What a split would do to every promise. Pure.

Decoding, per worker, with token rate ``r``, cost per sequence ``k = b1 + b2·context`` and the share ``u`` of the time
that borrowed prompts take: with n sequences a step takes ``b0 + k·n``, so sequences end at the rate
``n·(1 - u) / (L·(b0 + k·n))``. That is processor sharing: the number of sequences is distributed negative-binomially,
whatever the lengths of answers look like::

    p         = r·k / (1 - u)                            the batch grows without end at 1
    batch     ~ NB(size b0/k + 1, p)                     mean (b0/k + 1)·p/(1-p), variance mean/(1-p)
    gap(q)    = (b0 + k·quantile(batch, q)) / (1 - u)

A Poisson number, which fits workers that do not slow down, would promise far too much near saturation. A mean gap
within one answer (TPOT) varies less than single gaps: averaging over a time as long as the batch remembers leaves 0.86
of the spread.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.controller.policy.bounds import Split
from tandem.controller.policy.slo import Objective, SloClass
from tandem.controller.sizing.demand import ClassDemand, Demand
from tandem.controller.sizing.queueing import Batch, WaitTail, priority_waits, quantile_s, shared_batch, utilization
from tandem.core.types import PriorityClass

_TPOT_SPREAD = math.sqrt(2.0 / math.e)
_SLOTS_SHARE = 0.95  # of the time, a decode worker must have a slot and blocks left


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One objective of one class, and what is predicted for it."""

    priority: PriorityClass
    objective: str
    percentile: float
    target_s: float
    predicted_s: float

    @property
    def stress(self) -> float:
        """Predicted over target: above 1 the promise is broken."""
        return self.predicted_s / self.target_s

    def __str__(self) -> str:
        shown = "without end" if math.isinf(self.predicted_s) else f"{self.predicted_s * 1e3:.0f} ms"
        return f"{self.priority.value} {self.objective} p{self.percentile:g} {shown} of {self.target_s * 1e3:.0f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One split, judged."""

    split: Split
    promises: tuple[Promise, ...]
    prefill_busy: float
    decode_busy: float
    decode_occupancy: float  # slots or KV that are taken 95 % of the time, of those there are
    capacity_stress: float  # the above against what may be used; above 1 work piles up

    @property
    def stress(self) -> float:
        """The worst promise or capacity; at most 1 when all is well."""
        return max([self.capacity_stress, *(promise.stress for promise in self.promises)])

    @property
    def worst(self) -> str:
        """What is closest to breaking, in words and numbers."""
        promise = max(self.promises, key=lambda each: each.stress, default=None)
        if promise is not None and promise.stress >= self.capacity_stress:
            return str(promise)
        return (
            f"busy {self.prefill_busy:.0%} prefill, {self.decode_busy:.0%} decode, "
            f"slots and KV {self.decode_occupancy:.0%}"
        )

    def badness(self) -> tuple[float, ...]:
        """Order of splits that break something, best first: urgent classes, then the worst, then how busy it is."""
        by_class = [
            max([1.0, *(promise.stress for promise in self.promises if promise.priority is priority)])
            for priority in PriorityClass
        ]
        return (*by_class, max(self.stress, 1.0), max(self.prefill_busy, self.decode_busy), self.stress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoding:
    busy: float
    occupancy: float
    batch: Batch | None  # None = it grows without end
    per_sequence_s: float
    base_s: float
    lent: float  # share of the time that borrowed prompts take

    def gap_s(self, share: float, spread: float = 1.0) -> float:
        if self.batch is None:
            return math.inf
        count = self.batch.mean + spread * (self.batch.quantile(share) - self.batch.mean)
        return (self.base_s + self.per_sequence_s * max(count, 1.0)) / (1.0 - self.lent)


class SplitJudge:
    """Judges splits under one demand; equal questions are answered once.

    ``corrections`` multiply predictions of (class, objective) that measurements have shown to be too good.
    """

    def __init__(
        self,
        demand: Demand,
        promises: Mapping[PriorityClass, SloClass],
        *,
        catch_up_s: float,
        max_utilization: float,
        corrections: Mapping[tuple[PriorityClass, str], float] | None = None,
    ) -> None:
        self.demand = demand
        self._promises = promises
        self._catch_up_s = catch_up_s
        self._max_utilization = max_utilization
        self._corrections = dict(corrections or {})
        self._judged: dict[tuple[Split, float], Prediction] = {}
        self._quantiles: dict[tuple[WaitTail, tuple[float, ...], float], float] = {}  # many splits share a pool's size

    def judge(self, split: Split, lent_share: float = 0.0) -> Prediction:
        """Return what ``split`` would do, with ``lent_share`` of the prompts computed by decode workers."""
        key = (split, lent_share)
        if key not in self._judged:
            self._judged[key] = self._judge(split, lent_share)
        return self._judged[key]

    def _judge(self, split: Split, lent_share: float) -> Prediction:
        streams = [demand.stream(1.0 - lent_share) for demand in self.demand.classes]
        backlog = self.demand.backlog_s * (1.0 - lent_share) / (split.prefill * self._catch_up_s)
        prefill_busy = utilization(split.prefill, streams) + backlog
        tails = priority_waits(
            split.prefill, streams, arrival_scv=self.demand.arrival_scv, extra_busy=min(backlog, 1.0)
        )
        decoding = self._decoding(split.decode, lent_share)
        promises = [
            promise
            for demand, tail in zip(self.demand.classes, tails, strict=True)
            if demand.priority in self._promises
            for promise in self._promises_of(demand, tail, decoding)
        ]
        return Prediction(
            split=split,
            promises=tuple(promises),
            prefill_busy=prefill_busy,
            decode_busy=decoding.busy,
            decode_occupancy=decoding.occupancy,
            capacity_stress=max(
                prefill_busy / self._max_utilization, decoding.busy / self._max_utilization, decoding.occupancy
            ),
        )

    def _decoding(self, num_workers: int, lent_share: float) -> _Decoding:
        base_s, per_sequence, per_token = self.demand.decode_model.coefficients.step
        tokens_per_s = self.demand.tokens_per_s
        context = 0.0
        if tokens_per_s > 0.0:
            weighted = sum(demand.tokens_per_s * demand.context_tokens for demand in self.demand.classes)
            context = weighted / tokens_per_s
        cost_s = per_sequence + per_token * context
        lent = sum(demand.rate_per_s * demand.local_s for demand in self.demand.classes) * lent_share / num_workers
        allowed = self._allowed_batch(base_s, cost_s, lent)
        rate = (tokens_per_s + self._overdue_tokens(num_workers * allowed) / self._catch_up_s) / num_workers
        batch = shared_batch(rate_per_s=rate, base_s=base_s, cost_s=cost_s, lent=lent)
        slots = min(float(self.demand.max_sequences), self.demand.kv_tokens / context if context else math.inf)
        taken = math.inf if batch is None else batch.quantile(_SLOTS_SHARE)
        return _Decoding(
            busy=lent + rate * cost_s,
            occupancy=taken / max(slots, 1.0),
            batch=batch,
            per_sequence_s=cost_s,
            base_s=base_s,
            lent=min(lent, 1.0),
        )

    def _allowed_batch(self, base_s: float, cost_s: float, lent: float) -> float:
        """Return how many sequences a decode worker may hold at once so that every promised gap is kept."""
        slots = float(self.demand.max_sequences)
        targets = [
            objective.target_s
            for demand in self.demand.classes
            if (promised := self._promises.get(demand.priority)) is not None
            for objective in (promised.itl, promised.tpot)
            if objective is not None
        ]
        if not targets or cost_s <= 0.0:
            return slots
        return min(max((min(targets) * (1.0 - min(lent, 1.0)) - base_s) / cost_s, 1.0), slots)

    def _overdue_tokens(self, allowed: float) -> float:
        """Return the output tokens of the requests under way that are more than can be written in time side by side.

        Those that can are what the arrivals bring anyway: a batch is no backlog.
        """
        too_many = self.demand.num_open - allowed
        return max(too_many, 0.0) * self.demand.left_tokens / max(self.demand.num_open, 1)

    def _promises_of(self, demand: ClassDemand, tail: WaitTail, decoding: _Decoding) -> list[Promise]:
        promised = self._promises[demand.priority]
        found = []
        for name, objective in (
            ("ttft", promised.ttft),
            ("itl", promised.itl),
            ("tpot", promised.tpot),
            ("e2e", promised.e2e),
        ):
            if objective is not None:
                predicted_s = self._predicted_s(name, objective, demand, tail, decoding)
                correction = self._corrections.get((demand.priority, name), 1.0)
                found.append(
                    Promise(
                        priority=demand.priority,
                        objective=name,
                        percentile=objective.percentile,
                        target_s=objective.target_s,
                        predicted_s=predicted_s * correction,
                    )
                )
        return found

    def _predicted_s(
        self, name: str, objective: Objective, demand: ClassDemand, tail: WaitTail, decoding: _Decoding
    ) -> float:
        share = objective.percentile / 100.0
        if name == "itl":
            return decoding.gap_s(share)
        tpot_s = decoding.gap_s(share, _TPOT_SPREAD)
        if name == "tpot":
            return tpot_s
        if math.isinf(tail.mean_s) or (name == "e2e" and math.isinf(tpot_s)):
            return math.inf
        fixed = demand.prefill_s
        if name == "e2e":
            fixed = tuple(first + count * tpot_s for first, count in zip(fixed, demand.output_tokens, strict=True))
        return self._quantile_s(tail, fixed, share)

    def _quantile_s(self, tail: WaitTail, fixed: tuple[float, ...], share: float) -> float:
        """Return the quantile of a wait plus one of ``fixed``, each as likely as the other."""
        key = (tail, fixed, share)
        if key not in self._quantiles:
            wait_s = tail.mean_s * max(math.log(max(tail.probability, 1e-12) / (1.0 - share)), 0.0)
            self._quantiles[key] = quantile_s(
                lambda t: sum(tail.exceeds(t - each) for each in fixed) / len(fixed),
                share=share,
                high_s=max(fixed) + wait_s,
            )
        return self._quantiles[key]
