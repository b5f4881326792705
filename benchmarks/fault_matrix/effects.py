"""That a fault took effect, and that the row's promise was kept, by what others than the injector wrote: event logs of
the processes, and times at the caller."""

import asyncio
import time
from collections import Counter
from typing import Final

from benchmarks.fault_matrix.cell import Check, RoleName
from benchmarks.fault_matrix.history import History
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster.baseline import resident_bytes
from tandem.core.event_log.events import (
    BlocksAllocated,
    BlocksRekeyed,
    ChunkAccepted,
    Dispatched,
    HandoverCommitted,
    HandoverSealed,
    LogOpened,
    RequestEnded,
    TokensForwarded,
)
from tandem.core.event_log.record import ProcessLife
from tandem.core.types import FinishReason

_ON_THE_WAY_S: Final = 0.5  # from the router's clock to the workers', on a busy machine
_EARLY_SHARE: Final = 0.1  # gRPC sends the time that is left in few digits: on quiet runs up to 0.04 of 1 s is missing
_EARLY_S: Final = 0.05
_POLL_S: Final = 0.05
_EXCEEDED: Final = "DEADLINE_EXCEEDED"
_UNREACHABLE: Final = "DEADLINE_UNREACHABLE"
_NOISE_BYTES: Final = 1024 * 1024  # an allocator takes memory by the MiB


def router_ended(*reasons: str, within_s: float | None = None, unless_it_never_came: bool = False) -> Check:
    """The router itself ended every probe for one of these reasons, and in time after the fault.

    ``unless_it_never_came``: a caller may have given up before the router heard of it.
    """

    async def check(scene: Scene) -> list[str]:
        while True:
            history = await asyncio.to_thread(History, scene)
            requests = [history.request_of(record) for record in scene.probes]
            ends = [_end_of(history, request) for request in requests if request or not unless_it_never_came]
            late_s = time.monotonic() - scene.hit_at_s
            if all(ends) or within_s is None or late_s > within_s:
                break
            await asyncio.sleep(_POLL_S)
        said = Counter(f"{end[0].outcome} {end[0].reason}".strip() if end else "never" for end in ends)
        scene.facts.append(f"the router's ends: {dict(said)}")
        wrong = [what for what in said if what.split()[-1] not in reasons]
        late = [] if within_s is None else [end[1] for end in ends if end and end[1] - scene.hit_at_s > within_s]
        problems = [f"the router ended a probe {what}, not as {reasons}" for what in wrong]
        return [*problems, *(f"a probe was ended {at_s - scene.hit_at_s:.1f} s after the fault" for at_s in late)]

    return check


def _end_of(history: History, request: str) -> tuple[RequestEnded, float] | None:
    for record in history.records:
        if isinstance(record.event, RequestEnded) and record.event.request == request and request:
            return record.event, record.t
    return None


def stays_small(process: str, *, num_bytes: int, seconds: float) -> Check:
    """For so long after the fault, a process's memory grows by no more than so much (row 27)."""

    async def check(scene: Scene) -> list[str]:
        pid = scene.world.cluster.pids()[process]
        first_bytes = most_bytes = resident_bytes(pid)
        while time.monotonic() - scene.hit_at_s < seconds:
            await asyncio.sleep(_POLL_S)
            most_bytes = max(most_bytes, resident_bytes(pid))
        grown_bytes = most_bytes - first_bytes
        allowed_bytes = num_bytes + _NOISE_BYTES
        scene.facts.append(f"{process} grew by {grown_bytes // 1024} KiB, {allowed_bytes // 1024} KiB are allowed")
        if grown_bytes <= allowed_bytes:
            return []
        return [f"{process} grew by {grown_bytes // 1024} KiB for a stream that nobody read"]

    return check


def no_work_after_deadline(*, at_work: bool = True) -> Check:
    """Callers were told at their deadline, not before; from then on nothing is begun for them (row 29).

    Who is sure to miss its deadline may be told so at once. ``at_work``: some probe was being worked on before.
    """

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        problems = []
        num_stopped = 0
        for record in scene.probes:
            due_s = record.began_s + record.spec.deadline_s
            ended_s = record.ended_s or due_s
            scene.facts.append(f"told {ended_s - due_s:+.2f} s from the deadline")
            allowed_s = max(_EARLY_S, _EARLY_SHARE * record.spec.deadline_s)
            if ended_s < due_s - allowed_s and record.reason != _UNREACHABLE:
                problems.append(f"the deadline came {due_s - ended_s:.2f} s early")
            request = history.request_of(record)
            late_s = due_s + _ON_THE_WAY_S
            kinds = (Dispatched, BlocksAllocated, ChunkAccepted, HandoverSealed, TokensForwarded)
            work = [(r.t, type(r.event).__name__) for r in history.of(request, *kinds)]
            work.append((history.last_decoded_s(request), "DecodeStep"))  # 0.0: there was none
            last_s = max(at_s for at_s, _ in work)
            num_stopped += bool(last_s) and record.reason == _EXCEEDED
            scene.facts.append(f"last worked on {last_s - due_s:+.2f} s from it" if last_s else "never worked on")
            late = [what for at_s, what in work if at_s > late_s]
            problems += [f"after the deadline: {late}"] if late else []
        if at_work and not num_stopped:
            problems.append("no probe was at work when its deadline passed: nothing was stopped")
        return problems

    return check


