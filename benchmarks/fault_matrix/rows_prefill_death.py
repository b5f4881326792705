"""Rows 1 to 4: the prefill worker dies, before, during and after it computes, and while it sends."""

import signal

from benchmarks.fault_matrix.actions import kill
from benchmarks.fault_matrix.cell import OK, RETRIED, UNNOTICED, Cell, Gate, Phase, Probe
from benchmarks.fault_matrix.checks import let_go_within
from tandem.core.types import SamplingParams

PLAIN = Probe()
SAMPLED = Probe(n=3, sampling=SamplingParams(temperature=0.9, top_k=40, seed=11))
_FREED_S = 1.5  # row 3's bound is detection + 1 s, and the stream breaks with the process: detection takes no time


def _killed(row: int, does: str, gate: Gate, *, phase: Phase, probe: Probe = PLAIN, quick: bool = False) -> Cell:
    return Cell(
        row=row,
        phase=phase,
        does=does,
        fault=kill("prefill"),
        gate=gate,
        expect=RETRIED,
        probe=probe,
        after=(let_go_within("decode", _FREED_S),),
        quick=quick,
    )


CELLS = [
    Cell(
        row=1,
        phase=Phase.IDLE,
        does="kill P, then ask at once",
        fault=kill("prefill"),
        expect=OK,
        probe=Probe(count=4),
    ),
    _killed(1, "kill P with the task in hand", Gate(point="p.before_prefill"), phase=Phase.PREFILL),
    Cell(
        row=1,
        phase=Phase.DECODE,
        does="kill P when D has taken over",
        fault=kill("prefill"),
        expect=UNNOTICED,
        probe=Probe(max_tokens=60),
    ),
    _killed(2, "kill P between chunks", Gate(point="p.chunk", after=1), phase=Phase.PREFILL, quick=True),
    _killed(2, "kill P after the first chunk, n=3", Gate(point="p.chunk"), phase=Phase.PREFILL, probe=SAMPLED),
    Cell(
        row=2,
        phase=Phase.PREFILL,
        does="P segfaults between chunks",
        fault=kill("prefill", signal.SIGSEGV),
        expect=RETRIED,
    ),
    _killed(3, "kill P after the seal", Gate(point="p.after_seal"), phase=Phase.TRANSFER),
    _killed(3, "kill P after the seal, n=3 sampled", Gate(point="p.after_seal"), phase=Phase.TRANSFER, probe=SAMPLED),
    _killed(4, "kill P before chunk 1", Gate(point="p.before_chunk_send", after=1), phase=Phase.TRANSFER),
    _killed(4, "kill P before chunk 3", Gate(point="p.before_chunk_send", after=3), phase=Phase.TRANSFER),
    _killed(
        4,
        "kill P before the last chunk, n=3 sampled",
        Gate(point="p.before_chunk_send", after=5),
        phase=Phase.TRANSFER,
        probe=SAMPLED,
    ),
]
