"""What else must be so in a cell, besides how its probes end: who is free how soon, who was started again, what was
refused."""

import asyncio
import socket
import time

from benchmarks.fault_matrix.cell import Check, RoleName
from benchmarks.fault_matrix.history import BlockUse, History
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, Verdict
from tandem.core.errors import EnvironmentProblem, TandemError
from tandem.core.event_log.events import ChunkDropped, Dispatched, RequestEnded, Requeued

_POLL_S = 0.02
_WRITTEN_S = 0.2  # until what happened is in the event logs
_CONNECT_S = 1.0


def freed_within(role: RoleName, seconds: float) -> Check:
    """Every worker of ``role`` holds nothing any more, ``seconds`` after the fault at the latest."""

    async def check(scene: Scene) -> list[str]:
        while True:
            held = [what for name in scene.world.names(role) if (what := await _holds(scene, name))]
            late_s = time.monotonic() - scene.hit_at_s
            if not held:
                return []
            if late_s > seconds:
                return [f"{', '.join(held)}, {late_s:.1f} s after the fault, {seconds} s are allowed"]
            await asyncio.sleep(_POLL_S)

    return check


async def _holds(scene: Scene, name: str) -> str:
    """Say what a worker holds; nothing if it is free. One that does not answer is free only if it is gone."""
    try:
        worker = await scene.world.describe(name)
    except TandemError as error:
        is_gone = await asyncio.to_thread(_is_gone, scene, name)
        return "" if is_gone else f"{name} does not say what it holds ({error})"
    load = worker.load
    num_held = load.total_blocks - load.free_blocks - load.pinned_blocks
    if not num_held and not worker.holdings.num_attempts:
        return ""
    return f"{name} still holds {num_held} blocks, {worker.holdings.num_attempts} attempts"


def _is_gone(scene: Scene, name: str) -> bool:
    """No process of this name runs, or the new one does not listen yet: it holds nothing."""
    try:
        scene.pid(name)
    except EnvironmentProblem:
        return True
    host = scene.world.hosts[name].address if name in scene.world.hosts else "127.0.0.1"
    try:
        socket.create_connection((host, scene.world.ports[name].grpc), timeout=_CONNECT_S).close()
    except ConnectionRefusedError:
        return not scene.world.shape.network  # there a packet filter may be what refuses
    except OSError:
        return False
    return False


def let_go_within(role: RoleName, seconds: float) -> Check:
    """What workers of ``role`` held for the probes when the fault came is free so soon after it, by their own logs.

    Their next attempts may hold other blocks. The worker that the fault ended is not asked: nothing of it is left.
    """

    async def check(scene: Scene) -> list[str]:
        if not await _uses_at_the_fault(scene, role):
            return [f"no {role} worker held anything when the fault came: what is freed was not tested"]
        return await _late(scene, role, seconds)

    return check


def nothing_kept(role: RoleName, seconds: float) -> Check:
    """The same where it depends on the moment whether workers of ``role`` held anything yet."""

    async def check(scene: Scene) -> list[str]:
        return await _late(scene, role, seconds)

    return check


async def _late(scene: Scene, role: RoleName, seconds: float) -> list[str]:
    until_s = scene.hit_at_s + seconds + _WRITTEN_S
    uses = await _uses_at_the_fault(scene, role)
    while time.monotonic() < until_s and any(use.freed_s is None for use in uses):
        await asyncio.sleep(_POLL_S)
        uses = await _uses_at_the_fault(scene, role)
    late_s = [float("inf") if use.freed_s is None else use.freed_s - scene.hit_at_s for use in uses]
    if uses:
        scene.facts.append(f"{role}: {len(uses)} blocks free after {max(late_s):.2f} s")
    late = [use.life.name for use, after_s in zip(uses, late_s, strict=True) if after_s > seconds]
    return [f"{late[0]} let go after {max(late_s):.2f} s, {seconds} s are allowed"] if late else []


async def _uses_at_the_fault(scene: Scene, role: RoleName) -> list[BlockUse]:
    history = await asyncio.to_thread(History, scene)
    return [
        use
        for record in scene.probes
        for use in history.uses_of(history.request_of(record), role)
        if use.allocated_s <= scene.hit_at_s and (use.freed_s is None or use.freed_s > scene.hit_at_s)
    ]


def nobody_restarted() -> Check:
    """No worker process was started again since the cell began."""

    async def check(scene: Scene) -> list[str]:
        fresh = _fresh_workers(scene)
        return [f"workers were started again: {fresh}"] if fresh else []

    return check


def _fresh_workers(scene: Scene) -> list[str]:
    logs = scene.world.cluster.event_logs()
    return [path.name for path in logs if path not in scene.known_logs and not path.name.startswith("router")]


def restarted_at_most(count: int) -> Check:
    """So many processes died at most."""

    async def check(scene: Scene) -> list[str]:
        fresh = _fresh_workers(scene)
        why = [r.event for r in scene.events("router") if isinstance(r.event, Dispatched | Requeued | RequestEnded)]
        return [f"{len(fresh)} workers were started again: {fresh} after {why}"] if len(fresh) > count else []

    return check


def refused(*counters: str) -> Check:
    """A decode worker refused a chunk under one of these counters."""

    async def check(scene: Scene) -> list[str]:
        found = [r.event.counter for r in scene.events("decode") if isinstance(r.event, ChunkDropped)]
        return [] if set(found) & set(counters) else [f"nothing was refused as {counters}, but as {set(found)}"]

    return check


def mates_untouched() -> Check:
    """The requests beside the probes ended well."""

    async def check(scene: Scene) -> list[str]:
        bad = [r for r in scene.mates if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL]
        return [f"a mate ended {r.ending.value} {r.reason} {r.problem}" for r in bad]

    return check


def few_requeues(share: float) -> Check:
    """At most this share of attempts was a retry."""

    async def check(scene: Scene) -> list[str]:
        num_retries, num = scene.count_events("router", Requeued), scene.count_events("router", Dispatched)
        return [f"{num_retries} of {num} attempts were retries"] if num_retries > share * num else []

    return check


def longest_gap(seconds: float) -> Check:
    """No probe waited longer than this between two tokens."""

    async def check(scene: Scene) -> list[str]:
        return [
            f"a gap of {record.longest_gap_s:.1f} s, {seconds} s are allowed"
            for record in scene.probes
            if record.longest_gap_s > seconds
        ]

    return check
