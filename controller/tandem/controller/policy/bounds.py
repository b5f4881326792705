"""How many workers are allowed: pools, ratio and budget as one question. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tandem.controller.policy.base import ratio_of
from tandem.controller.policy.pools import PoolPolicy, PoolsSection
from tandem.controller.policy.schedule import PoolOverride, Schedule
from tandem.controller.policy.sections import BudgetSection, RatioSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Workers of each role."""

    prefill: int
    decode: int

    def __str__(self) -> str:
        return f"{self.prefill}:{self.decode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The allowed splits at one moment."""

    prefill_min: int
    prefill_max: int
    decode_min: int
    decode_max: int
    ratio_min: Fraction
    ratio_max: Fraction
    prefill_cost: float = 1.0  # accelerators per worker
    decode_cost: float = 1.0
    budget_min: float = 0.0
    budget_max: float | None = None  # None = no limit but the pools'

    def cost(self, split: Split) -> float:
        """Accelerators of a split."""
        return split.prefill * self.prefill_cost + split.decode * self.decode_cost

    def decodes_beside(self, num_prefill: int) -> range:
        """Return how many decode workers may stand beside so many prefill workers; empty when none may."""
        low = max(self.decode_min, math.ceil(num_prefill / self.ratio_max))
        high = min(self.decode_max, math.floor(num_prefill / self.ratio_min))
        spent = num_prefill * self.prefill_cost
        low = max(low, math.ceil((self.budget_min - spent) / self.decode_cost))
        if self.budget_max is not None:
            high = min(high, math.floor((self.budget_max - spent) / self.decode_cost))
        return range(low, high + 1)

    def splits(self) -> Iterator[Split]:
        """Yield every allowed split."""
        for num_prefill in range(self.prefill_min, self.prefill_max + 1):
            for num_decode in self.decodes_beside(num_prefill):
                yield Split(prefill=num_prefill, decode=num_decode)

    def is_empty(self) -> bool:
        """Whether no split is allowed."""
        return next(self.splits(), None) is None

    def forbids(self, split: Split) -> str:
        """Return which bound forbids a split, in words; empty = allowed."""
        for role, count, low, high in (
            ("prefill", split.prefill, self.prefill_min, self.prefill_max),
            ("decode", split.decode, self.decode_min, self.decode_max),
        ):
            if not low <= count <= high:
                return f"{count} {role} workers are outside {low}..{high}"
        cost = self.cost(split)
        if self.budget_max is not None and cost > self.budget_max:
            return f"{cost:g} accelerators are above budget.max {self.budget_max:g}"
        if cost < self.budget_min:
            return f"{cost:g} accelerators are below budget.min {self.budget_min:g}"
        ratio = Fraction(split.prefill, split.decode)
        if not self.ratio_min <= ratio <= self.ratio_max:
            return f"{split} is outside the ratio {_words(self.ratio_min)} to {_words(self.ratio_max)}"
        return ""


def _words(ratio: Fraction) -> str:
    return f"{ratio.numerator}:{ratio.denominator}"


def bounds_of(
    pools: PoolsSection, ratio: RatioSection, budget: BudgetSection | None, schedules: tuple[Schedule, ...]
) -> Bounds:
    """Return the bounds while exactly ``schedules`` are active, the last one winning field by field."""
    for schedule in schedules:
        budget = schedule.budget or budget
    prefill = _overridden(pools.prefill, [s.pools.prefill for s in schedules])
    decode = _overridden(pools.decode, [s.pools.decode for s in schedules])
    return Bounds(
        prefill_min=prefill.min_replicas,
        prefill_max=prefill.max_replicas,
        decode_min=decode.min_replicas,
        decode_max=decode.max_replicas,
        ratio_min=ratio_of(ratio.min),
        ratio_max=ratio_of(ratio.max),
        prefill_cost=prefill.accelerators_per_worker,
        decode_cost=decode.accelerators_per_worker,
        budget_min=budget.min if budget else 0.0,
        budget_max=budget.max if budget else None,
    )


def fixed_split(pools: PoolsSection, schedules: tuple[Schedule, ...]) -> Split | None:
    """Return the counts of strategy Fixed while ``schedules`` are active; None when a pool names none."""
    prefill = _overridden(pools.prefill, [s.pools.prefill for s in schedules]).replicas
    decode = _overridden(pools.decode, [s.pools.decode for s in schedules]).replicas
    return None if prefill is None or decode is None else Split(prefill=prefill, decode=decode)


def _overridden(pool: PoolPolicy, overrides: list[PoolOverride | None]) -> PoolPolicy:
    for override in overrides:
        if override is not None:
            pool = pool.model_copy(update=override.model_dump(exclude_none=True))
    return pool
