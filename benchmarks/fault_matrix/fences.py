"""Proof that a guard stopped something: what was refused, by the process that refused it, and why it had to be."""

import asyncio
import time
from collections import Counter
from typing import Final

from benchmarks.fault_matrix.cell import Check, Phase
from benchmarks.fault_matrix.history import BlockUse, History
from benchmarks.fault_matrix.scene import Scene
from tandem.core.event_log.events import ChunkDropped, Dispatched, GrantEnded, GrantMade, HandoverCommitted, ReadRefused
from tandem.core.event_log.record import ProcessLife

_POLL_S: Final = 0.1
_BEFORE_S: Final = 0.3
_BEGUN_S: Final = 1.0  # what was said to it while it stood still has reached it
_STALE: Final = frozenset({"stale_epoch", "stale_generation"})


def zombie_fenced(seconds: float) -> Check:
    """A process that was given up meanwhile goes on, and lets go of what it still works on for others (row 9).

    The router has closed its stream by then, so mostly it has nobody to talk to; what does come from it is refused.
    That its caller sees nothing of it is what the tokens show. ``seconds``: after it goes on.
    """

    async def check(scene: Scene) -> list[str]:
        goes_on_s = scene.hit_at_s + (scene.cell.lasts_s or 0.0)
        await asyncio.sleep(goes_on_s - _BEFORE_S - time.monotonic())
        before = (await scene.world.cluster.status()).num_stale
        uses = await asyncio.to_thread(_held_when, scene, goes_on_s)
        if scene.cell.phase is Phase.IDLE:
            return await _begins_nothing(scene, goes_on_s, seconds)
        if not uses:
            return [f"{scene.struck} held nothing when it went on: there was nothing to fence"]
        while kept := [use for use in uses if use.freed_s is None]:
            if time.monotonic() > goes_on_s + seconds:
                return [f"{scene.struck} still holds {len(kept)} blocks {seconds} s after it went on: for nobody"]
            await asyncio.sleep(_POLL_S)
            uses = await asyncio.to_thread(_held_when, scene, goes_on_s)
        num_stale = (await scene.world.cluster.status()).num_stale - before
        dropped = await asyncio.to_thread(_dropped, scene, goes_on_s)
        num_refused = sum(dropped[counter] for counter in _STALE)
        freed_s = max((use.freed_s or 0.0 for use in uses), default=goes_on_s) - goes_on_s
        scene.facts.append(
            f"{scene.struck} let go of {len(uses)} blocks {freed_s:.2f} s after it went on; "
            f"refused: {num_stale} messages, {num_refused} chunks"
        )
        return []

    return check


async def _begins_nothing(scene: Scene, goes_on_s: float, seconds: float) -> list[str]:
    """Work was given to it while it stood still, and elsewhere since: what it finds in its inbox it must not keep."""
    await asyncio.sleep(goes_on_s + _BEGUN_S - time.monotonic())
    given = await asyncio.to_thread(_given_up, scene, goes_on_s)
    if not given:
        return [f"no request was given to {scene.struck} while it stood still, and taken from it: nothing to fence"]
    while kept := await asyncio.to_thread(_kept_by, scene, given):
        if time.monotonic() > goes_on_s + seconds:
            return [f"{scene.struck} holds {len(kept)} blocks of what others do, {seconds} s after it went on"]
        await asyncio.sleep(_POLL_S)
    scene.facts.append(f"{len(given)} attempts had been given to {scene.struck}, and were taken from it")
    return []


def _given_up(scene: Scene, goes_on_s: float) -> frozenset[str]:
    """Requests of which an attempt went to the struck process while it stood still, and the next one elsewhere."""
    history = History(scene)
    found = set()
    for record in scene.probes:
        request = history.request_of(record)
        where = [
            {event.prefill, event.decode}
            for event in (r.event for r in history.of(request, Dispatched, before_s=goes_on_s))
            if isinstance(event, Dispatched)
        ]
        if any(scene.struck in names for names in where) and scene.struck not in where[-1]:
            found.add(request)
    return frozenset(found)


def _kept_by(scene: Scene, requests: frozenset[str]) -> list[BlockUse]:
    uses = History(scene).uses
    return [use for use in uses if use.request in requests and use.life.name == scene.struck and use.freed_s is None]


def _held_when(scene: Scene, at_s: float) -> list[BlockUse]:
    history = History(scene)
    requests = {history.request_of(record) for record in scene.probes}
    return [
        use
        for use in history.uses
        if use.request in requests and use.life.name == scene.struck
        if use.allocated_s < at_s and (use.freed_s is None or use.freed_s >= at_s)
    ]


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


def one_grant_each() -> Check:
    """Each probe was granted blocks once and handed over once, however often anybody was told (row 16)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        problems = []
        for record in scene.probes:
            request = history.request_of(record)
            for kind in (GrantMade, HandoverCommitted):
                if (count := len(history.of(request, kind))) != 1:
                    problems.append(f"{count} {kind.__name__} for one request")
        return problems

    return check
