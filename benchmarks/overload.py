"""Overload: goodput at 2, 4 and 10 times what the cluster can do, with callers that give up and come back.

    python -m benchmarks.overload --json [--quick | --mixed] [--seed N] [--output FILE]
    python -m benchmarks.overload --json --merge FILE... [--output FILE]

A real router process and two prefill and two decode worker processes with the tagged engine and a cost per step and
per prompt token. Capacity is measured first, in the same run: a fixed number of callers without a pause. Then callers
arrive as a Poisson process at multiples of it. Prompts are random and 200 tokens long (``--mixed``: 100 to 300),
answers geometric in length (mean 20 tokens, 60 at most) and their length known to nobody before. A caller waits 15 s at
most for its answer and 6 s for a first token; 70 % come back when they are told to (the SDK's policy and budget), 30 %
at once, up to three times, whatever they are told.

``goodput_*``: good answers per second over the best of all single-tenant phases, the measured capacity included. A
good answer is whole, its first token came within 3 s of the attempt that was served, and its tokens every 0.25 s on
average; it is counted when it is over, without the first 5 s of a phase. A request counts as one, whatever its size:
where prompts differ, the more callers ask, the shorter are the prompts that the door still has time for
(``mean_prompt_good`` of a phase), and the best phase is one of smaller requests than the others, not of more work. So
the prompts that are compared are of one length; with ``--mixed`` the figures hold that selection too.
``refusal_p99_ms``: from the call to its refusal, all phases.
``refusals_without_wait``: callers turned away who were not told when to come back. ``wasted_prefill``: of all prompt
tokens that workers computed at 2, 4 and 10 times and after it, those no good answer came of. ``recovery_s``: after ten
times the load falls to 0.7 of the capacity, with nobody sent home: from when on 9 of 10 who arrive in any 5 s get a
good answer; null, which fails, if that is not so for the last 10 s of the phase. ``victim_share``: good answers of a
tenant that asks for 0.35 of the capacity, while another asks for 4 times it, over what it gets at that rate alone.
``jain``: over the service of two tenants of which one asks for 6, the other for 1.5 times the capacity (first come,
first served would be 0.74). ``callers_lag_p99_ms`` of a phase is how late the callers' own event loop was, which every
time measured includes. With ``--merge`` the result is the worst of each figure over saved runs.
"""

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.overload_callers import Callers, Shape, Slo
from benchmarks.overload_phases import PhaseResult, Phases, jain, quantile, recovered_after_s
from benchmarks.overload_runs import merged, passes
from benchmarks.report import finish, parser, say
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.tagged.settings import TaggedCost
from tandem.client.settings import Settings

