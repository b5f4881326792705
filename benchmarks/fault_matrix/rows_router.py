"""Rows 44 and 45: the router dies; workers leave to be replaced, or are of another layout than their neighbours."""

from benchmarks.fault_matrix.actions import behave, endings, kill
from benchmarks.fault_matrix.cell import (
    OK,
    RETRIED,
    UNNOTICED,
    Cell,
    Check,
    Expect,
    Gate,
    Phase,
    Probe,
    RoleName,
    ok_or_named,
)
from benchmarks.fault_matrix.checks import freed_within, let_go_within, nobody_restarted, restarted_at_most
from benchmarks.fault_matrix.keyed import KilledUnderAKey
from benchmarks.fault_matrix.leaving import leave
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending
from tandem.core.event_log.events import ChunkAccepted

_GONE_S = 20.0
_OTHERS = ("decode-1", "decode-2", "decode-3")


def no_chunk_at(worker: str) -> Check:
    """Nothing was handed over to this worker."""

    async def check(scene: Scene) -> list[str]:
        num_chunks = scene.count_events(worker, ChunkAccepted)
        return [f"{worker} took {num_chunks} chunks"] if num_chunks else []

    return check


def chunks_at(worker: str) -> Check:
    """Something was: the others were passed over, and not everybody."""

    async def check(scene: Scene) -> list[str]:
        return [] if scene.count_events(worker, ChunkAccepted) else [f"{worker} took no chunk either"]

    return check


def not_split() -> Check:
    """Every probe was told that the two differ, or its prompt was computed where it was decoded."""

    async def check(scene: Scene) -> list[str]:
        told = [record for record in scene.probes if record.reason == "KV_LAYOUT_MISMATCH"]
        alone = [r for r in scene.probes if r.workers and r.workers.prefill_worker == r.workers.decode_worker]
        scene.facts.append(f"{len(told)} told of the mismatch, {len(alone)} served by D alone")
        num_other = len(scene.probes) - len(told) - len(alone)
        return [f"{num_other} probes were served by two workers that store KV differently"] if num_other else []

    return check


_HOLDERS: dict[Phase, tuple[RoleName, ...]] = {
    Phase.IDLE: (),
    Phase.PREFILL: ("prefill",),
    Phase.TRANSFER: ("prefill", "decode"),
    Phase.DECODE: ("decode",),
}
"""Who surely holds blocks for the probe at the phase's gate."""


def _leaving(phase: Phase, does: str, role: RoleName, expect: Expect, probe: Probe) -> Cell:
    return Cell(
        row=45,
        phase=phase,
        does=does,
        fault=leave(role),
        expect=expect,
        probe=probe,
        after=(restarted_at_most(1),),
    )


CELLS = [
    _leaving(Phase.IDLE, "D leaves (SIGTERM) and is replaced", "decode", OK, Probe(count=6)),
    _leaving(Phase.PREFILL, "P leaves; it waits for its prompts", "prefill", UNNOTICED, Probe()),
    _leaving(Phase.TRANSFER, "P leaves; it waits for its hand-overs", "prefill", UNNOTICED, Probe()),
    _leaving(Phase.TRANSFER, "D leaves; it waits for what comes in", "decode", OK, Probe()),
    _leaving(Phase.DECODE, "D leaves; it hands its streams over", "decode", RETRIED, Probe(max_tokens=300, n=2)),
    *(
        Cell(
            row=44,
            phase=phase,
            does="kill the router",
            fault=kill("router"),
            expect=Expect(endings=frozenset({Ending.ERROR}), reasons=frozenset({"UNAVAILABLE", "UNREACHABLE"})),
            gate=Gate(tokens=5) if phase is Phase.DECODE else None,
            # 1500 tokens take longer than the row allows: who is free by then was told.
            probe=Probe(max_tokens=1500, deadline_s=60.0) if phase is Phase.DECODE else Probe(count=2),
            checks=(
                *(let_go_within(role, _GONE_S) for role in _HOLDERS[phase]),
                freed_within("prefill", _GONE_S),
                freed_within("decode", _GONE_S),
            ),
            after=(nobody_restarted(),),
        )
        for phase in Phase
    ),
    Cell(
        row=44,
        phase=Phase.DECODE,
        does="kill the router; the same call with its idempotency key is answered by the next one, once",
        fault=KilledUnderAKey,
        when="before",
        probe=Probe(count=0),
        after=(nobody_restarted(),),
    ),
    Cell(
        row=45,
        phase=Phase.IDLE,
        does="a D of another block size beside an equal one",
        fault=behave(lambda scene: endings(scene, Ending.OK)),
        expect=OK,
        when="before",
        probe=Probe(count=6),
        after=(no_chunk_at("decode-1"), nobody_restarted()),
        shape="mixed",
    ),
    Cell(
        row=45,
        phase=Phase.DECODE,
        does="the equal D is killed, the other one answers alone or nobody does",
        fault=kill("decode"),
        expect=ok_or_named("KV_LAYOUT_MISMATCH", "WORKER_LOST", "NO_WORKER"),
        probe=Probe(max_tokens=120),
        after=(no_chunk_at("decode-1"),),
        shape="mixed",
    ),
    Cell(
        row=45,
        phase=Phase.IDLE,
        does="D's of another dtype, hand-over version and rotary embedding beside an equal one",
        fault=behave(lambda scene: endings(scene, Ending.OK)),
        expect=OK,
        when="before",
        probe=Probe(count=12),
        after=(*(no_chunk_at(name) for name in _OTHERS), chunks_at("decode-0"), nobody_restarted()),
        shape="versions",
    ),
    Cell(
        row=45,
        phase=Phase.DECODE,
        does="the equal D is killed, those of other dtype and versions answer alone or nobody does",
        fault=kill("decode"),
        expect=ok_or_named("KV_LAYOUT_MISMATCH", "WORKER_LOST", "NO_WORKER"),
        probe=Probe(max_tokens=120),
        after=tuple(no_chunk_at(name) for name in _OTHERS),
        shape="versions",
    ),
    Cell(
        row=45,
        phase=Phase.IDLE,
        does="P and the only D store KV differently",
        fault=behave(lambda scene: endings(scene, Ending.OK) or endings(scene, Ending.ERROR)),
        expect=ok_or_named("KV_LAYOUT_MISMATCH"),
        when="before",
        probe=Probe(count=2),
        after=(no_chunk_at("decode-0"), not_split(), nobody_restarted()),
        shape="unequal",
        serves_afterwards=False,
    ),
]
