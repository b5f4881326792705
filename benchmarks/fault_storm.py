"""Fault storm: real processes under sustained load while one fault after another strikes them.

    python -m benchmarks.fault_storm --json [--requests 5000] [--seed 1] [--quick | --calm | --power] [--output FILE]

Two prefill and three decode workers with the tagged engine and TCP hand-over links through proxies; 48 callers, each of
which sends a short request as soon as its last one ended. A seeded schedule applies every kind of fault of
`storm_faults` in turn (shuffled anew each time through) and checks that each took effect. One caller in twenty leaves
early, one in twenty reads slowly.

``requests`` counts a request if a fault was on at some moment of its life *and* it can have met it: it was served by a
worker that the fault was aimed at, or it took more than one attempt, or it did not end well; for numbers that turn NaN,
its prompt held the marked token; for faults on KV links, its KV was handed over to a worker whose link was struck.
Requests that were cancelled by their caller count by themselves. Warm-ups, requests between faults, slow readers, and
requests that other workers served undisturbed do not count; all that was sent is ``sent``. A request counts once,
whatever it met; ``by_kind`` in the details counts it under each fault that it met (slow readers too: nothing proves
that their slowness reached the worker).

After each round (one cluster, all kinds three times): checks L1 to L7, and I1 to I8 over its event logs. ``--calm`` is
the control: the same load and no fault at all, where nothing but cancels can count. ``--power`` shows that the storm
would notice: its workers take the digests of chunks on trust (R4), bytes are corrupted on KV links, and wrong KV must
be found.
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
from benchmarks.report import finish, parser, save, say
from benchmarks.storm_faults import KINDS, Strike, strike
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec, Verdict, random_specs, summarise
from tandem.chaos.cluster.caller import call
from tandem.chaos.leaks import check_leaks
from tandem.chaos.tagged.race import RaceSettings
from tandem.chaos.tagged.settings import TaggedCost

METHOD: Final = " ".join((__doc__ or "").split())
CALLERS: Final = 48
PAUSE_S: Final = 0.3  # between two faults
CALM_S: Final = 30.0
CYCLES: Final = 3  # of all kinds, on one cluster
QUICK_KINDS: Final = ("decode killed", "KV link reset", "KV frames doubled")
SHAPE: Final = Shape(
    name="storm",
    num_prefill=2,
    num_decode=3,
    engine={"num_blocks": 512, "max_batched_tokens": 256, "max_sequences": 64},
    router={"timers": SHORT_TIMERS},
    cost=TaggedCost(),
)
UNGUARDED: Final = replace(SHAPE, race=RaceSettings(unguarded="digest"))
POWER_KINDS: Final = ("KV bytes corrupted", "KV bytes corrupted")
FINDINGS: Final = ("wrong_tokens", "hangs", "broken", "leaks", "violations", "faults_without_effect")
"""What must be 0."""


@dataclass(slots=True)
class Tally:
    """Sums over rounds."""

    sent: int = 0
    faulted: int = 0
    wrong_tokens: int = 0
    hangs: int = 0
    broken: int = 0
    rounds: int = 0
    num_events: int = 0
    seconds: float = 0.0
    leaks: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    strikes: Counter[str] = field(default_factory=Counter)
    without_effect: list[str] = field(default_factory=list)


def specs(seed: int) -> Iterator[RequestSpec]:
    """Short requests without end; of each hundred about five leave and five read slowly."""
    dice = random.Random(seed)
    for number in itertools.count():
        batch = random_specs(
            256, seed=seed * 100_000 + number, max_prompt_blocks=2, max_output_tokens=8, max_n=1, deadline_s=30.0
        )
        for spec in batch:
            draw = dice.random()
            if draw < 0.05:
                yield replace(spec, cancel_after_s=dice.uniform(0.0, 0.4))
            elif draw < 0.10:
                yield replace(spec, read_delay_s=0.1)
            else:
                yield spec


def met(record: RequestRecord, one: Strike) -> bool:
    """Whether the request ran while the fault was on, and can have met it."""
    ended_s = record.ended_s if record.ended_s is not None else float("inf")
    if record.began_s > one.ended_s or ended_s < one.began_s:
        return False
    if one.mark is not None:
        return one.mark in record.spec.prompt
    if record.ending is not Ending.OK or record.attempts > 1 or record.workers is None:
        return True
    served = record.workers
    if one.on_kv_link and served.prefill_worker == served.decode_worker:
        return False
    return not one.victims.isdisjoint({str(served.prefill_worker), str(served.decode_worker)})


def how_it_ended(record: RequestRecord) -> str:
    """One word or two."""
    if record.verdict is Verdict.WRONG:
        return "WRONG"
    if record.ending is Ending.OK:
        return "ok after retry" if record.attempts > 1 else "ok"
    return f"error {record.reason}" if record.ending is Ending.ERROR else record.ending.value


def count(tally: Tally, records: Sequence[RequestRecord], strikes: Sequence[Strike]) -> None:
    """Add a round's requests."""
    summary = summarise(records)
    tally.sent += summary.num_requests
    tally.wrong_tokens += summary.wrong_tokens
    tally.hangs += summary.num_hangs
    tally.broken += summary.num_broken
    tally.problems += summary.problems
    tally.reasons.update(summary.reasons)
    effective = [one for one in strikes if one.took_effect]
    for record in records:
        kinds = {one.kind for one in effective if met(record, one)}
        if record.ending is Ending.CANCELLED:
            kinds.add("caller left")
        tally.faulted += bool(kinds)
        if record.spec.read_delay_s:
            kinds.add("slow reader")
        for kind in kinds:
            tally.by_kind.setdefault(kind, Counter())[how_it_ended(record)] += 1


