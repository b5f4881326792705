"""One seed from its first event to its verdict."""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from tandem.chaos.simulation.cluster import SimCluster
from tandem.chaos.simulation.faults import unleash
from tandem.chaos.simulation.plan import ClusterPlan, Timeline, draw_plan, with_caches
from tandem.chaos.simulation.quiet import quiet_logs
from tandem.chaos.simulation.refusals import refused_for_nothing
from tandem.chaos.simulation.workload import draw_ask, draw_asks
from tandem.chaos.simulation.world import World

_NUM_PROBES = 3
_CACHE_SHARE = 0.6  # of all seeds
_SHOWN_NOTES = 60
_LAST_AWAY_S = 21.0  # the last worker to be drained leaves 10 s later, starts 8 s after that, and is found 3 s later


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """What came of one seed."""

    seed: int
    digest: str
    violations: tuple[str, ...]
    outcomes: Mapping[str, int]
    hits: Mapping[str, int]
    num_requests: int
    num_tokens: int
    num_events: int
    num_traced: int
    num_attempts: int
    simulated_s: float
    cpu_s: float
    last_notes: tuple[str, ...]


def run_seed(
    seed: int,
    *,
    timeline: Timeline | None = None,
    is_calm: bool = False,
    focus: Collection[str] = (),
    is_replay: bool = False,
    alter: Callable[[ClusterPlan], ClusterPlan] = lambda plan: plan,
) -> SeedResult:
    """Run it. A calm run has no faults: all end OK (but see `refusals`). ``focus`` names the only kinds of faults."""
    with quiet_logs():
        return _run(seed, timeline or Timeline(), is_calm=is_calm, focus=focus, is_replay=is_replay, alter=alter)


def _run(
    seed: int,
    timeline: Timeline,
    *,
    is_calm: bool,
    focus: Collection[str],
    is_replay: bool,
    alter: Callable[[ClusterPlan], ClusterPlan],
) -> SeedResult:
    began_s = time.process_time()
    world = World(seed, is_replay=is_replay)
    rng = random.Random(f"plan {seed}")
    plan = draw_plan(rng, is_calm=is_calm)
    cache_rng = random.Random(f"cache {seed}")
    if cache_rng.random() < _CACHE_SHARE:
        plan = with_caches(plan, cache_rng)
    cluster = SimCluster(world, alter(plan))
    schedule_load(cluster, rng, timeline)
    cluster.judge.must_serve_from_s = 0.0 if is_calm else timeline.faults_end_s + _LAST_AWAY_S
    if not is_calm:
        unleash(cluster, rng, until_s=timeline.faults_end_s, focus=focus)
    world.at(timeline.faults_end_s, cluster.heal)
    world.run_until(timeline.end_s)
    while not world.violations and world.now_s < timeline.quiet_by_s and not cluster.is_quiet():
        world.run_until(world.now_s + 0.5)
    if not world.violations:
        cluster.reckon()
    num_traced = cluster.judge.finish()
    world.note("world", f"ends: {world.num_events} events, {num_traced} traced, next chance {world.rng.random()}")
    if is_calm and not world.violations:
        for caller in refused_for_nothing(cluster.callers, cluster.plan):
            world.violation("calm", f"{caller.name} ended {caller.outcome} {caller.reason} without any fault")
    return SeedResult(
        seed=seed,
        digest=world.digest,
        violations=tuple(world.violations),
        outcomes=Counter(
            "router_lost"
            if caller.outcome is None
            else f"{caller.outcome}{':' if caller.reason else ''}{caller.reason}"
            for caller in cluster.callers
        ),
        hits=dict(world.hits),
        num_requests=len(cluster.callers),
        num_tokens=sum(caller.num_tokens for caller in cluster.callers),
        num_events=world.num_events,
        num_traced=num_traced,
        num_attempts=sum(caller.num_attempts for caller in cluster.callers),
        simulated_s=world.now_s,
        cpu_s=time.process_time() - began_s,
        last_notes=tuple(world.notes)[-_SHOWN_NOTES:] if not is_replay else tuple(world.notes),
    )


def schedule_load(cluster: SimCluster, rng: random.Random, timeline: Timeline) -> None:
    """Have the callers come, and at the end those whose requests must succeed."""
    plan = cluster.plan.workload
    for ask in draw_asks(rng, plan, begin_s=1.0, end_s=timeline.load_ends_s):
        cluster.world.at(ask.at_s, partial(cluster.ask, ask))
    for index in range(_NUM_PROBES):
        at_s = timeline.probes_s + 0.3 * index
        probe = draw_ask(rng, plan, at_s=at_s, name=f"probe{index}", is_probe=True)
        cluster.world.at(at_s, partial(cluster.ask, probe))
