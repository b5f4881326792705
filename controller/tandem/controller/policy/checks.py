"""What the sections of a policy must agree on. Each complaint names the field to change."""

from tandem.controller.policy.base import complain
from tandem.controller.policy.bounds import Bounds, Split, bounds_of, fixed_split
from tandem.controller.policy.pools import PoolsSection
from tandem.controller.policy.schedule import Schedule
from tandem.controller.policy.sections import BudgetSection, FallbackSection, RatioSection, RoleSwitchSection


def check_role_switch(switch: RoleSwitchSection, pools: PoolsSection) -> None:
    """A worker that changes its role keeps its accelerators: both roles must count the same."""
    prefill, decode = pools.prefill.accelerators_per_worker, pools.decode.accelerators_per_worker
    if switch.enabled and prefill != decode:
        complain(
            ("roleSwitch", "enabled"),
            f"needs pools with the same acceleratorsPerWorker ({prefill:g} and {decode:g}); set it to false",
            switch.enabled,
        )


def check_some_split_is_allowed(pools: PoolsSection, ratio: RatioSection, budget: BudgetSection | None) -> None:
    """Pools, ratio and budget must leave at least one split."""
    bounds = bounds_of(pools, ratio, budget, ())
    smallest = Split(prefill=bounds.prefill_min, decode=bounds.decode_min)
    largest = Split(prefill=bounds.prefill_max, decode=bounds.decode_max)
    if budget is not None and bounds.cost(smallest) > budget.max:
        complain(
            ("budget", "max"),
            f"is below what minReplicas of both pools need ({bounds.cost(smallest):g}); raise it or lower those",
            budget.max,
        )
    if budget is not None and bounds.cost(largest) < budget.min:
        complain(
            ("budget", "min"),
            f"is above what maxReplicas of both pools can use ({bounds.cost(largest):g}); lower it or raise those",
            budget.min,
        )
    if bounds.is_empty():
        complain(
            ("ratio",),
            "no number of workers within minReplicas..maxReplicas and the budget has a ratio from "
            f"{ratio.min} to {ratio.max}; widen one of them",
            None,
        )


def check_schedule(
    index: int, schedule: Schedule, pools: PoolsSection, ratio: RatioSection, budget: BudgetSection | None
) -> None:
    """While it is active, a schedule must leave at least one split, too."""
    bounds = bounds_of(pools, ratio, budget, (schedule,))
    for role, low, high in (
        ("prefill", bounds.prefill_min, bounds.prefill_max),
        ("decode", bounds.decode_min, bounds.decode_max),
    ):
        if low > high:
            complain(
                ("schedules", index, "pools", role),
                f"leaves no room: minReplicas is {low} and maxReplicas {high} while {schedule.name} is active",
                None,
            )
    if bounds.is_empty():
        complain(
            ("schedules", index),
            f"no number of workers fits pools, ratio and budget while {schedule.name} is active; widen one of them",
            None,
        )


def check_fixed(pools: PoolsSection, bounds: Bounds) -> None:
    """Strategy Fixed needs both counts, and they must be allowed."""
    for role, pool in (("prefill", pools.prefill), ("decode", pools.decode)):
        if pool.replicas is None:
            complain(("pools", role), "strategy Fixed needs replicas here; add them", None)
    split = fixed_split(pools, ())
    problem = bounds.forbids(split) if split is not None else ""
    if problem:
        complain(("pools",), f"replicas can't be kept: {problem}", None)


def check_fallback(fallback: FallbackSection, bounds: Bounds, interval_s: float) -> None:
    """Metrics must be allowed to be older than one round, and blind growth must stay within the bounds."""
    if fallback.stale_after_s < 2 * interval_s:
        complain(
            ("fallback", "staleAfter"),
            "must be at least twice the interval, or every late round counts as stale; raise it",
            fallback.model_dump()["stale_after_s"],
        )
    if fallback.replicas is not None:
        problem = bounds.forbids(Split(prefill=fallback.replicas.prefill, decode=fallback.replicas.decode))
        if problem:
            complain(("fallback", "replicas"), f"can't be had: {problem}", None)
