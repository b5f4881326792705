"""Looks at a cluster until nothing leaks, or until it had its time."""

import asyncio
import time

import redis.asyncio

from tandem.chaos.cluster.baseline import ProcessSize, measure, shared_memory_files
from tandem.chaos.cluster.cluster import ChaosCluster
from tandem.chaos.leaks.rules import Observation, problems_of
from tandem.core.cluster import ClusterStatus
from tandem.core.description import WorkerDescription
from tandem.core.errors import TandemError

SETTLE_S = 30.0
"""Two leases: whatever else fails, a lease ends what it protects."""
_POLL_S = 0.1


async def check_leaks(cluster: ChaosCluster, *, settle_s: float = SETTLE_S) -> list[str]:
    """Return what still leaks after ``settle_s`` at most; an empty list as soon as nothing does."""
    end_s = time.monotonic() + settle_s
    while True:
        problems = problems_of(await observe(cluster), cluster.baseline)
        if not problems or time.monotonic() >= end_s:
            return problems
        await asyncio.sleep(_POLL_S)


async def observe(cluster: ChaosCluster) -> Observation:
    """Ask the router, every worker, /proc, /dev/shm and Redis. What does not answer is None."""
    status = await _status(cluster)
    workers = {name: await _describe(cluster, name) for name in cluster.worker_ids}
    num_tasks = {name: 0 if w is None else w.holdings.num_tasks for name, w in workers.items()}
    num_tasks["router"] = 0 if status is None else status.num_tasks
    processes: dict[str, ProcessSize] = {}
    for name, pid in cluster.pids().items():
        try:
            processes[name] = measure(pid, num_tasks=num_tasks[name])
        except OSError:
            continue  # it has just ended: check L4 says so
    return Observation(
        status=status,
        workers=workers,
        processes=processes,
        shared_memory=shared_memory_files(),
        redis_ttl_ms=await _redis_keys(cluster.registry_url),
    )


async def _status(cluster: ChaosCluster) -> ClusterStatus | None:
    try:
        return await cluster.status()
    except TandemError:
        return None


async def _describe(cluster: ChaosCluster, worker_id: str) -> WorkerDescription | None:
    try:
        return await cluster.describe(worker_id)
    except TandemError:
        return None


async def _redis_keys(url: str) -> dict[str, int]:
    """Time to live of every key, in ms; -1 = for ever. Empty without a Redis."""
    if not url:
        return {}
    client: redis.asyncio.Redis = redis.asyncio.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0)
    try:
        return {key.decode(): int(await client.pttl(key)) async for key in client.scan_iter()}
    finally:
        await client.aclose()
