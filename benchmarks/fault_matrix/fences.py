"""Proof that a guard stopped something: what was refused, by the process that refused it, and why it had to be."""

import asyncio
import time
from collections import Counter
from typing import Final

from benchmarks.fault_matrix.cell import Check
from benchmarks.fault_matrix.history import History
from benchmarks.fault_matrix.scene import Scene
from tandem.core.event_log.events import ChunkDropped, GrantEnded, HandoverCommitted, ReadRefused
from tandem.core.event_log.record import ProcessLife

_POLL_S: Final = 0.1
_BEFORE_S: Final = 0.3
_STALE: Final = frozenset({"stale_epoch", "stale_generation"})


def zombie_fenced(seconds: float) -> Check:
    """What a process says that was given up meanwhile is refused: by the router, or by a decode worker (row 9).

    Counted from the moment at which it is about to go on: what others were refused before is not the zombie's.
    """

    async def check(scene: Scene) -> list[str]:
        goes_on_s = scene.hit_at_s + (scene.cell.lasts_s or 0.0) - _BEFORE_S
        await asyncio.sleep(goes_on_s - time.monotonic())
        before = (await scene.world.cluster.status()).num_stale
        while True:
            num_stale = (await scene.world.cluster.status()).num_stale - before
            dropped = await asyncio.to_thread(_dropped, scene, goes_on_s)
            num_refused = sum(dropped[counter] for counter in _STALE)
            if num_stale or num_refused:
                scene.facts.append(f"refused of the zombie's: {num_stale} messages, {num_refused} chunks")
                return []
            if time.monotonic() - scene.hit_at_s > seconds:
                return [f"nothing of the zombie's was refused within {seconds} s of the fault; chunks: {dict(dropped)}"]
            await asyncio.sleep(_POLL_S)

    return check


def _dropped(scene: Scene, since_s: float) -> Counter[str]:
    records = scene.events("decode")
    return Counter(r.event.counter for r in records if isinstance(r.event, ChunkDropped) and r.t >= since_s)


def late_chunk_refused() -> Check:
    """A chunk came that names an earlier use of a block, when it was somebody else's, and it was refused (row 17)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        seen = []
        for record in history.records:
            event = record.event
            if isinstance(event, ChunkDropped):
                life = ProcessLife(record.process, record.epoch)
                was_reused = history.was_reused(life, event.named, by_s=record.t)
                seen.append(f"{event.counter}, its block given to others before: {was_reused}")
                if event.counter == "stale_generation" and was_reused:
                    scene.facts.append(f"refused: {seen[-1]}")
                    return []
        return [f"no chunk of an earlier use of a block was refused: {seen or 'none at all'}"]

    return check


def read_refused() -> Check:
    """The sender was about to read a block that was somebody else's, found that out, and read nothing (row 18)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        requests = {history.request_of(record) for record in scene.probes}
        seen = []
        for record in history.records:
            event = record.event
            if isinstance(event, ReadRefused) and event.request in requests:
                life = ProcessLife(record.process, record.epoch)
                was_reused = history.was_reused(life, event.block, by_s=record.t)
                seen.append(f"block {event.block.block_id}, given to others before: {was_reused}")
                if was_reused:
                    scene.facts.append(f"read refused: {seen[-1]}")
                    return []
        return [f"no read of a block that had changed hands was refused: {seen or 'none at all'}"]

    return check


def never_adopted() -> Check:
    """The receiver itself found out: the first attempt's hand-over ended without a commit, by its log (rows 19, 20)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        ends: list[str] = []
        for record in scene.probes:
            request = history.request_of(record)
            first = [r.event for r in history.of(request, GrantEnded, HandoverCommitted)]
            ends += [f"{e.how} {e.reason}" for e in first if isinstance(e, GrantEnded) and e.attempt == 0]
            if any(isinstance(e, HandoverCommitted) and e.attempt == 0 for e in first):
                return [f"the first attempt was committed all the same: {ends}"]
        if not ends:
            return ["no hand-over of a first attempt ended: nothing was tested"]
        scene.facts.append(f"the receiver's verdict: {', '.join(sorted(set(ends)))}")
        return []

    return check
