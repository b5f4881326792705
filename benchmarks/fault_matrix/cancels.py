"""Where requests are when their callers leave or their deadlines pass, by the workers' own event logs."""

import asyncio
import time
from enum import StrEnum
from typing import Final

from benchmarks.fault_matrix.cell import Check, MakeFault
from benchmarks.fault_matrix.history import History
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, RequestRecord
from tandem.chaos.faults.evidence import Evidence
from tandem.core.event_log.events import (
    ChunkAccepted,
    Dispatched,
    GrantMade,
    HandoverCommitted,
    HandoverSealed,
    RequestEnded,
)

_TOLD_S: Final = 2.0
_TRAVELS_S: Final = 0.05
_POLL_S: Final = 0.01


class Stage(StrEnum):
    """Where a request is, by what its processes have written of it."""

    UNKNOWN = "unknown to the router"
    QUEUED = "queued"
    PREFILL = "prefill"  # a prefill worker has it, and has not computed all of it
    COMPUTED = "prefilled"  # … it has, and the decode worker has nothing yet
    TRANSFER = "transfer"  # the decode worker has some of it, or waits for it with a grant
    COMMITTED = "committed"  # the decode worker has all of it, and has not begun
    DECODE = "decode"


def stage_at(history: History, request: str, at_s: float) -> frozenset[Stage]:
    """Return the stages that a request was in; prefill and transfer overlap: blocks are sent as they are computed."""
    if not request:
        return frozenset({Stage.UNKNOWN})
    if not history.of(request, Dispatched, before_s=at_s):
        return frozenset({Stage.QUEUED})
    if history.of(request, HandoverCommitted, before_s=at_s):  # a first token alone may be the prefill worker's
        return frozenset({Stage.DECODE if history.was_decoded(request, before_s=at_s) else Stage.COMMITTED})
    is_computed = bool(history.of(request, HandoverSealed, before_s=at_s))
    stages = {Stage.COMPUTED if is_computed else Stage.PREFILL}
    if history.of(request, ChunkAccepted, GrantMade, before_s=at_s):
        stages.add(Stage.TRANSFER)
    return frozenset(stages)


class _Leaving:
    """The callers leave, and the gate stays shut until the router has ended their requests."""

    def __init__(self, scene: Scene, stages: frozenset[Stage]) -> None:
        self._scene = scene
        self._stages = stages

    async def begin(self) -> None:
        await self._scene.leave()
        until_s = time.monotonic() + _TOLD_S
        while time.monotonic() < until_s and not self._are_ended():  # noqa: ASYNC110  # files have no event
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_TRAVELS_S)  # both workers are told

    async def end(self) -> None:
        """Who left is gone."""

    def verify(self) -> Evidence:
        """Each caller left; the router ended its request as cancelled, in the stage that is meant, for good."""
        history = History(self._scene)
        problems: list[str] = []
        facts: list[str] = []
        for record in self._scene.probes:
            found = self._of(history, record)
            (facts if found.took_effect else problems).append(found.facts)
        is_shown = bool(self._scene.probes) and not problems
        return Evidence(took_effect=is_shown, facts="; ".join([*problems, *facts]))

    def _of(self, history: History, record: RequestRecord) -> Evidence:
        left_s = record.cancelled_s
        if record.ending is not Ending.CANCELLED or left_s is None:
            return Evidence(took_effect=False, facts=f"a caller saw {record.ending.value}")
        request = history.request_of(record)
        stages = stage_at(history, request, left_s)
        ended = [r.event.outcome for r in history.of(request, RequestEnded) if isinstance(r.event, RequestEnded)]
        late = [r for r in history.of(request, Dispatched, HandoverCommitted) if r.t > left_s + _TOLD_S]
        shown = ", ".join(sorted(stage.value for stage in stages))
        never_came = Stage.UNKNOWN in stages and Stage.UNKNOWN in self._stages
        is_meant = bool(stages & self._stages) and (ended == ["cancelled"] or never_came) and not late
        freed = ", ".join(
            f"{role} free after {_freed_after_s(history, request, role, left_s)}" for role in ("prefill", "decode")
        )
        facts = f"left in stage {shown}, the router ended it as {ended}, {len(late)} things came after; {freed}"
        return Evidence(took_effect=is_meant, facts=facts)

    def _are_ended(self) -> bool:
        history = History(self._scene)
        return all(history.of(history.request_of(record), RequestEnded) for record in self._scene.probes)


def _freed_after_s(history: History, request: str, role: str, left_s: float) -> str:
    uses = history.uses_of(request, role)
    if not uses:
        return "nothing"
    if any(use.freed_s is None for use in uses):
        return "never"
    last_s = max(use.freed_s for use in uses if use.freed_s is not None)
    return f"{max(last_s - left_s, 0.0):.2f} s"


def leave_in(*stages: Stage) -> MakeFault:
    """The callers of the probes leave; their requests must be in one of these stages then."""
    return lambda scene: _Leaving(scene, frozenset(stages))


def stages_at_the_deadline(*stages: Stage) -> Check:
    """Every probe's deadline passed in one of these stages (row 29); none named: only tell in which."""

    async def check(scene: Scene) -> list[str]:
        history = await asyncio.to_thread(History, scene)
        problems = []
        for record in scene.probes:
            seen = stage_at(history, history.request_of(record), record.began_s + record.spec.deadline_s)
            shown = ", ".join(sorted(stage.value for stage in seen))
            scene.facts.append(f"its deadline passed in stage {shown}")
            if stages and not seen & frozenset(stages):
                problems.append(f"a deadline passed in stage {shown}, not in {', '.join(stages)}")
        return problems

    return check
