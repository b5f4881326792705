"""Tiers under faults: small pools, a small host tier and a Redis behind it, while workers, links and Redis are struck.

    python -m benchmarks.tier_storm --json [--seed 1] [--rounds 3] [--quick | --power] [--output FILE]

Two prefill and two decode workers (one with ``--quick``) with the tagged engine, whose KV says whose it is and
where it belongs: every step verifies the whole context of every row, so a promoted block that is not the prompt's own
is found by whoever reads it first, and counted as wrong. Callers ask again and again for prompts of a set that is
several times as large as the pools and host tiers together, so blocks leave the pool, leave the host tier, and come
back from both. One caller in twenty leaves early. Meanwhile workers are killed and stopped, KV links are cut and
corrupted, and Redis is killed, hangs, is flushed and forged. (`benchmarks.fault_storm` has every kind of worker
fault; its pools hold everything.)

``promoted``, ``demoted`` and ``rejected`` are blocks by tier, summed over the lives of the workers as the router knew
them about once a second: what a killed worker did in its last second is missing. ``rejected`` values are those that
were not the block that their name says; the forged ones. After each round: checks L1 to L7, and I1 to I8 over the event
logs. A run in which a tier promoted or demoted nothing has shown nothing, and fails. ``--power`` shows that the storm
would notice: its workers take what comes back from Redis on trust, blocks are forged there, and wrong KV must be found.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.fault_matrix.audit import audit
from benchmarks.fault_matrix.world import SHORT_TIMERS, Shape, World
from benchmarks.redis_fault_kinds import Down, Flushed, Forged, Hung, RedisFault
from benchmarks.redis_target import RedisTarget
from benchmarks.report import finish, parser, say
from benchmarks.storm_faults import strike
from tandem.chaos.cluster import RequestRecord, RequestSpec, summarise
from tandem.chaos.cluster.caller import call
from tandem.chaos.leaks import check_leaks
from tandem.chaos.tagged.race import RaceSettings
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.errors import TandemError
from tandem.core.types import StopParams

METHOD: Final = " ".join((__doc__ or "").split())
CALLERS: Final = 12
PAUSE_S: Final = 0.5  # between two faults
POLL_S: Final = 0.5
MAX_CALLS: Final = 4  # of a worker to Redis at once
NUM_DOCUMENTS: Final = 60
PATIENCE_S: Final = 20.0  # with a machine that is busy
USED: Final = ("host_promoted", "host_demoted", "remote_promoted", "remote_demoted")
"""What must not be 0."""
WORKER_KINDS: Final = (
    "prefill killed",
    "decode killed",
    "decode stopped 2 s",
    "KV link reset",
    "KV bytes corrupted",
    "prefill stream cut",
)
REDIS_KINDS: Final[tuple[type[RedisFault], ...]] = (Down, Hung, Flushed, Forged)
QUICK_KINDS: Final = ("prefill killed",)
QUICK_REDIS_KINDS: Final[tuple[type[RedisFault], ...]] = (Forged,)
POWER_KINDS: Final[tuple[type[RedisFault], ...]] = (Forged,)
GUARDED: Final = RaceSettings()
UNGUARDED: Final = RaceSettings(unguarded="seal")
FINDINGS: Final = ("wrong_tokens", "hangs", "broken", "leaks", "violations", "faults_without_effect")
"""What must be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How large and how long one round is."""

    num_decode: int = 2
    fill_s: float = 4.0  # before the first fault: the tiers fill; longer until each of them was used
    tail_s: float = 2.0  # after the last one: its traces are used too
    redis_on_s: float = 2.0


FULL_PACE: Final = Pace()
QUICK_PACE: Final = Pace(num_decode=1, fill_s=2.5, tail_s=1.0, redis_on_s=1.2)


def shape_of(redis_url: str, num_decode: int, *, race: RaceSettings) -> Shape:
    """The cluster: a pool holds about eight prompts, a host tier ten, and computing a block takes 48 ms."""
    return Shape(
        name="tiers",
        num_prefill=2,  # of which one may be dead: I7 wants one that serves
        num_decode=num_decode,
        engine={"num_blocks": 64, "max_batched_tokens": 64, "max_sequences": 12},
        router={"timers": SHORT_TIMERS},
        cost=TaggedCost(prefill_token_s=0.003, step_s=0.004),
        race=race,
        cache={
            "host": {"memory_bytes": 80 * 33_000},
            "redis": {"enabled": True, "url": redis_url, "max_in_flight": MAX_CALLS, "timeout_s": 0.1},
        },
    )


@dataclass(slots=True)
class Tally:
    """Sums over rounds."""

    sent: int = 0
    ok: int = 0
    cancelled: int = 0
    wrong_tokens: int = 0
    hangs: int = 0
    broken: int = 0
    rounds: int = 0
    num_events: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    without_effect: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)


class TierWatch:
    """Sums what the tiers of all lives of all workers did."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], int] = {}
        self._sums: Counter[str] = Counter()

    def saw(self, worker: str, tier: str, figure: str, value: int) -> None:
        """Take a total of a worker's present life; one that is smaller than before is of a new life."""
        before = self._last.get((worker, tier, figure), 0)
        self._sums[f"{tier}_{figure}"] += value - before if value >= before else value
        self._last[worker, tier, figure] = value

    def totals(self) -> Counter[str]:
        """By tier and figure."""
        return Counter(self._sums)

    async def until_used(self, figures: Sequence[str]) -> None:
        """Wait, but not for ever, until each figure is above 0."""
        for _ in range(int(PATIENCE_S / POLL_S)):
            if all(self._sums[figure] for figure in figures):
                return
            await asyncio.sleep(POLL_S)

    async def follow(self, world: World, over: asyncio.Event) -> None:
        """Look about once a second until it is over."""
        while not over.is_set():
            await self.look(world)
            await asyncio.sleep(POLL_S)

    async def look(self, world: World) -> None:
        """Take what the router knows now; nothing where it does not answer."""
        try:
            status = await world.cluster.operator().cache_status()
        except TandemError:
            return
        for worker in status.workers:
            for tier in () if worker.stats is None else worker.stats.tiers:
                for figure in ("promoted", "demoted", "rejected"):
                    self.saw(worker.worker_id, tier.tier.value, figure, int(getattr(tier, f"num_{figure}")))


