"""Recovery: 50 streams, a decode worker is killed (or stops) under them, and every one goes on to its exact end.

    python -m benchmarks.recovery --json [--quick] [--rounds N] [--output FILE]

Two prefill and three decode workers, real processes with the tagged engine and a cost per step. Streams are greedy,
sampled, penalised, with stop strings that hold text back, and of two and three sequences; what each must say is known
from the model's definition alone. Faults: killed after k tokens; killed, then the worker that took over killed as well;
stopped so long that it is given up, and continued (a zombie); stopped for 4.8 s, which must abort nothing; none.

``streams`` are at once, ``completed`` is the fewest of them that ended in full in any round (wrong ones never count).
``gap_*`` is the longest pause between two tokens of streams that had to move after a kill, ``detect_max_s`` the longest
time from a fault to the moment from which the router gives the worker no new work. ``handed_over_again`` counts prompts
whose KV went from the same prefill worker to a second decode worker, ``rounds_without_a_move`` kills of a decode worker
that no measured stream noticed.
"""

import asyncio
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.demands import Demand, at_least, exactly, exit_unless_met, none_of, unmet
from benchmarks.recovery_rounds import Outcome, Round, play
from benchmarks.report import finish, parser, say
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.leaks import check_leaks
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.trace import check as check_trace

NUM_STREAMS = 50
MAX_TOKENS = 100
MOST_DETECT_S = 6.0
COST = TaggedCost(prefill_token_s=0.0002, step_s=0.025)

FULL = (
    Round(name="nothing", after_tokens=8, victim=""),
    *(Round(name=f"killed after {k} tokens", after_tokens=k) for k in (1, 8, 24, 60)),
    Round(name="killed, and then who took over", after_tokens=12, second_victim="decode-1"),
    Round(name="prefill killed", after_tokens=1, victim="prefill-0"),
    Round(name="decode stopped for 4.8 s", after_tokens=16, stop_s=4.8),
    Round(name="prefill stopped for 4.8 s", after_tokens=1, victim="prefill-0", stop_s=4.8),
    Round(name="router stopped for 4.8 s", after_tokens=16, victim="router", stop_s=4.8),
    Round(name="stopped for 14 s and continued", after_tokens=16, stop_s=14.0),
)
QUICK = (
    Round(name="killed after 8 tokens", after_tokens=8),
    Round(name="killed, and then who took over", after_tokens=12, second_victim="decode-1"),
)


async def measure(
    rounds: Sequence[Round], *, repeat: int, seed: int, num_streams: int = NUM_STREAMS, num_prefill: int = 2
) -> dict[str, Any]:
    """Play all rounds ``repeat`` times, each time on a fresh cluster; return result and details."""
    outcomes: list[Outcome] = []
    leaks: list[str] = []
    violations: list[str] = []
    tag_mismatches = num_reused = 0
    for number in range(repeat):
        options = ChaosOptions(
            num_prefill=num_prefill,
            num_decode=num_prefill + 1,
            cost=COST,
            engine={"num_blocks": 1024, "max_sequences": 128},
        )
        async with ChaosCluster(options) as cluster:
            for index, one in enumerate(rounds):
                round_seed = seed + 1000 * number + index
                outcome = await play(cluster, one, num_streams=num_streams, seed=round_seed, max_tokens=MAX_TOKENS)
                outcomes.append(outcome)
                say(f"{one.name}: {_line(outcome)}")
            leaks += await check_leaks(cluster)
            report = check_trace(cluster.event_logs())
            violations += [str(violation) for violation in report.violations]
            num_reused += report.counts.get("blocks_rekeyed", 0)
            tag_mismatches += len(cluster.mismatches())
    result = summarise(outcomes, num_streams=num_streams)
    result |= {"leaks": len(leaks), "trace_violations": len(violations), "tag_mismatches": tag_mismatches}
    result |= {"handed_over_again": num_reused}
    details = {
        "rounds": [_details(outcome) for outcome in outcomes],
        "leaks": leaks[:20],
        "trace_violations": violations[:20],
        "seed": seed,
    }
    return {"result": result, "details": details}


def summarise(outcomes: Sequence[Outcome], *, num_streams: int) -> dict[str, Any]:
    """The figures over all rounds."""
    killed = [o for o in outcomes if o.round.stop_s is None and o.round.victim.startswith("decode")]
    gaps = sorted(1e3 * record.longest_gap_s for o in killed for record in o.moved)
    return {
        "streams": num_streams,
        "completed": min(o.completed for o in outcomes),
        "mismatches": sum(o.mismatches for o in outcomes),
        "gap_p50_ms": _quantile(gaps, 0.50),
        "gap_p99_ms": _quantile(gaps, 0.99),
        "detect_max_s": round(max((s for o in outcomes for s in o.detected_s), default=0.0), 3),
        "stall_aborts": sum(o.aborts for o in outcomes if o.round.is_stall),
        "rounds": len(outcomes),
        "total_streams": sum(len(o.records) for o in outcomes),
        "total_completed": sum(o.completed for o in outcomes),
        "moved_streams": sum(len(o.moved) for o in outcomes),
        "rounds_without_a_move": sum(not o.moved for o in killed),
        "faults_verified": all(o.verified for o in outcomes),
    }


def _quantile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    return round(values[min(len(values) - 1, int(share * len(values)))], 1)


def _details(outcome: Outcome) -> dict[str, Any]:
    gaps = [1e3 * record.longest_gap_s for record in outcome.moved]
    return {
        "fault": outcome.round.name,
        "streams": len(outcome.records),
        "completed": outcome.completed,
        "mismatches": outcome.mismatches,
        "moved": len(outcome.moved),
        "most_attempts": max((record.attempts for record in outcome.records), default=0),
        "longest_gap_ms": round(max(gaps, default=0.0), 1),
        "median_gap_ms": round(statistics.median(gaps), 1) if gaps else None,
        "detected_s": [round(s, 3) for s in outcome.detected_s],
        "errors": outcome.reasons,
        "problems": [record.problem for record in outcome.records if record.problem][:5],
        "fault_verified": outcome.verified,
    }


def _line(outcome: Outcome) -> str:
    about = _details(outcome)
    return ", ".join(
        f"{name} {about[name]}" for name in ("completed", "moved", "longest_gap_ms", "detected_s", "errors")
    )


def demands(*, quick: bool, repeat: int) -> list[Demand]:
    """What the figures must be. Not every stream has to move: some have ended, and some run on other workers."""
    rounds = repeat * len(QUICK if quick else FULL)
    return [
        *none_of("mismatches", "tag_mismatches", "leaks", "trace_violations", "stall_aborts"),
        *exactly(
            streams=NUM_STREAMS,
            completed=NUM_STREAMS,
            rounds=rounds,
            total_streams=rounds * NUM_STREAMS,
            total_completed=rounds * NUM_STREAMS,
            faults_verified=True,
            rounds_without_a_move=0,
        ),
        *at_least(moved_streams=repeat * NUM_STREAMS * (1 if quick else 2), gap_p50_ms=0.0, gap_p99_ms=0.0),
        Demand(name="detect_max_s", at_least=0.001, at_most=MOST_DETECT_S),
    ]


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="two faults only")
    arguments.add_argument("--rounds", type=int, default=1, help="play everything so often")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    measured = asyncio.run(measure(QUICK if options.quick else FULL, repeat=options.rounds, seed=options.seed))
    finish(options, measured["result"], method=(__doc__ or "").strip(), details=measured["details"])
    exit_unless_met(unmet(measured["result"], demands(quick=options.quick, repeat=options.rounds)))


if __name__ == "__main__":
    main()
