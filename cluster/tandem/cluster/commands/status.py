"""`tandem status`: a cluster as its router sees it."""

import asyncio
import json
from dataclasses import asdict

from tandem.client import ClusterStatus, WorkerStatus
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.report import table
from tandem.cluster.commands.terminal import open_terminal
from tandem.core.environment import Environment, read_environment

_TIMEOUT_S = 5.0


def run_status(connection: Connection, *, as_json: bool) -> None:
    """Ask and show. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    status = asyncio.run(_ask(connection, environment))
    if as_json:
        state = connection.state(environment)
        known = {} if state is None else json.loads(state.model_dump_json())
        terminal.say(json.dumps({**known, "status": asdict(status)}))
        return
    for line in status_lines(status):
        terminal.say(line)


async def _ask(connection: Connection, environment: Environment) -> ClusterStatus:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        return await client.status()


def status_lines(status: ClusterStatus) -> list[str]:
    """Return what to print."""
    ready = "ready" if status.ready else f"not ready: {status.not_ready_reason}"
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status.num_ended.items()) if count)
    lines = [
        f"{status.model}  {ready}  ({status.router_id}, up {duration(status.uptime_s)})",
        f"{status.num_running} running, {status.num_queued} queued" + (f"; ended: {ended}" if ended else ""),
    ]
    lines += [*_serving_lines(status), *_cache_lines(status)]
    if status.workers:
        head = ("worker", "role", "state", "running", "waiting", "free blocks", "address", "pid")
        lines += ["", *table(head, [_row(worker) for worker in status.workers])]
    return lines


def _serving_lines(status: ClusterStatus) -> list[str]:
    serving = status.serving
    if not serving.cause:
        return []
    cause = serving.cause.replace("_", " ")
    return [f"serving: {serving.mode.value} for {duration(serving.since_s)} (mostly: {cause})"]


def _cache_lines(status: ClusterStatus) -> list[str]:
    if not status.cache_hit_rates:
        return []
    rates = ", ".join(f"{tier} {rate:.1%}" for tier, rate in status.cache_hit_rates.items())
    return [f"prompt tokens from the cache: {rates}"]


def _row(worker: WorkerStatus) -> list[str]:
    info, load = worker.info, worker.load
    counts = ["-", "-", "-"]
    if load is not None:
        counts = [str(load.num_running), str(load.num_waiting), f"{load.free_blocks}/{load.total_blocks}"]
    return [info.worker_id, info.role.value, worker.state.value, *counts, info.address, str(info.pid)]


def duration(seconds: float) -> str:
    """Return a length of time as people say it."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
