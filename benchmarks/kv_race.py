"""KV race: leases that end while the receiver stands still, in a pool where every block is used again at once.

    python -m benchmarks.kv_race --json [--quick] [--output FILE]

Real processes with the tagged engine: leases of 50 ms, a receiver that stands still for 2 s at a time, 24 blocks on
either side, no prefix cache, and more requests than fit. A *victim* is a hand-over whose lease ended before its KV was
taken over; ``stale_refused`` counts chunks that were refused because their source or their destination was no longer
theirs. Every request that is answered must be answered exactly; the others end in a named error. Then the same with one
guard taken away inside the benchmark's own workers, once on the sending side (R3) and once on the receiving side (R2):
the tagged engine must find wrong KV, or the test could not have failed. In between, an ended lease stops nothing, and
the look at the block table before each copy is the only guard left: ``refused_by_that_look_alone`` chunks, no wrong KV.

Without the receiving side's guard a late write is seen only if the block's next owner has had its KV and decodes from
it. One connection brings chunks in order, so that KV would come after the late write and mend it: that race has two
prefill workers, of whose connections one stands still at a time, and answers that outlast it.
"""

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.demands import Demand, at_least, exit_unless_met, none_of, unmet
from benchmarks.report import finish, parse, say
from tandem.chaos.cluster import ChaosCluster, ChaosOptions, WorkerChaos, random_specs, summarise
from tandem.chaos.leaks import check_leaks
from tandem.chaos.tagged.race import RaceSettings, read_refusals
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.reasons import KV_LEASE
from tandem.kvtransfer.timers import LeaseTimers

Guard = Literal["", "lease", "source", "destination"]
NUM_BLOCKS = 24
BLOCK_SIZE = 4
LEASE = LeaseTimers(lease_s=0.05, renewal_s=0.05, scan_period_s=0.01)
ROUND = 60
MOST_S = 150.0
POWER = 5  # rows with wrong KV that a race without its guard must find, or the guarded ones say little
WIDE = 6 * POWER  # rows for which such a race goes on: a floor that is just met would not always be
VICTIMS = 200
QUICK_VICTIMS = 20
CONCURRENCY = 40
SLOW_STEP_S = 0.03
GUARDED_DEADLINE_S = 12.0
UNGUARDED_DEADLINE_S = 5.0  # some hand-overs never end there


@dataclass(slots=True, kw_only=True)
class RaceOutcome:
    """What one race brought."""

    requests: int = 0
    answered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    victims: int = 0
    stale_refused: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    wrong_tokens: int = 0  # in what callers got
    hangs: int = 0
    wrong_kv: int = 0  # rows in which the tagged engine found KV that was not theirs
    leaks: list[str] = field(default_factory=list)
    seconds: float = 0.0


def options(unguarded: Guard, *, transport: Literal["shm", "tcp"], delay_s: float) -> ChaosOptions:
    """Return the cluster of one race."""
    race = RaceSettings(receiver_delay_s=delay_s, unguarded=unguarded)
    everywhere = WorkerChaos(program={"lease": LEASE, "race": race})
    return ChaosOptions(
        # A late write into a block is seen if its next owner has all its KV and goes on decoding from it: that KV
        # comes over the other worker's connection, and the answer must outlast the stand-still.
        num_prefill=2 if unguarded == "destination" else 1,
        num_decode=1,
        transports=(transport,),
        cost=TaggedCost(step_s=SLOW_STEP_S if unguarded == "destination" else 0.001),
        # A block must go from one request to the next at once; a cache would keep it for a while.
        cluster={"prefix_cache": {"enabled": False}},
        engine={"num_blocks": NUM_BLOCKS, "block_size": BLOCK_SIZE, "max_sequences": 32, "growth_margin": 0.0},
        # A pair whose hand-overs fail is what is wanted here, so nobody may give it up.
        router={
            "placement": {"mode": "split"},
            "recovery": {"pair_failures_to_open": 100, "pair_probe_after_s": 0.01},
        },
        all_workers=everywhere,
        # Where nobody tells the receiver that a lease has ended it keeps its blocks: it needs more of them for the
        # sender's to be used again at all.
        workers={"decode-0": replace(everywhere, engine={"num_blocks": 8 * NUM_BLOCKS})}
        if unguarded in ("lease", "source")
        else {},
        event_log=False,
        warm_up=False,
    )


