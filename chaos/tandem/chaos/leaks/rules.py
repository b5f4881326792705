"""What must be so when no request runs: pure checks over one observation of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.chaos.cluster.baseline import Baseline, ProcessSize
from tandem.core.cluster import ClusterStatus, WorkerState
from tandem.core.description import WorkerDescription

_SLACK = 2
"""Descriptors, threads or tasks that may be on their way at the moment of counting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A cluster at one moment. None, or a missing name: it did not answer."""

    status: ClusterStatus | None
    workers: Mapping[str, WorkerDescription | None]
    processes: Mapping[str, ProcessSize] = field(default_factory=dict)
    shared_memory: frozenset[str] = frozenset()
    redis_ttl_ms: Mapping[str, int] = field(default_factory=dict)  # by key; -1 = it never expires
    namespace: str = "tandem"


def problems_of(seen: Observation, baseline: Baseline) -> list[str]:
    """Return everything that is not as it should be, L1 to L6."""
    return [
        *check_blocks(seen),
        *check_ledgers(seen),
        *check_counters(seen),
        *check_sizes(seen, baseline),
        *check_shared_memory(seen, baseline),
        *check_redis(seen),
    ]


def check_blocks(seen: Observation) -> list[str]:
    """L1: on every worker all blocks can be had, but those that a request pinned in the prefix cache."""
    problems = []
    for name, worker in seen.workers.items():
        if worker is None:
            problems.append(f"L1 {name} does not answer")
            continue
        load = worker.load
        if load.free_blocks + load.pinned_blocks != load.total_blocks or load.receiving_blocks:
            problems.append(
                f"L1 {name}: {load.free_blocks} of {load.total_blocks} blocks are free, {load.receiving_blocks} receive"
            )
    return problems


def check_ledgers(seen: Observation) -> list[str]:
    """L2: no open request at the router, no open attempt or hand-over at a worker."""
    problems = []
    if seen.status is None:
        problems.append("L2 the router does not answer")
    elif seen.status.num_running or seen.status.num_queued:
        problems.append(
            f"L2 the router has {seen.status.num_running} requests running and {seen.status.num_queued} queued"
        )
    for name, worker in seen.workers.items():
        if worker is None:
            continue
        held, load = worker.holdings, worker.load
        if held.num_attempts or held.num_handovers:
            problems.append(f"L2 {name} holds {held.num_attempts} attempts and {held.num_handovers} hand-overs")
        if load.num_running or load.num_waiting:
            problems.append(f"L2 {name} has {load.num_running} sequences running and {load.num_waiting} waiting")
    return problems


def check_counters(seen: Observation) -> list[str]:
    """L3: in-flight counters at 0, on the router's side and in what it knows of its workers."""
    if seen.status is None:
        return []
    problems = []
    if seen.status.num_in_flight:
        problems.append(f"L3 the router counts {seen.status.num_in_flight} attempts in flight")
    if seen.status.num_isolated:
        problems.append(f"L3 {seen.status.num_isolated} suspected requests wait for their trial")
    for worker in seen.status.workers:
        load = worker.load
        if worker.state is not WorkerState.READY or load is None:
            continue
        if load.free_blocks + load.pinned_blocks != load.total_blocks:
            name = worker.info.worker_id
            problems.append(f"L3 the router believes that {name} has {load.free_blocks} of {load.total_blocks} free")
    return problems


def check_sizes(seen: Observation, baseline: Baseline) -> list[str]:
    """L4: descriptors, threads and tasks of every process as in the baseline, plus two."""
    problems = []
    for name, before in baseline.processes.items():
        now = seen.processes.get(name)
        if now is None:
            problems.append(f"L4 {name} is not running")
            continue
        for what, old, new in (
            ("descriptors", before.num_fds, now.num_fds),
            ("threads", before.num_threads, now.num_threads),
            ("tasks", before.num_tasks, now.num_tasks),
        ):
            if new > old + _SLACK:
                problems.append(f"L4 {name} has {new} {what}, it had {old}")
    return problems


def check_shared_memory(seen: Observation, baseline: Baseline) -> list[str]:
    """L5: nothing new of ours in /dev/shm."""
    return [f"L5 /dev/shm/{name} is left" for name in sorted(seen.shared_memory - baseline.shared_memory)]


def check_redis(seen: Observation) -> list[str]:
    """L6: nothing but registrations, and what expires by itself."""
    registrations = f"{seen.namespace}:worker"
    return [
        f"L6 the Redis key {key} stays for ever"
        for key, ttl_ms in sorted(seen.redis_ttl_ms.items())
        if ttl_ms == -1 and not key.startswith(registrations)
    ]
