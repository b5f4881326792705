"""Rows 44 and 45: the router dies; workers of another layout stand beside equal ones."""

from benchmarks.fault_matrix.actions import behave, endings, kill
from benchmarks.fault_matrix.cell import OK, Cell, Check, Expect, Gate, Phase, Probe, ok_or_named
from benchmarks.fault_matrix.checks import freed_within, nobody_restarted, served_by
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending
from tandem.core.event_log.events import ChunkAccepted

_GONE_S = 20.0


def no_chunk_at(worker: str) -> Check:
    """Nothing was handed over to this worker."""

    async def check(scene: Scene) -> list[str]:
        num_chunks = scene.count_events(worker, ChunkAccepted)
        return [f"{worker} took {num_chunks} chunks"] if num_chunks else []

    return check


CELLS = [
    *(
        Cell(
            row=44,
            phase=phase,
            does="kill the router",
            fault=kill("router"),
            expect=Expect(endings=frozenset({Ending.ERROR}), reasons=frozenset({"UNAVAILABLE", "UNREACHABLE"})),
            gate=Gate(tokens=5) if phase is Phase.DECODE else None,
            probe=Probe(count=2, max_tokens=200 if phase is Phase.DECODE else 24),
            checks=(freed_within("prefill", _GONE_S), freed_within("decode", _GONE_S)),
            after=(nobody_restarted(),),
        )
        for phase in Phase
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
        probe=Probe(max_tokens=40),
        after=(no_chunk_at("decode-1"),),
        shape="mixed",
    ),
    Cell(
        row=45,
        phase=Phase.IDLE,
        does="P and the only D store KV differently",
        fault=behave(lambda scene: endings(scene, Ending.OK) or endings(scene, Ending.ERROR)),
        expect=ok_or_named("KV_LAYOUT_MISMATCH"),
        when="before",
        probe=Probe(count=2),
        after=(no_chunk_at("decode-0"), served_by(["decode-0"]), nobody_restarted()),
        shape="unequal",
        serves_afterwards=False,
    ),
]