async def race(
    unguarded: Guard, *, transport: Literal["shm", "tcp"], delay_s: float, enough: int, most_s: float
) -> RaceOutcome:
    """Send rounds of requests until there are ``enough`` victims (guarded) or wrong rows (unguarded), or time is up."""
    outcome = RaceOutcome()
    async with ChaosCluster(options(unguarded, transport=transport, delay_s=delay_s)) as cluster:
        began_s = time.monotonic()
        number = 0
        while time.monotonic() - began_s < most_s:
            specs = random_specs(
                ROUND,
                seed=1000 + number,
                block_size=BLOCK_SIZE,
                max_prompt_blocks=4,
                max_output_tokens=40 if unguarded == "destination" else 8,
                max_n=2,
                deadline_s=GUARDED_DEADLINE_S if not unguarded else UNGUARDED_DEADLINE_S,
            )
            summary = summarise(await cluster.run_requests(specs, concurrency=CONCURRENCY))
            number += 1
            if number == 1:
                await cluster.settled()
                await cluster.take_baseline()  # with every connection open
            outcome.requests += summary.num_requests
            outcome.answered += summary.num_ok
            outcome.wrong_tokens += summary.wrong_tokens
            outcome.hangs += summary.num_hangs
            for reason, count in summary.reasons.items():
                outcome.errors[reason] = outcome.errors.get(reason, 0) + count
            refusals = read_refusals(cluster.folders.evidence)
            outcome.victims = refusals["failed"][KV_LEASE]
            outcome.refusals = {name: n for name, n in refusals["counters"].items() if n and name.startswith("stale")}
            outcome.stale_refused = sum(outcome.refusals.values())
            outcome.wrong_kv = cluster.verified().tag_mismatches
            if _progress(outcome, unguarded) >= enough:
                break
        outcome.seconds = round(time.monotonic() - began_s, 1)
        if not unguarded:
            outcome.leaks = await check_leaks(cluster)
    say(f"{transport} without {unguarded or 'nothing'}: {outcome}")
    return outcome


def _progress(outcome: RaceOutcome, unguarded: Guard) -> int:
    match unguarded:
        case "":
            return outcome.victims
        case "lease":
            return outcome.refusals.get("stale_source", 0)
        case _:
            return outcome.wrong_kv


async def campaign(*, quick: bool) -> dict[str, RaceOutcome]:
    """Run all races; quick: one transport, and the sending side's guards."""
    if quick:
        return {
            "guarded_shm": await race("", transport="shm", delay_s=0.3, enough=QUICK_VICTIMS, most_s=12.0),
            "source": await race("source", transport="shm", delay_s=0.3, enough=POWER, most_s=12.0),
        }
    return {
        "guarded_shm": await race("", transport="shm", delay_s=2.0, enough=VICTIMS, most_s=MOST_S),
        "guarded_tcp": await race("", transport="tcp", delay_s=2.0, enough=VICTIMS, most_s=MOST_S),
        "lease": await race("lease", transport="shm", delay_s=2.0, enough=WIDE, most_s=MOST_S),
        "destination": await race("destination", transport="shm", delay_s=2.0, enough=WIDE, most_s=MOST_S),
        "source": await race("source", transport="shm", delay_s=2.0, enough=WIDE, most_s=MOST_S),
    }


def result_of(outcomes: dict[str, RaceOutcome]) -> dict[str, Any]:
    """The figures: sums over the races with every guard, and what was found or refused without one."""
    guarded = [outcome for name, outcome in outcomes.items() if name.startswith("guarded")]
    sound = [*guarded, *(outcome for name, outcome in outcomes.items() if name == "lease")]
    result: dict[str, Any] = {
        "requests": sum(outcome.requests for outcome in sound),
        "victims": sum(outcome.victims for outcome in guarded),
        "stale_refused": sum(outcome.stale_refused for outcome in guarded),
        "wrong_tokens": sum(outcome.wrong_tokens + outcome.wrong_kv for outcome in sound),
        "hangs": sum(outcome.hangs for outcome in guarded),
        "leaks": sum(len(outcome.leaks) for outcome in guarded),
        "caught_without_guard": outcomes["source"].wrong_kv,
    }
    if "destination" in outcomes:
        result["caught_without_receiver_guard"] = outcomes["destination"].wrong_kv
        result["refused_by_that_look_alone"] = outcomes["lease"].refusals.get("stale_source", 0)
    return result


def demands(*, quick: bool) -> list[Demand]:
    """What the figures must be. The races of the quick form are fewer and shorter."""
    sound = none_of("wrong_tokens", "hangs", "leaks")
    if quick:
        return [*sound, *at_least(victims=QUICK_VICTIMS, stale_refused=POWER, caught_without_guard=POWER)]
    return [
        *sound,
        *at_least(
            victims=VICTIMS,
            stale_refused=POWER,
            caught_without_guard=POWER,
            caught_without_receiver_guard=POWER,
            refused_by_that_look_alone=POWER,
        ),
    ]


def main() -> None:
    """Run it."""
    arguments = parse(__doc__, "quick")
    outcomes = asyncio.run(campaign(quick=arguments.quick))
    details = {
        name: {field_: getattr(outcome, field_) for field_ in RaceOutcome.__dataclass_fields__}
        for name, outcome in outcomes.items()
    }
    result = result_of(outcomes)
    finish(arguments, result, method=" ".join((__doc__ or "").split()), details=details)
    exit_unless_met(unmet(result, demands(quick=arguments.quick)))


if __name__ == "__main__":
    main()
