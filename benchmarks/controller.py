"""The controller on real workers: shifting load, faults of workers, metrics and controllers, two controllers at once.

    python -m benchmarks.controller --json [--only NAME] [--output FILE]

Eight worker processes with the tagged engine and a timed cost model, a router, controllers as processes. Every answer
is compared with what it must be; the event logs of all processes are checked for I1 to I8, among them that each role
has a serving worker at every moment (I7).

``requests_lost``: requests that did not get their whole and right answer. ``role_emptied``: violations of I7, and
samples in which the router saw nobody of a role. ``max_switches_per_min``: most moves that switch roles begun within
any 60 s of the scenarios that run under the default cool-down of 60 s; a move switches one worker after another. The
scenarios that kill controllers provoke a switch every few seconds, and are not counted in it.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.controller_world import scenarios
from benchmarks.controller_world.judging import Outcome, lost, most_per_window
from benchmarks.controller_world.load import Phase
from benchmarks.controller_world.policies import TPOT_S, TTFT_S
from benchmarks.controller_world.scenarios import Traffic
from benchmarks.controller_world.world import World
from benchmarks.report import finish, parser, say
from tandem.chaos.cluster import ChaosOptions
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.trace import check as check_trace

COST = TaggedCost(prefill_token_s=0.0025, step_s=0.1, row_s=0.012)  # slow, so that two cores hold eight workers
NUM_WORKERS = 8
TRAFFIC = Traffic(
    prompts=Phase(name="prompts", seconds=1, rate_per_s=1.8, prompt_tokens=600, output_tokens=16),
    answers=Phase(name="answers", seconds=1, rate_per_s=4.8, prompt_tokens=40, output_tokens=60),
    mixed=Phase(name="mixed", seconds=1, rate_per_s=1.0, prompt_tokens=300, output_tokens=30),
)
NAMES = ("stale", "shifts", "square", "step", "loss", "killed", "two")


async def measure(only: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Play the scenarios on one cluster; return result and details."""
    folder = Path(tempfile.mkdtemp(prefix="tandem-controller-"))
    options = ChaosOptions(
        num_prefill=NUM_WORKERS // 2,
        num_decode=NUM_WORKERS // 2,
        cost=COST,
        engine={"num_blocks": 1280, "max_sequences": 64, "max_batched_tokens": 1024},
        # Nothing is refused for the policy's promises: what is measured is how the controller meets all of the load.
        router={"queue": {"max_standard_work_s": 120.0}, "admission": {"follow_policy": False}},
        log_level="info",
    )
    outcomes: list[Outcome] = []
    async with World(options, folder=folder) as world:
        async with asyncio.timeout(900):
            await _play(world, only, seed, outcomes)
        await world.end_controllers()
        mismatches = len(world.cluster.mismatches())
        report = await asyncio.to_thread(check_trace, world.cluster.event_logs())
        violations = [str(violation) for violation in report.violations]
    return _result(outcomes, violations=violations, mismatches=mismatches)


async def _play(world: World, only: Sequence[str], seed: int, outcomes: list[Outcome]) -> None:
    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        summary = outcome.summary()
        facts = ("lost", "attainment", "attainment_by_phase", "moves", "splits", "seconds", *outcome.facts)
        say(f"{outcome.name}: " + ", ".join(f"{key} {summary[key]}" for key in facts))

    damped = [name for name in only if name not in ("killed", "two")]
    if damped:
        await world.apply(scenarios.damped_policy(NUM_WORKERS))
        await world.add_controller()
        if "stale" in only:
            note(await scenarios.stale(world, TRAFFIC, seed=seed, cut_s=18.0, after_s=40.0))
        if "shifts" in only:
            note(await scenarios.shifts(world, TRAFFIC, seed=seed + 1, seconds=(40.0, 95.0, 95.0)))
        if "square" in only:
            note(await scenarios.square_wave(world, TRAFFIC, seed=seed + 2, half_s=12.5, halves=4))
        if "step" in only:
            note(await scenarios.step(world, TRAFFIC, seed=seed + 3, before_s=10.0, after_s=45.0))
        if "loss" in only:
            note(await scenarios.worker_loss(world, TRAFFIC, seed=seed + 4, seconds=24.0))
        await world.end_controllers()
    if "killed" in only:
        note(await scenarios.killed_controller(world, TRAFFIC, seed=seed + 5, num_workers=NUM_WORKERS))
    if "two" in only:
        note(await scenarios.two_controllers(world, TRAFFIC, seed=seed + 6, num_workers=NUM_WORKERS, seconds=30.0))


def _result(outcomes: Sequence[Outcome], *, violations: Sequence[str], mismatches: int) -> dict[str, Any]:
    damped_moves = [
        one.at_s for outcome in outcomes if outcome.damped for one in outcome.moves if one.move.startswith("switch")
    ]
    summaries = [outcome.summary() for outcome in outcomes]
    roles = sum("I7" in violation for violation in violations)
    result = {
        "requests_lost": sum(len(lost(outcome.records)) for outcome in outcomes),
        "role_emptied": roles + sum(summary["role_emptied"] for summary in summaries),
        "max_switches_per_min": most_per_window(damped_moves),
        "max_moves_to_converge": max(
            (len(outcome.moves) for outcome in outcomes if outcome.damped and len(outcome.phases) <= 2), default=0
        ),
        "trace_violations": len(violations),
        "tag_mismatches": mismatches,
        "scenarios": summaries,
    }
    result["lost_by_reason"] = dict(Counter(record.reason for outcome in outcomes for record in lost(outcome.records)))
    problems = [
        f"{outcome.name} {record.spec.label}: {record.ending.value} {record.reason} {record.problem}"
        for outcome in outcomes
        for record in lost(outcome.records)
    ]
    return {"result": result, "details": {"lost": problems[:20], "violations": list(violations)[:20]}}


METHOD = (
    f"{NUM_WORKERS} workers, tagged engine; a step takes {COST.step_s * 1e3:g} ms, {COST.prefill_token_s * 1e3:g} ms"
    f" per prompt token and {COST.row_s * 1e3:g} ms per decode row. Promises: TTFT {TTFT_S:g} s, mean gap"
    f" {TPOT_S * 1e3:g} ms. Poisson arrivals; one cluster for all scenarios, each policy applied while it runs."
)


def main() -> int:
    """Run and print."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--only", action="append", choices=NAMES, help="play only this scenario; may be repeated")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    found = asyncio.run(measure(options.only or NAMES, seed=options.seed))
    finish(options, found["result"], method=METHOD, details=found["details"])
    result = found["result"]
    return 0 if not (result["requests_lost"] or result["role_emptied"] or result["max_switches_per_min"] > 1) else 1


if __name__ == "__main__":
    sys.exit(main())
