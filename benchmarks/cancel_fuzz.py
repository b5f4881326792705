"""Cancel fuzz: real processes, most callers leave at a random moment, the rest must get exactly their answer.

    python -m benchmarks.cancel_fuzz --json [--requests 5000] [--quick] [--output FILE]

One prefill and two decode workers with the tagged engine, a KV pool that is too small for all, three tenants, greedy
and sampled requests, one to three sequences, lengths around block edges. An undisturbed batch tells how long a request
of which size lives; from then on callers leave at a uniform time of that life, as the batch before has shown it, so
that three in five are gone before their answer is whole. Afterwards nothing may be left (checks L1 to L7), and
``free_p99_s`` says how long after a cancel left its caller the request still held a KV block on any worker: callers and
workers log the same machine's CLOCK_MONOTONIC, so their times are compared as they are. Requests that held no block any
more when the cancel left are not part of that figure.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.demands import Demand, at_least, at_most, exactly, exit_unless_met, none_of, unmet
from benchmarks.report import finish, parser, say
from tandem.chaos.cluster import (
    ChaosCluster,
    ChaosOptions,
    Ending,
    RequestRecord,
    RequestSpec,
    random_specs,
    summarise,
)
from tandem.chaos.leaks import check_leaks, check_usage
from tandem.chaos.leaks.freeing import read_block_history
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.trace import check as check_trace

TENANTS = ("amber", "birch", "cedar")
CONCURRENCY = 48
CANCEL_SHARE = 0.6
BATCH = 250
PER_CLUSTER = 5000  # event logs grow: a long campaign is many clusters
FINDINGS = ("wrong_tokens", "hangs", "errors", "leaks", "trace_violations", "worker_deaths")
MOST_FREE_P99_S = 1.0
QUICK_REQUESTS = 600
COST = TaggedCost(prefill_token_s=0.0002, step_s=0.004)


@dataclass(slots=True)
class Tally:
    """Sums over clusters."""

    requests: int = 0
    cancelled: int = 0
    wrong_tokens: int = 0
    hangs: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    tag_mismatches: int = 0
    num_events: int = 0
    worker_deaths: int = 0
    num_tokens_verified: int = 0
    leaks: list[str] = field(default_factory=list)
    trace_violations: list[str] = field(default_factory=list)
    freed_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class CancelPlan:
    """Draws who leaves, and when: uniform over the life that a request of this size has had lately.

    How long requests live changes with the machine and with how many leave, so each batch is fitted to the one before;
    the share that is asked to leave follows the share that was gone before the end.
    """

    def __init__(self, calibration: Sequence[RequestRecord], seed: int) -> None:
        self._dice = random.Random(seed)
        self._share = CANCEL_SHARE
        self._fit(calibration)

    def over(self, specs: Sequence[RequestSpec]) -> list[RequestSpec]:
        """Let some of them leave."""
        return [replace(spec, cancel_after_s=self._leaves_after_s(spec)) for spec in specs]

    def learn(self, records: Sequence[RequestRecord]) -> None:
        """Take a batch's lives for the next one's."""
        self._fit(records)
        share_gone = summarise(records).num_cancelled / len(records)
        if share_gone > 0.0:
            self._share = min(0.95, self._share * CANCEL_SHARE / share_gone)

    def _leaves_after_s(self, spec: RequestSpec) -> float | None:
        if self._dice.random() >= self._share:
            return None
        return self._dice.uniform(0.0, max(0.02, float(np.dot(_size(spec), self._coefficients))))

    def _fit(self, records: Sequence[RequestRecord]) -> None:
        whole = [record for record in records if record.ending is Ending.OK]
        sizes = np.array([_size(record.spec) for record in whole])
        lives_s = np.array([(record.ended_s or 0.0) - record.began_s for record in whole])
        self._coefficients = np.linalg.lstsq(sizes, lives_s, rcond=None)[0]


def _size(spec: RequestSpec) -> tuple[float, float, float, float]:
    return (1.0, float(len(spec.prompt)), float(spec.stop.max_tokens), float(spec.stop.max_tokens * spec.n))


async def run_cluster(num_requests: int, *, seed: int, tally: Tally) -> None:
    """One cluster's share of the campaign."""
    options = ChaosOptions(
        num_prefill=1,
        num_decode=2,
        tenants=TENANTS,
        registry="embedded",  # a Redis, whose keys are checked too
        cost=COST,
        engine={"num_blocks": 160, "max_sequences": 48, "max_batched_tokens": 256},
    )
    async with ChaosCluster(options) as cluster:
        specs = random_specs(num_requests, seed=seed, tenants=TENANTS)
        calibration = await cluster.run_requests(specs[:BATCH], concurrency=CONCURRENCY)
        plan = CancelPlan(calibration, seed)
        records: list[RequestRecord] = []
        for start in range(0, num_requests, BATCH):
            batch = await cluster.run_requests(plan.over(specs[start : start + BATCH]), concurrency=CONCURRENCY)
            plan.learn(batch)
            records += batch
        tally.leaks += await check_leaks(cluster)
        _count(tally, calibration, records, cluster)
        logs = cluster.event_logs()
        history = read_block_history(logs)
        history.name_requests(records)
        tally.freed_s += [after_s for record in records if (after_s := history.freed_after_s(record)) is not None]
        tally.leaks += check_usage(logs, [*calibration, *records])
        trace = await asyncio.to_thread(check_trace, logs)
        tally.num_events += trace.num_events
        tally.trace_violations += [str(violation) for violation in trace.violations]