def stopped_at_its_string() -> Check:
    """Every probe ended at the stop string that was made for it, which its answer has only after the fault (row 6)."""

    async def check(scene: Scene) -> list[str]:
        problems = []
        for record in scene.probes:
            for child in record.children.values():
                scene.facts.append(f"stopped at {child.matched_stop!r} after {len(child.token_ids)} tokens")
                if (child.matched_stop,) != record.spec.stop.stop or child.finish_reason is not FinishReason.STOP:
                    problems.append(f"a probe ended {child.finish_reason} at {child.matched_stop!r}")
        return problems or ([] if any(record.children for record in scene.probes) else ["nothing was answered"])

    return check


def kv_was_reused() -> Check:
    """P handed what it had computed for a lost attempt over once more: nothing was computed again (row 5)."""

    async def check(scene: Scene) -> list[str]:
        num = scene.count_events("prefill", BlocksRekeyed)
        scene.facts.append(f"sealed KV was handed over again {num} times")
        return [] if num else ["sealed KV that was there was not used again"]

    return check


def decode_ran_ahead(of_reader_s: float) -> Check:
    """Decoding was over so long before the caller had read everything: nobody waited for the reader (row 27)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        problems = []
        for record in scene.probes:
            decoded_s = history.last_decoded_s(history.request_of(record))
            ahead_s = (record.last_token_s or 0.0) - decoded_s
            scene.facts.append(f"decoded {ahead_s:.1f} s before its caller had read it")
            if ahead_s < of_reader_s:
                problems.append(f"decoding was only {ahead_s:.2f} s ahead of a slow reader")
        return problems

    return check


def workers_died(*, at_least: int = 1, at_most: int) -> Check:
    """So many worker processes began anew, as their own new logs say."""

    async def check(scene: Scene) -> list[str]:
        opened = [r for r in scene.events("") if isinstance(r.event, LogOpened) and not r.process.startswith("router")]
        lives = [f"{record.process}-{record.epoch}" for record in opened]
        scene.facts.append(f"began anew: {sorted(record.process for record in opened)}")
        if at_least <= len(lives) <= at_most:
            return []
        return [f"{len(lives)} workers began anew, {at_least} to {at_most} are allowed: {lives}"]

    return check


def tried_at_most(attempts: int) -> Check:
    """The router gave no probe to workers more often; and it did give it to some."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        counts = [len(history.of(history.request_of(record), Dispatched)) for record in scene.probes]
        scene.facts.append(f"tried {counts} times")
        return [
            f"a probe was tried {n} times, from 1 to {attempts} are allowed" for n in counts if not 1 <= n <= attempts
        ]

    return check


def never_handed_over() -> Check:
    """The probes' KV was computed and nobody adopted it (row 37)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        problems = []
        for record in scene.probes:
            request = history.request_of(record)
            if not history.uses_of(request, "prefill"):
                problems.append("nothing was computed for a probe")
            if history.of(request, HandoverCommitted):
                problems.append("KV that is not a number was adopted")
        return problems

    return check


def all_blocks_free() -> Check:
    """Every block that the probes ever held is free or back in a cache, by the logs of the lives that still run."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        uses = [use for record in scene.probes for use in history.uses_of(history.request_of(record))]
        kept = [use for use in uses if use.freed_s is None]
        scene.facts.append(f"{len(uses)} blocks given and freed")
        problems = [] if uses else ["no block was ever given to a probe"]
        return [*problems, *(f"{use.life.name} never freed {use.block}" for use in kept[:2])]

    return check


def pool_was_full(role: RoleName, *, blocks: int, slack_blocks: int) -> Check:
    """At some moment at most ``slack_blocks`` of a worker's pool were free: the shortage was real (row 38)."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        changes: dict[ProcessLife, list[tuple[float, int]]] = {}
        for use in history.uses:
            if use.life.name.startswith(role) and not use.borrowed:
                moments = changes.setdefault(use.life, [])
                moments.append((use.allocated_s, 1))
                moments += [] if use.freed_s is None else [(use.freed_s, -1)]
        most = max((_most(moments) for moments in changes.values()), default=0)
        scene.facts.append(f"{role}: {most} of {blocks} blocks in use")
        return [] if most >= blocks - slack_blocks else [f"only {most} of {blocks} blocks of {role} were ever in use"]

    return check


def _most(changes: list[tuple[float, int]]) -> int:
    held = most = 0
    for _, change in sorted(changes):  # at one moment frees come first
        held += change
        most = max(most, held)
    return most