COST = TaggedCost(prefill_token_s=0.0013, step_s=0.1, row_s=0.002)
SLO = Slo()
PROMISE_S = 2.8  # what the router promises: the SLO without what the way there and back and reading the prompt takes
NUM_CALLERS = 40  # 16 slots, and enough who ask again and again
ALONE, FLOOD = "alice", "bob"
VICTIM_RATE, RECOVERY_RATE = 0.35, 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each phase takes, and at which multiples of the capacity."""

    warm_s: float = 8.0
    capacity_s: float = 60.0
    overload_s: float = 92.0  # long: answers are of random length, and so is how many fit in a phase
    phase_s: float = 24.0
    recovery_s: float = 24.0
    multiples: tuple[float, ...] = (1.0, 2.0, 4.0, 10.0)
    compares: bool = True  # the victim alone, and two floods
    cost: TaggedCost = COST
    shape: Shape = field(default_factory=lambda: Shape(prompt_tokens=(200, 200)))


FULL = Plan()
MIXED = Plan(shape=Shape())
QUICK = Plan(
    warm_s=2.0,
    capacity_s=3.0,
    overload_s=3.0,
    phase_s=3.0,
    recovery_s=0.0,
    multiples=(4.0,),
    compares=False,
    cost=TaggedCost(prefill_token_s=0.0005, step_s=0.04, row_s=0.0005),
    shape=Shape(mean_tokens=12.0, most_tokens=24),
)


def options(cost: TaggedCost) -> ChaosOptions:
    """The cluster."""
    return ChaosOptions(
        num_prefill=2,
        num_decode=2,
        cost=cost,
        engine={"num_blocks": 512, "max_sequences": 8},
        router={"admission": {"standard_ttft_s": PROMISE_S}},
        tenants=(ALONE, FLOOD),
        event_log=False,
    )


async def measure(plan: Plan, *, seed: int) -> dict[str, Any]:
    """Run all phases on one cluster; return result and details."""
    async with ChaosCluster(options(plan.cost)) as cluster, contextlib.AsyncExitStack() as stack:
        tenants: list[Callers] = []
        for index, name in enumerate((ALONE, FLOOD)):
            settings = Settings(address=cluster.public_address, api_key=cluster.api_key(name))
            callers = Callers(name, settings, plan.shape, seed=seed + index)
            tenants.append(await stack.enter_async_context(callers.connected()))
        alice, bob = tenants
        phases = Phases(cluster, SLO)
        await phases.saturated(alice, num_callers=NUM_CALLERS, seconds=plan.warm_s)
        results = [await phases.saturated(alice, num_callers=NUM_CALLERS, seconds=plan.capacity_s)]
        _say(results[0])
        capacity = results[0].goodput
        for multiple in plan.multiples:
            results.append(
                await phases.offered(
                    f"{multiple:g}x",
                    [(alice, multiple * capacity)],
                    seconds=plan.overload_s if multiple > 1.0 else plan.phase_s,
                    leave=multiple != plan.multiples[-1] or not plan.recovery_s,
                )
            )
            _say(results[-1])
        figures: dict[str, Any] = {}
        if plan.recovery_s:
            figures |= await _recover(phases, alice, capacity=capacity, plan=plan, results=results)
        figures |= _single(results, plan)
        figures |= await _two_tenants(phases, alice, bob, capacity=capacity, plan=plan, results=results)
        refused = sorted(ms for result in results for ms in result.refused_ms)
        figures["refusal_p99_ms"] = _round(quantile(refused, 0.99))
        figures["refusals_without_wait"] = sum(result.num_refused_without_wait for result in results)
        mismatches = len(cluster.mismatches())
    figures |= {"capacity_per_s": round(capacity, 2), "num_refusals": len(refused), "tag_mismatches": mismatches}
    return {"result": figures, "details": {"phases": [result.details() for result in results], "seed": seed}}


def _single(results: list[PhaseResult], plan: Plan) -> dict[str, Any]:
    best = max(result.goodput for result in results)
    figures: dict[str, Any] = {"best_per_s": round(best, 2)}
    for multiple, result in zip(plan.multiples, results[1:], strict=False):
        if multiple > 1.0:
            figures[f"goodput_{multiple:g}x"] = round(result.goodput / best, 3)
    over = results[1 + sum(multiple <= 1.0 for multiple in plan.multiples) :]
    computed = sum(result.num_prefill_tokens for result in over)
    figures["wasted_prefill"] = round(1.0 - sum(result.used_tokens for result in over) / computed, 4)
    return figures


async def _recover(
    phases: Phases, callers: Callers, *, capacity: float, plan: Plan, results: list[PhaseResult]
) -> dict[str, Any]:
    since_s = time.monotonic()
    after = await phases.offered("after 10x", [(callers, RECOVERY_RATE * capacity)], seconds=plan.recovery_s)
    _say(after)
    results.append(after)
    until_s = since_s + plan.recovery_s
    return {"recovery_s": _round(recovered_after_s(after.callers, since_s=since_s, until_s=until_s, slo=SLO))}


async def _two_tenants(
    phases: Phases, alice: Callers, bob: Callers, *, capacity: float, plan: Plan, results: list[PhaseResult]
) -> dict[str, Any]:
    rate = VICTIM_RATE * capacity
    flooded = await phases.offered("victim and flood", [(alice, rate), (bob, 4.0 * capacity)], seconds=plan.phase_s)
    if not plan.compares:
        _say(flooded)
        results.append(flooded)
        return {"victim_share": round(_share_good(flooded.of(ALONE)), 3)}
    alone = await phases.offered("victim alone", [(alice, rate)], seconds=plan.phase_s)
    both = await phases.offered("two floods", [(alice, 1.5 * capacity), (bob, 6.0 * capacity)], seconds=plan.phase_s)
    for result in (flooded, alone, both):
        _say(result)
    results += [flooded, alone, both]
    good_alone, good_flooded = _share_good(alone), _share_good(flooded.of(ALONE))
    return {
        "victim_share": round(good_flooded / good_alone, 3) if good_alone else 0.0,
        "jain": round(jain([both.of(ALONE).cost_tokens(), both.of(FLOOD).cost_tokens()]), 4),
    }


def _share_good(result: PhaseResult) -> float:
    """Of those who came: arrivals are random, so the two phases' numbers of them are not the same."""
    return result.num_good / len(result.callers) if result.callers else 0.0


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _say(result: PhaseResult) -> None:
    about = result.details()
    say(", ".join(f"{name} {value}" for name, value in about.items()))


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="one multiple, short phases: no figures to be believed")
    arguments.add_argument("--mixed", action="store_true", help="prompts of 100 to 300 tokens instead of 200")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--merge", type=Path, nargs="+", help="saved runs to tell the worst of, instead of a new one"
    )
    chosen = arguments.parse_args()
    if chosen.merge:
        measured = merged([json.loads(file.read_text(encoding="utf-8")) for file in chosen.merge])
    else:
        plan = QUICK if chosen.quick else MIXED if chosen.mixed else FULL
        measured = asyncio.run(measure(plan, seed=chosen.seed))
    finish(chosen, measured["result"], method=(__doc__ or "").strip(), details=measured["details"])
    if not chosen.quick and not passes(measured["result"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
