"""What do prefix caches and cache-aware routing bring on published traces? The router's own code on virtual time.

Traces: Mooncake's conversation and synthetic traces (block names of 512 tokens are part of them), and the same with
lengths and blocks divided by 16. Workers compute at the measured speed of Llama2-70B on 8 H100 (the a0, a1, a2 that fit
the splitwise-sim profile); for the divided traces, at the speed that gives the same load. Index, tree with eviction and
placement are the ones that serve; only the time of a forward pass is a formula. Compared with three other routings over
the same caches: round robin, least load, most of the prefix whatever the load.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cache_world import (
    LeastLoad,
    PrefillWorld,
    PrefixAffinity,
    RoundRobin,
    Routing,
    TandemPlacement,
    Trace,
    WorldConfig,
    WorldResult,
    load_trace,
)
from benchmarks.report import finish, parse, say
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.prefix_cache.eviction.choice import EvictionName, make_policy
from tandem.router.placement import PlacementMode, PlacementPolicy

DATA = Path(__file__).parents[1].parent / "shared" / "data"
H100_70B = LatencyCoefficients(prefill=(0.0264, 5.73e-5, 1.065e-8))
# Sixteen times shorter prompts on a worker sixteen times slower: the same seconds per request.
H100_70B_DIV16 = LatencyCoefficients(prefill=(0.0264, 16 * 5.73e-5, 256 * 1.065e-8))
SIZES = ((6, 2000), (8, 1000), (8, 4000), (12, 2000), (16, 4000))
ROUTINGS: dict[str, Callable[[], Routing]] = {
    "tandem": lambda: TandemPlacement(PlacementPolicy(mode=PlacementMode.SPLIT, look_ahead_s=float("inf"))),
    "round_robin": RoundRobin,
    "least_load": LeastLoad,
    "prefix_affinity": PrefixAffinity,
}
SERVING_POLICY = EvictionName.S3_FIFO
EQUAL = 1.02  # TTFT p90 within 2 % of the best counts as equal
METHOD = __doc__ or ""


def replay(
    trace: Trace, model: LatencyModel, size: tuple[int, int], routing: Callable[[], Routing], policy: EvictionName
) -> WorldResult:
    """Run one trace once."""
    num_workers, capacity = size
    config = WorldConfig(
        num_workers=num_workers,
        capacity_blocks=capacity,
        block_tokens=trace.block_tokens,
        model=model,
        make_policy=lambda: make_policy(policy),
    )
    return PrefillWorld(config, routing()).replay(trace)


def summary(result: WorldResult, ideal: int) -> dict[str, float]:
    """Figures of one run."""
    return {
        "hit_of_ideal": round(result.hit_blocks / ideal, 3),
        "ttft_p50_s": round(result.percentile(0.5), 3),
        "ttft_p90_s": round(result.percentile(0.9), 3),
        "ttft_p99_s": round(result.percentile(0.99), 3),
        "imbalance": round(result.imbalance, 3),
    }


def compare(trace: Trace, model: LatencyModel, size: tuple[int, int]) -> dict[str, Any]:
    """All routings, and all eviction policies under our routing, at one size."""
    ideal = trace.ideal_hit_blocks()
    runs = {name: summary(replay(trace, model, size, make, SERVING_POLICY), ideal) for name, make in ROUTINGS.items()}
    policies = {
        policy.value: summary(replay(trace, model, size, ROUTINGS["tandem"], policy), ideal)
        for policy in EvictionName
        if policy is not SERVING_POLICY
    } | {SERVING_POLICY.value: runs["tandem"]}
    best_s = min(run["ttft_p90_s"] for run in runs.values())
    return {
        "name": trace.name,
        "workers": size[0],
        "blocks_per_worker": size[1],
        "hit_of_ideal": runs["tandem"]["hit_of_ideal"],
        "ttft_p90_s": runs["tandem"]["ttft_p90_s"],
        "ours_best": runs["tandem"]["ttft_p90_s"] <= EQUAL * best_s,
        "routings": runs,
        "evictions": policies,
    }


def traces(options: argparse.Namespace) -> list[tuple[Trace, LatencyModel]]:
    """The traces there are."""
    most = 1500 if options.quick else None
    full, divided = LatencyModel(coefficients=H100_70B), LatencyModel(coefficients=H100_70B_DIV16)
    files = [
        ("conversation", "mooncake/conversation_trace.jsonl.gz", 512, full),
        ("synthetic", "mooncake/synthetic_trace.jsonl.gz", 512, full),
        ("conversation_div16", "scaled/mooncake_conv_div16.jsonl.gz", 32, divided),
        ("synthetic_div16", "scaled/mooncake_synth_div16.jsonl.gz", 32, divided),
    ]
    found = []
    for name, file, block_tokens, model in files[:2] if options.quick else files:
        if not (DATA / file).is_file():
            say(f"{DATA / file} is not there; left out")
            continue
        found.append((load_trace(DATA / file, name=name, block_tokens=block_tokens, most=most), model))
    return found


def main() -> None:
    """Replay and print."""
    options = parse(__doc__, "quick")
    found = traces(options)
    if not found:
        sys.exit("no trace is there: put the Mooncake traces under shared/data beside the project")
    rows = []
    for trace, model in found:
        for size in SIZES[2:4] if options.quick else SIZES:
            say(f"{trace.name}: {len(trace.requests)} requests, {size[0]} workers with {size[1]} blocks")
            rows.append(compare(trace, model, size))
            for name, run in rows[-1]["routings"].items():
                say(f"  {name:16s} {run}")
    keep = ("name", "workers", "blocks_per_worker", "hit_of_ideal", "ttft_p90_s", "ours_best")
    result = {"traces": [{name: row[name] for name in keep} for row in rows]}
    finish(options, result, method=METHOD, details={"rows": rows})


if __name__ == "__main__":
    main()
