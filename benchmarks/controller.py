"""The controller on real workers: shifting load, faults of workers, metrics and controllers, two controllers at once.

    python -m benchmarks.controller --json [--only NAME] [--output FILE]

Eight worker processes with the tagged engine and a timed cost model, a router, controllers as processes. Every answer
is compared with what it must be; the event logs of all processes are checked for I1 to I8, among them that each role
has a serving worker at every moment (I7).

``requests_lost``: requests that did not get their whole and right answer. ``role_emptied``: violations of I7, and
samples in which the router saw nobody of a role. ``max_switches_per_min``: most moves that switch roles begun within
any 60 s of one of the scenarios that run under the default cool-down of 60 s. That is the switch of the design's
damping: one decision, one move in flight, between two of which the cool-down lies. A move may give several workers
another role, one after another; ``max_workers_switched_per_min`` counts those, a worker that a death made come back in
another role included, and is bounded by the policy's `roleSwitch.maxWorkers` (4 here) times moves and repairs, not by
1. The scenarios that kill controllers provoke a switch every few seconds, and are counted in neither.
``max_moves_to_converge``: most moves within one phase of those scenarios; a phase that is long enough to be followed
(60 s) must have converged: of the last third of its requests 90 % keep every promise (``phases_not_converged``).
``scenarios_not_proven``: scenarios that did not show what they are for (`benchmarks.controller_world.proving`: a fault
that did not come, an order that nobody had to refuse, a split that was not whole again in time); why is in the details.
``attainment_of_best``: attainment of the step, over that of an oracle who has the best split of each phase from its
first moment (`benchmarks.controller_sim.best`, the same arrivals on virtual time, where nothing else takes the cores).
``gain``: attainment under the same arrivals with a controller and without one. Each of these scenarios begins with the
same split and a controller that knows of no earlier move.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.controller_sim.best import Best, best_of
from benchmarks.controller_sim.shapes import Shape
from benchmarks.controller_world import scenarios
from benchmarks.controller_world.judging import Outcome, attainment, compact, lost, most_per_window
from benchmarks.controller_world.load import Phase
from benchmarks.controller_world.policies import TPOT_S, TTFT_S
from benchmarks.controller_world.proving import not_proven
from benchmarks.controller_world.scenarios import Traffic
from benchmarks.controller_world.world import World
from benchmarks.demands import at_most, exit_unless_met, none_of, unmet
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
START = f"{NUM_WORKERS // 2}:{NUM_WORKERS // 2}"
SHIFTS_S = (60.0, 120.0, 120.0)
LONG_S = 60.0  # a phase that a controller with one switch a minute can follow
_STEP_SEED = 3
_TIME_S = 1200.0
DEMANDS = [
    *none_of("requests_lost", "role_emptied", "trace_violations", "tag_mismatches", "phases_not_converged"),
    *none_of("scenarios_not_proven"),
    *at_most(max_switches_per_min=1, max_moves_to_converge=3),
]

Scenario = Callable[[], Awaitable[Outcome]]


async def measure(only: Sequence[str], *, seed: int, with_alone: bool = True) -> dict[str, Any]:
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
        async with asyncio.timeout(_TIME_S):
            await _play(world, only, seed, outcomes, with_alone)
        await world.end_controllers()
        mismatches = len(world.cluster.mismatches())
        report = await asyncio.to_thread(check_trace, world.cluster.event_logs())
        violations = [str(violation) for violation in report.violations]
    found = _result(outcomes, violations=violations, mismatches=mismatches)
    step = next((outcome for outcome in outcomes if outcome.name == "step x3"), None)
    if step is not None:
        shape = Shape(split=(NUM_WORKERS // 2, NUM_WORKERS // 2), phases=step.phases)
        found["result"] |= _of_best(step, await best_of(shape, seed=seed + _STEP_SEED))
    return found


async def _play(world: World, only: Sequence[str], seed: int, outcomes: list[Outcome], with_alone: bool) -> None:
    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        summary = outcome.summary()
        facts = ("lost", "attainment", "phases", "moves", "splits", "seconds", *outcome.facts)
        say(f"{outcome.name}: " + ", ".join(f"{key} {summary[key]}" for key in facts))

    for name, plays in _arms(world, seed).items():
        for controlled, scenario in plays:
            if name not in only or not (controlled or with_alone):
                continue
            await world.reset(START)
            if controlled:
                await world.apply(scenarios.damped_policy(NUM_WORKERS))
                await world.add_controller()
            note(await scenario())
    await world.end_controllers()
    if "killed" in only:
        note(await scenarios.killed_controller(world, TRAFFIC, seed=seed + 5, num_workers=NUM_WORKERS))
    if "two" in only:
        note(await scenarios.two_controllers(world, TRAFFIC, seed=seed + 6, num_workers=NUM_WORKERS, seconds=30.0))


def _arms(world: World, seed: int) -> dict[str, list[tuple[bool, Scenario]]]:
    """The scenarios that run under the damped policy, and those that run beside them without any controller."""
    shifts = partial(scenarios.shifts, world, TRAFFIC, seed=seed + 1, seconds=SHIFTS_S)
    square = partial(scenarios.square_wave, world, TRAFFIC, seed=seed + 2, half_s=10.0, halves=4)
    return {
        "stale": [(True, partial(scenarios.stale, world, TRAFFIC, seed=seed, cut_s=12.0, after_s=26.0))],
        "shifts": [(False, partial(shifts, controlled=False)), (True, shifts)],
        "square": [(False, partial(square, controlled=False)), (True, square)],
        "step": [(True, partial(scenarios.step, world, TRAFFIC, seed=seed + _STEP_SEED, before_s=10.0, after_s=60.0))],
        "loss": [(True, partial(scenarios.worker_loss, world, TRAFFIC, seed=seed + 4, seconds=30.0))],
    }


def _result(outcomes: Sequence[Outcome], *, violations: Sequence[str], mismatches: int) -> dict[str, Any]:
    damped = [outcome for outcome in outcomes if outcome.damped]
    phases = [outcome.phase(index) for outcome in damped for index in range(len(outcome.phases))]
    summaries = [outcome.summary() for outcome in outcomes]
    roles = sum("I7" in violation for violation in violations)
    result = {
        "requests_lost": sum(len(lost(outcome.records)) for outcome in outcomes),
        "role_emptied": roles + sum(summary["role_emptied"] for summary in summaries),
        "max_switches_per_min": max(
            (most_per_window([m.decided_s for m in one.moves if m.move.startswith("switch")]) for one in damped),
            default=0,
        ),
        "max_workers_switched_per_min": max((most_per_window(one.switched_s) for one in damped), default=0),
        "scenarios_not_proven": sum(bool(not_proven(outcome)) for outcome in outcomes),
        "max_moves_to_converge": max((phase["moves"] for phase in phases), default=0),
        "phases_not_converged": sum(phase["seconds"] >= LONG_S and not phase["converged"] for phase in phases),
        "trace_violations": len(violations),
        "tag_mismatches": mismatches,
        "gain": _gains(outcomes),
        "scenarios": summaries,
    }
    result["lost_by_reason"] = dict(Counter(record.reason for outcome in outcomes for record in lost(outcome.records)))
    problems = [
        f"{outcome.name} {record.spec.label}: {record.ending.value} {record.reason} {record.problem}"
        for outcome in outcomes
        for record in lost(outcome.records)
    ]
    rounds = {outcome.name: compact(outcome) for outcome in outcomes}
    return {
        "result": result,
        "details": {
            "not_proven": [reason for outcome in outcomes for reason in not_proven(outcome)],
            "lost": problems[:20],
            "violations": list(violations)[:20],
            "rounds": rounds,
        },
    }


def _of_best(step: Outcome, best: Best) -> dict[str, Any]:
    kept = attainment(step.records)
    return {
        "attainment_of_best": None if kept is None or not best.attainment else round(kept / best.attainment, 3),
        "best_of_step": {"attainment": best.attainment, "splits": list(best.splits)},
    }


def _gains(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """Attainment with a controller and without one, under the same arrivals, and their ratio."""
    by_name = {outcome.name: attainment(outcome.records) for outcome in outcomes}
    return {
        name: {"controlled": kept, "alone": alone, "ratio": round(kept / alone, 2) if kept and alone else None}
        for name, kept in by_name.items()
        if (alone := by_name.get(f"{name}; no controller")) is not None
    }


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
    arguments.add_argument("--no-alone", action="store_true", help="leave out the arms without a controller")
    options = arguments.parse_args()
    found = asyncio.run(measure(options.only or NAMES, seed=options.seed, with_alone=not options.no_alone))
    finish(options, found["result"], method=METHOD, details=found["details"])
    exit_unless_met(unmet(found["result"], DEMANDS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