async def _caller(world: World, todo: Iterator[RequestSpec], records: list[RequestRecord], over: asyncio.Event) -> None:
    while not over.is_set():
        records.append(await call(world.cluster.client(), next(todo)))


async def _schedule(world: World, kinds: Sequence[str], dice: random.Random, tally: Tally) -> list[Strike]:
    strikes: list[Strike] = []
    if not kinds:
        await asyncio.sleep(CALM_S)
    for name in dice.sample(list(kinds), len(kinds)):
        await asyncio.sleep(PAUSE_S)
        done = await strike(world, name, dice)
        strikes.append(done)
        say(f"{'ok  ' if done.took_effect else 'MISS'} {name}: {done.facts[:160]} {done.problems or ''}")
        tally.strikes[name] += 1
        tally.violations += done.problems
        if not done.took_effect:
            tally.without_effect.append(f"{name}: {done.facts}")
    return strikes


async def play(kinds: Sequence[str], *, seed: int, tally: Tally, shape: Shape = SHAPE) -> None:
    """One round: a cluster, its load, these kinds of faults, and what is left afterwards."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tandem-storm-") as folder:
        async with World(shape, Path(folder)) as world:
            records: list[RequestRecord] = []
            todo, over = specs(seed), asyncio.Event()
            began_s = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(_caller(world, todo, records, over))
                try:
                    strikes = await _schedule(world, kinds, dice, tally)
                finally:
                    over.set()
            tally.seconds += time.monotonic() - began_s
            say(f"{len(records)} requests in {time.monotonic() - began_s:.1f} s under {len(strikes)} faults; judging")
            await asyncio.to_thread(world.cluster.judge, records)
            count(tally, records, strikes)
            world.records += records
            say(f"{tally.faulted} met a fault, {tally.wrong_tokens} wrong, {dict(tally.reasons)}; looking for leaks")
            tally.leaks += await check_leaks(world.cluster)
            tally.wrong_tokens += len(world.cluster.mismatches())
        say(f"leaks: {tally.leaks[:3]}; reading the event logs")
        found = await asyncio.to_thread(audit, world)
        tally.num_events += found.num_events
        tally.violations += found.problems
    tally.rounds += 1


def result_of(tally: Tally) -> dict[str, Any]:
    """The figures."""
    return {
        "requests": tally.faulted,
        "sent": tally.sent,
        "sent_per_s": round(tally.sent / max(tally.seconds, 0.001), 1),
        "wrong_tokens": tally.wrong_tokens,
        "hangs": tally.hangs,
        "broken": tally.broken,
        "leaks": len(tally.leaks),
        "violations": len(tally.violations),
        "faults": sum(tally.strikes.values()),
        "faults_without_effect": len(tally.without_effect),
        "named_errors": sum(tally.reasons.values()),
        "rounds": tally.rounds,
    }


def details_of(tally: Tally) -> dict[str, Any]:
    """By fault kind: how those that met it ended."""
    return {
        "by_kind": {kind: dict(endings) for kind, endings in sorted(tally.by_kind.items())},
        "strikes": dict(tally.strikes),
        "reasons": dict(tally.reasons),
        "without_effect": tally.without_effect[:20],
        "leaks": tally.leaks[:20],
        "violations": tally.violations[:20],
        "problems": tally.problems[:20],
        "events_checked": tally.num_events,
    }


def show_power(options: argparse.Namespace) -> None:
    """One round with a guard taken away; the exit status says whether wrong KV was found."""
    tally = Tally()
    asyncio.run(play(POWER_KINDS, seed=options.seed, tally=tally, shape=UNGUARDED))
    result = {"caught_without_guard": tally.wrong_tokens, "faults": sum(tally.strikes.values()), "sent": tally.sent}
    finish(options, result, method=METHOD, details=details_of(tally))
    if not tally.wrong_tokens:
        sys.exit(1)


def main() -> None:
    """Play rounds until enough requests were faulted."""
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=5000, help="how many faulted ones (default 5000)")
    arguments.add_argument("--seed", type=int, default=1, help="of the first round (default 1)")
    arguments.add_argument("--quick", action="store_true", help="one round of three kinds")
    arguments.add_argument("--calm", action="store_true", help="one round without any fault")
    arguments.add_argument("--power", action="store_true", help="one round without a guard; it must be noticed")
    options = arguments.parse_args()
    if options.power:
        show_power(options)
        return
    kinds = () if options.calm else QUICK_KINDS if options.quick else tuple(KINDS) * CYCLES
    tally = Tally()
    for seed in itertools.count(options.seed):
        asyncio.run(play(kinds, seed=seed, tally=tally))
        say(f"round {tally.rounds}: {result_of(tally)}")
        if options.output is not None:
            save(options.output, result_of(tally), method=METHOD, details=details_of(tally))
        if options.calm or options.quick or not tally.faulted or tally.faulted >= options.requests:
            break
    finish(options, result_of(tally), method=METHOD, details=details_of(tally))
    if any(result_of(tally)[name] for name in FINDINGS):
        sys.exit(1)


if __name__ == "__main__":
    main()
