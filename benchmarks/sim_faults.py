"""Seeded simulation: a whole cluster on virtual time under drawn faults; every oracle must hold for every seed.

    python -m benchmarks.sim_faults --json [--seeds 0:2000] [--seconds 60] [--jobs 2] [--quick] [--output FILE]

Each seed draws a cluster (1 to 2 prefill and 1 to 3 decode workers, pools of 8 to 100 blocks), callers and a part of
the fault kinds; every tenth seed has no faults and is the control. Production objects run: dispatcher, roles, engine,
hand-over services, machines and frames; processes, threads, sockets and the model are stand-ins (see
`tandem.chaos.simulation`). Judged are: exact tokens and text, one terminal outcome, order, deadlines, every block and
attempt freed, service after the faults, invariants I1 to I6 and I8 by the trace checker, and foreign KV in any step.
"""

from typing import Any

from benchmarks.demands import Demand, at_least, exactly, exit_unless_met, none_of, unmet
from benchmarks.report import finish, parser, say
from tandem.chaos.simulation.campaign import Sum, describe, run_campaign
from tandem.chaos.simulation.faults import ALL_KINDS
from tandem.chaos.simulation.plan import Timeline

QUICK_SEEDS = 60
WHOLE_SEEDS = 500


def demands(num_seeds: int, *, is_whole: bool) -> list[Demand]:
    """What the figures must be; a run of many seeds meets every kind of fault."""
    kinds = [*at_least(fault_kinds_hit=len(ALL_KINDS), calm_seeds=1)] if is_whole else []
    return [*exactly(seeds=num_seeds), *none_of("violations"), *kinds]


def main() -> None:
    """Run the seeds; the exit status says whether no oracle was broken."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", default="0:2000", metavar="FROM:TO")
    arguments.add_argument("--seconds", type=float, default=60.0, help="simulated seconds per seed")
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds")
    options = arguments.parse_args()
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end))
    if options.quick:
        seeds = seeds[:QUICK_SEEDS]
    total = run_campaign(seeds, timeline=Timeline(end_s=options.seconds), jobs=options.jobs, tell=say)
    finish(options, total.facts(), method=__doc__ or "", details=_details(total, seeds, options.seconds))
    exit_unless_met(unmet(total.facts(), demands(len(seeds), is_whole=len(seeds) >= WHOLE_SEEDS)))


def _details(total: Sum, seeds: range, seconds: float) -> dict[str, Any]:
    return {
        "seed_range": [seeds.start, seeds.stop],
        "simulated_seconds_per_seed": seconds,
        "faults_by_kind": {kind: total.hits[kind] for kind in ALL_KINDS},
        "outcomes": dict(total.outcomes.most_common()),
        "failed": [describe(result).splitlines()[:3] for result in total.failed],
    }


if __name__ == "__main__":
    main()
