"""Targets of the overload benchmark, and the worst of several runs. Pure."""

from collections.abc import Sequence
from typing import Any, Final

AT_LEAST: Final = {"goodput_2x": 0.9, "goodput_4x": 0.9, "goodput_10x": 0.9, "victim_share": 0.95, "jain": 0.95}
AT_MOST: Final = {"refusal_p99_ms": 50.0, "wasted_prefill": 0.05, "recovery_s": 60.0, "tag_mismatches": 0}


def passes(result: dict[str, Any]) -> bool:
    """Whether the targets are met."""
    return all(result.get(name, least) >= least for name, least in AT_LEAST.items()) and all(
        result.get(name, most) <= most for name, most in AT_MOST.items()
    )


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return result and details of several saved runs: of each figure the worst, whichever run it is of."""
    results = [run["result"] for run in runs]
    worst: dict[str, Any] = {name: min(result[name] for result in results) for name in (*AT_LEAST, "capacity_per_s")}
    worst |= {name: max(result[name] for result in results) for name in AT_MOST}
    worst |= {"num_refusals": sum(result["num_refusals"] for result in results), "num_runs": len(results)}
    details = [run["details"] | {"result": run["result"], "machine": run["machine"]} for run in runs]
    return {"result": worst, "details": {"runs": details}}
