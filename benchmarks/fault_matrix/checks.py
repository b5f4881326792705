"""What else must be so in a cell, besides how its probes end: who is free how soon, who was started again, what was
refused."""

import asyncio
import time
from collections.abc import Collection

from benchmarks.fault_matrix.cell import Check, RoleName
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, Verdict
from tandem.core.errors import TandemError
from tandem.core.event_log.events import ChunkDropped, Dispatched, RequestEnded, Requeued

_POLL_S = 0.02


def freed_within(role: RoleName, seconds: float) -> Check:
    """Every worker of ``role`` holds nothing any more, ``seconds`` after the fault at the latest."""

    async def check(scene: Scene) -> list[str]:
        while True:
            held = [name for name in scene.world.names(role) if not await _is_free(scene, name)]
            late_s = time.monotonic() - scene.hit_at_s
            if not held:
                return []
            if late_s > seconds:
                return [f"{', '.join(held)} still hold blocks {late_s:.1f} s after the fault, {seconds} s are allowed"]
            await asyncio.sleep(_POLL_S)

    return check


async def _is_free(scene: Scene, name: str) -> bool:
    try:
        worker = await scene.world.describe(name)
    except TandemError:
        return True  # a worker that is gone holds nothing
    return worker.load.free_blocks == worker.load.total_blocks and not worker.holdings.num_attempts


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


def served_by(names: Collection[str]) -> Check:
    """Only these workers decoded the probes."""

    async def check(scene: Scene) -> list[str]:
        decoders = {record.workers.decode_worker for record in scene.probes if record.workers is not None}
        return [f"{decoders - set(names)} decoded"] if decoders - set(names) else []

    return check
