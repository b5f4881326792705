"""Goodput under overload on virtual time: the production router core, many seeds, no machine's noise.

    python -m benchmarks.overload_sim --json [--seeds N] [--seed FIRST]

The load, the cost of a step and the callers are those of `benchmarks.overload`; workers only take time. What a change
of admission, queue or placement does to the goodput can be seen here with a standard error that no single run on a
machine has. It is not evidence for a target: gRPC, processes and everything that they cost are missing.
"""

import statistics
import sys
from typing import Any

import structlog

from benchmarks.overload import COST, NUM_CALLERS, PROMISE_S, SLO
from benchmarks.overload_callers import Shape
from benchmarks.overload_phases import PhaseResult
from benchmarks.overload_sim.callers import VirtualCallers
from benchmarks.overload_sim.world import VirtualRouter
from benchmarks.report import finish, parser, say
from tandem.core.types import PriorityClass, Role
from tandem.router.admission.terms import AdmissionPolicy
from tandem.router.live import DispatcherPolicy

PHASES = {"saturated": 40.0, "1x": 24.0, "2x": 62.0, "4x": 62.0, "10x": 62.0}


def play(seed: int) -> dict[str, dict[str, float]]:
    """Play all phases once; return what is told of each."""
    policy = DispatcherPolicy(admission=AdmissionPolicy(ttft_slo_s={PriorityClass.STANDARD: PROMISE_S}))
    world = VirtualRouter(policy=policy, cost=COST, seed=seed)
    callers = VirtualCallers(world=world, shape=Shape(), seed=seed)
    callers.saturate(num_callers=NUM_CALLERS, seconds=8.0)
    told: dict[str, dict[str, float]] = {}
    capacity = 0.0
    for name, seconds in PHASES.items():
        began_s, busy_s = world.clock.now_s(), world.busy_s(Role.PREFILL)
        if name == "saturated":
            came = callers.saturate(num_callers=NUM_CALLERS, seconds=seconds)
        else:
            came = callers.arrive(per_s=capacity * float(name[:-1]), seconds=seconds)
        busy = (world.busy_s(Role.PREFILL) - busy_s) / (2.0 * seconds)
        world.run(world.clock.now_s() + 20.0)  # until everybody has gone
        phase = PhaseResult(
            name=name, began_s=began_s, seconds=seconds, callers=came, num_prefill_tokens=0, slo=SLO, load_average=0.0
        )
        capacity = capacity or phase.goodput
        good = [caller for caller in came if caller.is_good(SLO)]
        told[name] = {
            "goodput_per_s": phase.goodput,
            "prefill_busy": busy,
            "mean_prompt_good": statistics.fmean(caller.num_prompt_tokens for caller in good),
            "taken_in_vain": sum(_is_in_vain(caller.outcome(SLO)) for caller in came) / len(came),
        }
    best = max(each["goodput_per_s"] for each in told.values())
    for each in told.values():
        each["of_best"] = each["goodput_per_s"] / best
    return told


def _is_in_vain(outcome: str) -> bool:
    return outcome in ("late first token", "slow tokens", "LATE", "GAVE_UP")


def main() -> int:
    """Run and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--seed", type=int, default=1, help="the first of them")
    options = arguments.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    runs = []
    for seed in range(options.seed, options.seed + options.seeds):
        runs.append(play(seed))
        say(f"{seed}: " + ", ".join(f"{name} {told['of_best']:.3f}" for name, told in runs[-1].items()))
    found: dict[str, Any] = {name: _summary([run[name] for run in runs]) for name in PHASES}
    finish(options, found, method=(__doc__ or "").strip(), details={})
    return 0


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    means = {name: round(statistics.fmean(run[name] for run in runs), 3) for name in runs[0]}
    shares = [run["of_best"] for run in runs]
    spread = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
    return means | {"of_best_least": round(min(shares), 3), "of_best_standard_error": round(spread, 3)}


if __name__ == "__main__":
    sys.exit(main())