def specs(seed: int) -> Iterator[RequestSpec]:
    """Questions about a set of documents, without end; about one in twenty of the callers leaves."""
    dice = random.Random(seed)
    documents = [tuple(dice.randint(4, 313) for _ in range(16 * dice.randint(5, 9))) for _ in range(NUM_DOCUMENTS)]
    for number in itertools.count():
        question = tuple(dice.randint(4, 313) for _ in range(dice.randint(1, 20)))
        spec = RequestSpec(
            prompt=(*dice.choice(documents), *question),
            stop=StopParams(max_tokens=dice.randint(1, 8)),
            label=f"tiers-{seed}-{number}",
        )
        leaves = dice.random() < 0.05
        yield replace(spec, cancel_after_s=dice.uniform(0.0, 0.5)) if leaves else spec


async def _caller(world: World, todo: Iterator[RequestSpec], records: list[RequestRecord], over: asyncio.Event) -> None:
    while not over.is_set():
        records.append(await call(world.cluster.client(), next(todo)))


async def _strike_redis(kind: type[RedisFault], target: RedisTarget, on_s: float, tally: Tally) -> None:
    fault = kind(target)
    await asyncio.to_thread(fault.begin)
    try:
        began_s = time.monotonic()
        while (lasted_s := time.monotonic() - began_s) < on_s or (not fault.evidence and lasted_s < PATIENCE_S):
            await asyncio.to_thread(fault.look)
            await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(fault.end)
    tally.strikes[f"Redis {fault.name}"] += 1
    say(f"{'ok  ' if fault.evidence else 'MISS'} Redis {fault.name}: {fault.evidence}")
    if not fault.evidence:
        tally.without_effect.append(f"Redis {fault.name}")


async def _strike_worker(name: str, world: World, dice: random.Random, tally: Tally) -> None:
    done = await strike(world, name, dice)
    tally.strikes[name] += 1
    tally.violations += done.problems
    say(f"{'ok  ' if done.took_effect else 'MISS'} {name}: {done.facts[:120]} {done.problems or ''}")
    if not done.took_effect:
        tally.without_effect.append(f"{name}: {done.facts}")


async def _load(
    world: World, target: RedisTarget, kinds: Sequence[str | type[RedisFault]], *, seed: int, pace: Pace, tally: Tally
) -> list[RequestRecord]:
    """Strike with every kind once, in an order of the seed's, under load; return the requests."""
    dice = random.Random(seed)
    records: list[RequestRecord] = []
    todo, over, watch = specs(seed), asyncio.Event(), TierWatch()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch.follow(world, over))
        for _ in range(CALLERS):
            group.create_task(_caller(world, todo, records, over))
        try:
            await asyncio.sleep(pace.fill_s)
            await watch.until_used(USED)
            for kind in dice.sample(list(kinds), len(kinds)):
                await asyncio.sleep(PAUSE_S)
                if isinstance(kind, str):
                    await _strike_worker(kind, world, dice, tally)
                else:
                    await _strike_redis(kind, target, pace.redis_on_s, tally)
            await asyncio.sleep(pace.tail_s)
        finally:
            over.set()
    await asyncio.sleep(1.5)  # the last figures are on their way to the router
    await watch.look(world)
    tally.tiers += watch.totals()
    return records


