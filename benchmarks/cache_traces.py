"""What do prefix caches and cache-aware routing bring on published traces? The router's own code on virtual time.

Traces: Mooncake's conversation and synthetic traces (block names of 512 tokens are part of them), and the same with
lengths and blocks divided by 16. Workers compute at the measured speed of Llama2-70B on 8 H100 (the a0, a1, a2 that fit
the splitwise-sim profile); for the divided traces, at the speed that gives the same load. Index, tree with eviction,
placement, queue and overtaking are the ones that serve, with the settings that they have by default; only the time of a
forward pass is a formula. Compared with three other routings over the same caches, which choose when a request comes:
round robin, least load, most of the prefix whatever the load. Nobody is refused, under any routing.

One replay of an overloaded pool is one draw: a request that goes elsewhere changes all that follows. So each trace is
replayed whole, and cut into windows of equal numbers of consecutive requests, each replayed from empty caches.
``ours_best`` is judged on the windows: the mean of (TTFT p90 of ours - that of the best other routing, the one with the
lowest mean) is not above its standard error. ``whole_best``: the whole trace's p90 is within 2 % of the best one.

``in_queue`` is none of the four: it shows how prefix affinity would do with our queue instead of a choice at arrival.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cache_evictions import __doc__ as evictions_doc
from benchmarks.cache_evictions import against_lru, clairvoyant_hit_blocks, evictions_summary
from benchmarks.cache_router import AtArrival, InQueue, LeastLoad, PrefixAffinity, RoundRobin
from benchmarks.cache_windows import judge, windows
from benchmarks.cache_world import PrefillWorld, Trace, WorldConfig, WorldResult, WorldRouter, load_trace
from benchmarks.demands import at_least, at_most, exactly, exit_unless_met, unmet
from benchmarks.report import finish, parser, say
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.eviction.choice import EvictionName, make_policy
from tandem.router.live import OvertakingPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy

DATA = Path(__file__).parents[1].parent / "shared" / "data"
H100_70B = LatencyCoefficients(prefill=(0.0264, 5.73e-5, 1.065e-8))
# Sixteen times shorter prompts on a worker sixteen times slower: the same seconds per request.
H100_70B_DIV16 = LatencyCoefficients(prefill=(0.0264, 16 * 5.73e-5, 256 * 1.065e-8))
SIZES = ((6, 2000), (8, 1000), (8, 4000), (12, 2000), (16, 4000))
OURS = "tandem"
SPLIT = PlacementPolicy(mode=PlacementMode.SPLIT)
# Placement without bounds, and with so much weight on saved work that nothing else counts.
ONLY_PREFIX = PlacementPolicy(mode=PlacementMode.SPLIT, affinity=1e9, max_affinity_s=float("inf"))
Make = Callable[[], WorldRouter]
ROUTINGS: Mapping[str, Make] = {
    OURS: lambda: InQueue(SPLIT, OvertakingPolicy()),
    "round_robin": lambda: AtArrival(RoundRobin()),
    "least_load": lambda: AtArrival(LeastLoad()),
    "prefix_affinity": lambda: AtArrival(PrefixAffinity()),
}
IN_QUEUE: Mapping[str, Make] = {"prefix_affinity": lambda: InQueue(ONLY_PREFIX, OvertakingPolicy())}
SERVING_POLICY = PrefixCacheConfig().eviction
EQUAL = 1.02  # TTFT p90 of a whole trace within 2 % of the best counts as equal
NUM_WINDOWS = 8
# What serves must beat plain LRU over all settings, by more than it costs in time.
EVICTIONS_DEMANDS = [*at_least(hit_ratio=1.01), *at_most(ttft_p90_ratio=1.0, settings_hit_fewer=2)]
METHOD = __doc__ or ""
EVICTIONS_METHOD = evictions_doc or ""
DETAILS = ("routings", "in_queue", "windows", "evictions", "evictions_against_lru")


def replay(
    trace: Trace, model: LatencyModel, size: tuple[int, int], make: Make, policy: EvictionName = SERVING_POLICY
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
    return PrefillWorld(config, make()).replay(trace)


def summary(result: WorldResult, ideal: int) -> dict[str, float]:
    """Figures of one run."""
    return {
        "hit_of_ideal": round(result.hit_blocks / ideal, 3),
        "ttft_p50_s": round(result.percentile(0.5), 3),
        "ttft_p90_s": round(result.percentile(0.9), 3),
        "ttft_p99_s": round(result.percentile(0.99), 3),
        "imbalance": round(result.imbalance, 3),
    }


def compare(trace: Trace, model: LatencyModel, size: tuple[int, int], num_windows: int) -> dict[str, Any]:
    """All routings on the whole trace and on its windows, and all eviction policies under ours, at one size."""
    ideal = trace.ideal_hit_blocks()
    results = {name: replay(trace, model, size, make) for name, make in ROUTINGS.items()}
    runs = {name: summary(result, ideal) for name, result in results.items()}
    queued = {name: summary(replay(trace, model, size, make), ideal) for name, make in IN_QUEUE.items()}
    whole = {
        policy: results[OURS] if policy is SERVING_POLICY else replay(trace, model, size, ROUTINGS[OURS], policy)
        for policy in EvictionName
    }
    served = results[OURS].served
    best_hits = sum(clairvoyant_hit_blocks(requests, size[1], trace.block_tokens) for requests in served)
    cut = windows(trace, num_windows)
    p90s = {
        name: [round(replay(window, model, size, make).percentile(0.9), 3) for window in cut]
        for name, make in ROUTINGS.items()
    }
    verdict = judge(p90s, OURS)
    versus = against_lru(
        trace, whole, lambda copy, policy: replay(copy, model, size, ROUTINGS[OURS], policy), SERVING_POLICY
    )
    best_s = min(run["ttft_p90_s"] for run in runs.values())
    return {
        "name": trace.name,
        "workers": size[0],
        "blocks_per_worker": size[1],
        "hit_of_ideal": runs[OURS]["hit_of_ideal"],
        "ttft_p90_s": runs[OURS]["ttft_p90_s"],
        "best_other_ttft_p90_s": min(run["ttft_p90_s"] for name, run in runs.items() if name != OURS),
        "whole_best": runs[OURS]["ttft_p90_s"] <= EQUAL * best_s,
        "ours_best": verdict.is_best_or_equal,
        "windows_ratio": round(verdict.mean_ratio, 3),
        "windows_ratio_error": round(verdict.ratio_error, 3),
        "windows": {
            "ttft_p90_s": p90s,
            "best_other": verdict.best_other,
            "mean_difference_s": round(verdict.mean_difference, 3),
            "difference_error_s": round(verdict.difference_error, 3),
        },
        "routings": runs,
        "in_queue": queued,
        "evictions": {policy.value: summary(result, ideal) for policy, result in whole.items()},
        "evictions_clairvoyant": round(best_hits / ideal, 3),
        "evictions_against_lru": versus,
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


def options_of() -> argparse.Namespace:
    """What was asked for."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="the start of two traces, two sizes")
    arguments.add_argument("--windows", type=int, default=NUM_WINDOWS, help="windows of each trace, two or more")
    arguments.add_argument("--processes", type=int, default=1, help="settings replayed at the same time")
    options = arguments.parse_args()
    if options.windows < 2:
        arguments.error(f"--windows is {options.windows}: one window has no standard error, ask for two or more")
    return options