def _count(
    tally: Tally, calibration: Sequence[RequestRecord], records: Sequence[RequestRecord], cluster: ChaosCluster
) -> None:
    summary = summarise([*calibration, *records])
    tally.requests += len(records)
    tally.cancelled += summarise(records).num_cancelled
    tally.wrong_tokens += summary.wrong_tokens
    tally.hangs += summary.num_hangs
    tally.problems += summary.problems
    for reason, count in summary.reasons.items():
        tally.errors[reason] = tally.errors.get(reason, 0) + count
    if summary.num_broken:
        tally.errors["BROKEN"] = tally.errors.get("BROKEN", 0) + summary.num_broken
    verified = cluster.verified()
    tally.tag_mismatches += verified.tag_mismatches
    tally.worker_deaths += sum(cluster.num_restarts(worker_id) for worker_id in cluster.worker_ids)
    tally.num_tokens_verified += verified.num_tokens


async def campaign(num_requests: int, *, first_seed: int = 1) -> Tally:
    """Run ``num_requests`` over as many clusters as that takes."""
    tally = Tally()
    seed = first_seed
    while tally.requests < num_requests:
        await run_cluster(min(PER_CLUSTER, num_requests - tally.requests), seed=seed, tally=tally)
        seed += 1
        say(f"{tally.requests} requests, {tally.cancelled} cancelled, {tally.wrong_tokens} wrong, {tally.leaks[:3]}")
    return tally


def result_of(tally: Tally) -> dict[str, Any]:
    """The figures."""
    freed = sorted(tally.freed_s)
    return {
        "requests": tally.requests,
        "cancelled": tally.cancelled,
        "wrong_tokens": tally.wrong_tokens + tally.tag_mismatches,
        "hangs": tally.hangs,
        "errors": sum(tally.errors.values()),
        "leaks": len(tally.leaks),
        "trace_violations": len(tally.trace_violations),
        "worker_deaths": tally.worker_deaths,
        "cancelled_holding_blocks": len(freed),
        "free_p50_s": round(freed[len(freed) // 2], 4) if freed else None,
        "free_p99_s": round(freed[int(0.99 * (len(freed) - 1))], 4) if freed else None,
        "free_max_s": round(freed[-1], 4) if freed else None,
    }


def demands(num_requests: int) -> list[Demand]:
    """What the figures must be. Few callers who leave, or few who leave while blocks are held, would show nothing."""
    return [
        *none_of(*FINDINGS),
        *exactly(requests=num_requests),
        *at_least(cancelled=0.5 * num_requests, cancelled_holding_blocks=0.1 * num_requests),
        *at_most(free_p99_s=MOST_FREE_P99_S),
    ]


def main() -> None:
    """Run it."""
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=5000, help="how many requests (default 5000)")
    arguments.add_argument("--seed", type=int, default=1, help="of the first cluster's requests (default 1)")
    arguments.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests")
    options = arguments.parse_args()
    num_requests = QUICK_REQUESTS if options.quick else options.requests
    tally = asyncio.run(campaign(num_requests, first_seed=options.seed))
    details = {
        "num_events_checked": tally.num_events,
        "num_tokens_verified": tally.num_tokens_verified,
        "errors": tally.errors,
        "leaks": tally.leaks[:20],
        "trace_violations": tally.trace_violations[:20],
        "problems": tally.problems[:20],
    }
    result = result_of(tally)
    finish(options, result, method=" ".join((__doc__ or "").split()), details=details)
    exit_unless_met(unmet(result, demands(num_requests)))


if __name__ == "__main__":
    main()
