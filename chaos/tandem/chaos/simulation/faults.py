"""Faults by kind: what each does to a running cluster, and when it is over. A seed switches a part of the kinds on."""

import random
from collections.abc import Callable, Collection
from functools import partial

from tandem.chaos.simulation.cluster import REGISTRY, ROUTER, SimCluster
from tandem.chaos.simulation.mangler import Mangler, Rates
from tandem.chaos.simulation.network import Plane
from tandem.chaos.simulation.worker import SimWorker
from tandem.core.types import Role
from tandem.kvtransfer.machine.lease import LeaseTable

Fault = Callable[[SimCluster], None]


def _pick(cluster: SimCluster, role: Role | None = None) -> SimWorker | None:
    workers = [w for _, w in sorted(cluster.workers.items()) if role in (None, w.plan.role)]
    return cluster.world.rng.choice(workers) if workers else None


def _crash(role: Role, cluster: SimCluster) -> None:
    worker = _pick(cluster, role)
    if worker is not None:
        cluster.world.hit(f"crash_{role.value}")
        worker.process.kill()


def _lose_power(cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is not None:
        cluster.world.hit("power_loss")
        cluster.lose_power(worker)


def _pause(longest_s: float, kind: str, cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is not None and worker.process.paused_since_s is None:
        cluster.world.hit(kind)
        worker.process.pause()
        cluster.world.after(cluster.world.rng.uniform(0.1, longest_s), worker.process.resume)


def _cut(pairs: list[tuple[str, str]], plane: Plane, kind: str, cluster: SimCluster) -> None:
    if not pairs:
        return
    world = cluster.world
    world.hit(kind)
    lasts_s = world.rng.choice((0.3, 2.0, 6.0, 20.0)) * world.rng.random()
    for source, target in pairs:
        world.note("network", f"cut {source} -> {target} on {plane} for {lasts_s:.2f} s")
        cluster.network.cut(source, target, plane)
        world.after(lasts_s, partial(cluster.network.heal, source, target, plane))


def _router_partition(one_way: bool, cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is None:
        return
    pairs = [(ROUTER, worker.plan.name), (worker.plan.name, ROUTER)]
    if one_way:
        pairs = [cluster.world.rng.choice(pairs)]
    _cut(pairs, Plane.ATTACH, "router_one_way" if one_way else "router_partition", cluster)


def _pair_partition(one_way: bool, cluster: SimCluster) -> None:
    one, other = _pick(cluster, Role.PREFILL), _pick(cluster, Role.DECODE)
    if one is None or other is None:
        return
    pairs = [(one.plan.name, other.plan.name), (other.plan.name, one.plan.name)]
    if one_way:
        pairs = [cluster.world.rng.choice(pairs)]
    _cut(pairs, Plane.KV, "pair_one_way" if one_way else "pair_partition", cluster)


def _swizzle(cluster: SimCluster) -> None:
    """Clog a random part of all paths one after another, then unclog them in another order."""
    world = cluster.world
    paths = [(s, t, plane) for plane in Plane for s, t in cluster.network.paths(plane) if REGISTRY not in (s, t)]
    chosen = [path for path in paths if world.rng.random() < 0.5]
    if not chosen:
        return
    world.hit("swizzle_clog")
    world.rng.shuffle(chosen)
    for index, path in enumerate(chosen):
        world.after(0.2 * index, partial(cluster.network.cut, *path))
    world.rng.shuffle(chosen)
    for index, path in enumerate(chosen):
        world.after(0.2 * len(chosen) + 1.0 + 0.3 * index, partial(cluster.network.heal, *path))


def _kv_link_cut(cluster: SimCluster) -> None:
    links = [c for c in cluster.fabric.connections if c.is_open]
    if links:
        cluster.world.hit("kv_link_cut")
        cluster.world.rng.choice(links).reset()


def _stream_reset(cluster: SimCluster) -> None:
    links = [link.connection for link in cluster.router.links.values() if link.connection is not None]
    if links:
        cluster.world.hit("stream_reset")
        cluster.world.rng.choice(links).reset()


def _slow_path(plane: Plane, cluster: SimCluster) -> None:
    paths = cluster.network.paths(plane)
    if not paths:
        return
    world = cluster.world
    world.hit(f"slow_{plane.value}")
    source, target = world.rng.choice(paths)
    cluster.network.slow(source, target, plane, world.rng.uniform(0.05, 0.8))
    world.after(world.rng.uniform(0.5, 8.0), partial(cluster.network.heal, source, target, plane))


def _early_lease_end(cluster: SimCluster) -> None:
    """Every lease of one prefill worker ends now, as after a long pause."""
    worker = _pick(cluster, Role.PREFILL)
    if worker is None or worker.sender is None:
        return
    leases: LeaseTable = worker.sender._leases
    if len(leases):
        cluster.world.hit("lease_end_early")
        for key in list(leases._ends_s):
            leases._ends_s[key] = float("-inf")


def _lose_beats(cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is not None:
        worker.beats_are_lost = True

        def again() -> None:
            worker.beats_are_lost = False

        cluster.world.after(cluster.world.rng.uniform(2.0, 15.0), again)


def _arm(what: str, cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is not None:
        worker.faults.add(what)


def _flush_directory(cluster: SimCluster) -> None:
    cluster.world.hit("directory_flush")
    for info in cluster.directory.workers():
        cluster.directory.deregister(info.worker_id, info.epoch)


def _drain(cluster: SimCluster) -> None:
    worker = _pick(cluster)
    if worker is None or worker.loop.is_draining or worker.process.paused_since_s is not None:
        return
    cluster.world.hit("drain")
    worker.drain()
    cluster.world.after(cluster.world.rng.uniform(0.5, 10.0), partial(cluster.leave, worker))


def _crash_router(cluster: SimCluster) -> None:
    cluster.world.hit("crash_router")
    cluster.crash_router()


def _crash_all(cluster: SimCluster) -> None:
    """All workers of one role at once."""
    role = cluster.world.rng.choice((Role.PREFILL, Role.DECODE))
    cluster.world.hit("crash_pool")
    for _, worker in sorted(cluster.workers.items()):
        if worker.plan.role is role:
            worker.process.kill()


FAULTS: dict[str, Fault] = {
    "crash_prefill": partial(_crash, Role.PREFILL),
    "crash_decode": partial(_crash, Role.DECODE),
    "crash_pool": _crash_all,
    "power_loss": _lose_power,
    "pause_short": partial(_pause, 4.0, "pause_short"),
    "pause_long": partial(_pause, 25.0, "pause_long"),
    "router_partition": partial(_router_partition, False),
    "router_one_way": partial(_router_partition, True),
    "pair_partition": partial(_pair_partition, False),
    "pair_one_way": partial(_pair_partition, True),
    "swizzle_clog": _swizzle,
    "kv_link_cut": _kv_link_cut,
    "stream_reset": _stream_reset,
    "slow_attach": partial(_slow_path, Plane.ATTACH),
    "slow_kv": partial(_slow_path, Plane.KV),
    "lease_end_early": _early_lease_end,
    "beats_lost": _lose_beats,
    "step_exception": partial(_arm, "raise"),
    "nan_row": partial(_arm, "nan"),
    "directory_flush": _flush_directory,
    "drain": _drain,
    "crash_router": _crash_router,
}
"""Faults that strike now and then."""

FRAME_FAULTS = tuple(Rates.__slots__)
"""Troubles of KV frames, by chance per frame."""

OTHER_KINDS = (
    "client_cancel",
    "clock_skew",
    "deadline",
    "late_join",
    "out_of_memory",
    "poison_exit",
    "poison_nan",
    "poison_raise",
    "preemption",
    "slow_consumer",
    "thread_preempted",
)
"""What the cluster's plan and its callers bring."""

ALL_KINDS = tuple(sorted((*FAULTS, *FRAME_FAULTS, *OTHER_KINDS)))


def unleash(cluster: SimCluster, rng: random.Random, *, until_s: float, focus: Collection[str] = ()) -> None:
    """Choose this run's kinds and schedule them; with a ``focus`` those and no others, and often."""
    world = cluster.world
    chosen = [kind for kind in FAULTS if (kind in focus if focus else rng.random() < 0.3)]
    frames = [kind for kind in FRAME_FAULTS if (kind in focus if focus else rng.random() < 0.25)]
    world.note("faults", f"{chosen} {frames}")
    if frames:
        rates = Rates(**{kind: rng.choice((0.002, 0.02, 0.1) if not focus else (0.1, 0.4)) for kind in frames})
        cluster.network.mangle = Mangler(world, rates)
    if not chosen:
        return
    at_s = rng.uniform(0.5, 3.0)
    while at_s < until_s:
        kind = rng.choice(chosen)
        world.at(at_s, partial(_strike, cluster, kind))
        at_s += rng.expovariate(1.0 / cluster.plan.mean_gap_s)


def _strike(cluster: SimCluster, kind: str) -> None:
    cluster.world.note("faults", kind)
    FAULTS[kind](cluster)