def result_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the run says in short."""
    return {
        "traces": [{name: value for name, value in row.items() if name not in DETAILS} for row in rows],
        "settings": len(rows),
        "ours_best": sum(row["ours_best"] for row in rows),
        "whole_best": sum(row["whole_best"] for row in rows),
        "evictions": evictions_summary([row["evictions_against_lru"] for row in rows], SERVING_POLICY),
    }


def tell(row: Mapping[str, Any]) -> None:
    """Tell a person of one setting."""
    say(f"{row['name']}: {row['workers']} workers with {row['blocks_per_worker']} blocks")
    for name, run in row["routings"].items():
        say(f"  {name:16s} {run}")
    say(f"  ratio on windows {row['windows_ratio']} ± {row['windows_ratio_error']}")
    say(f"  evictions {row['evictions_against_lru']}")


def main() -> None:
    """Replay and print."""
    options = options_of()
    found = traces(options)
    if not found:
        sys.exit("no trace is there: put the Mooncake traces under shared/data beside the project")
    sizes = SIZES[2:4] if options.quick else SIZES
    settings = [(trace, model, size, options.windows) for trace, model in found for size in sizes]
    rows = []
    with ProcessPoolExecutor(options.processes) as processes:
        for row in processes.map(compare, *zip(*settings, strict=True)):
            rows.append(row)
            tell(row)
    result = result_of(rows)
    finish(options, result, method=METHOD + EVICTIONS_METHOD, details={"num_windows": options.windows, "rows": rows})
    if not options.quick:
        exit_unless_met(unmet(result, exactly(ours_best=len(rows))) + unmet(result["evictions"], EVICTIONS_DEMANDS))


if __name__ == "__main__":
    main()