def _count(tally: Tally, records: Sequence[RequestRecord]) -> None:
    summary = summarise(records)
    tally.sent += summary.num_requests
    tally.ok += summary.num_ok
    tally.cancelled += sum(record.ending.value == "cancelled" for record in records)
    tally.wrong_tokens += summary.wrong_tokens
    tally.hangs += summary.num_hangs
    tally.broken += summary.num_broken
    tally.violations += summary.problems
    tally.reasons.update(summary.reasons)


async def play(
    kinds: Sequence[str | type[RedisFault]],
    *,
    seed: int,
    tally: Tally,
    pace: Pace = FULL_PACE,
    race: RaceSettings = GUARDED,
) -> None:
    """One round: a Redis, a cluster, its load, these kinds of faults, and what is left afterwards."""
    with RedisTarget("valkey") as target, tempfile.TemporaryDirectory(prefix="tandem-tiers-") as folder:
        async with World(shape_of(target.url, pace.num_decode, race=race), Path(folder)) as world:
            _allow_connections(world)
            records = await _load(world, target, kinds, seed=seed, pace=pace, tally=tally)
            await asyncio.to_thread(world.cluster.judge, records)
            _count(tally, records)
            world.records += records
            tally.leaks += await check_leaks(world.cluster)
            tally.wrong_tokens += len(world.cluster.mismatches())
        found = await asyncio.to_thread(audit, world)
        tally.num_events += found.num_events
        tally.violations += found.problems
    tally.rounds += 1


def _allow_connections(world: World) -> None:
    """A worker opens connections to Redis as it needs them, at most so many for look-ups and for blocks."""
    baseline = world.cluster.baseline
    world.cluster.baseline = replace(
        baseline,
        processes={
            name: size if name == "router" else replace(size, num_fds=size.num_fds + 2 * MAX_CALLS)
            for name, size in baseline.processes.items()
        },
    )


def result_of(tally: Tally) -> dict[str, Any]:
    """The figures."""
    return {
        "requests": tally.sent,
        "ok": tally.ok,
        "cancelled": tally.cancelled,
        "named_errors": sum(tally.reasons.values()),
        **{f"{tier}_{figure}": tally.tiers[f"{tier}_{figure}"] for tier in ("host", "remote") for figure in _FIGURES},
        "wrong_tokens": tally.wrong_tokens,
        "hangs": tally.hangs,
        "broken": tally.broken,
        "leaks": len(tally.leaks),
        "violations": len(tally.violations),
        "faults": sum(tally.strikes.values()),
        "faults_without_effect": len(tally.without_effect),
        "rounds": tally.rounds,
    }


_FIGURES: Final = ("promoted", "demoted", "rejected")


def problems_of(result: dict[str, Any]) -> list[str]:
    """Return what is not as it must be, in words."""
    return [
        *(f"{name} is {result[name]}, not 0" for name in FINDINGS if result[name]),
        *(f"{name} is 0: the tiers were not used" for name in USED if not result[name]),
    ]


def details_of(tally: Tally) -> dict[str, Any]:
    """What struck, and what was found."""
    return {
        "strikes": dict(tally.strikes),
        "reasons": dict(tally.reasons),
        "without_effect": tally.without_effect[:20],
        "leaks": tally.leaks[:20],
        "violations": tally.violations[:20],
        "events_checked": tally.num_events,
    }


def show_power(options: argparse.Namespace) -> None:
    """One round with a guard taken away; the exit status says whether wrong KV was found."""
    tally = Tally()
    asyncio.run(play(POWER_KINDS, seed=options.seed, tally=tally, pace=QUICK_PACE, race=UNGUARDED))
    result = {"caught_without_guard": tally.wrong_tokens, "faults": sum(tally.strikes.values()), "requests": tally.sent}
    finish(options, result, method=METHOD, details=details_of(tally))
    if not tally.wrong_tokens:
        sys.exit(1)


def main() -> None:
    """Play the rounds."""
    arguments = parser(__doc__)
    arguments.add_argument("--seed", type=int, default=1, help="of the first round (default 1)")
    arguments.add_argument("--rounds", type=int, default=2, help="clusters, each of which meets every kind (default 2)")
    arguments.add_argument("--quick", action="store_true", help="one round of two kinds")
    arguments.add_argument("--power", action="store_true", help="one round without a guard; it must be noticed")
    options = arguments.parse_args()
    if options.power:
        show_power(options)
        return
    kinds: Sequence[str | type[RedisFault]]
    kinds = (*QUICK_KINDS, *QUICK_REDIS_KINDS) if options.quick else (*WORKER_KINDS, *REDIS_KINDS)
    tally = Tally()
    for number in range(1 if options.quick else options.rounds):
        asyncio.run(
            play(kinds, seed=options.seed + number, tally=tally, pace=QUICK_PACE if options.quick else FULL_PACE)
        )
        say(f"round {tally.rounds}: {result_of(tally)}")
    result = result_of(tally)
    finish(options, result, method=METHOD, details=details_of(tally))
    for problem in problems_of(result):
        say(problem)
    if problems_of(result):
        sys.exit(1)


if __name__ == "__main__":
    main()
