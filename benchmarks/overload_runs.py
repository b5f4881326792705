"""Targets of the overload benchmark, and the worst of several runs. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

AT_LEAST: Final = {"goodput_2x": 0.9, "goodput_4x": 0.9, "goodput_10x": 0.9, "victim_share": 0.95, "jain": 0.95}
AT_MOST: Final = {
    "refusal_p99_ms": 50.0,
    "refusals_without_wait": 0,
    "wasted_prefill": 0.05,
    "recovery_s": 60.0,
    "tag_mismatches": 0,
}


def passes(result: dict[str, Any]) -> bool:
    """Whether every target is met; a figure that is missing, or that there is none of, meets none."""
    least = all(_is_number(result.get(name)) and result[name] >= bound for name, bound in AT_LEAST.items())
    return least and all(_is_number(result.get(name)) and result[name] <= bound for name, bound in AT_MOST.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return result and details of several saved runs: of each figure the worst, whichever run it is of."""
    results = [run["result"] for run in runs]
    least = (*AT_LEAST, "capacity_per_s", "best_per_s")
    worst: dict[str, Any] = {name: _worst(min, [result[name] for result in results]) for name in least}
    worst |= {name: _worst(max, [result[name] for result in results]) for name in AT_MOST}
    worst |= {"num_refusals": sum(result["num_refusals"] for result in results), "num_runs": len(results)}
    details = [run["details"] | {"result": run["result"], "machine": run["machine"]} for run in runs]
    return {"result": worst, "details": {"runs": details}}


def _worst(pick: Callable[[Iterable[float]], float], values: Sequence[float | None]) -> float | None:
    """The worst of them; None, which one run had no figure to show for, is worse than any."""
    known = [value for value in values if value is not None]
    return pick(known) if len(known) == len(values) else None
