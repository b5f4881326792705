"""Rows 8 and 9: a process stands still, for less and for more than it takes to be given up."""

from benchmarks.fault_matrix.actions import stop
from benchmarks.fault_matrix.cell import OK, RETRIED, UNNOTICED, Cell, Expect, Gate, Phase, Probe, RoleName
from benchmarks.fault_matrix.checks import longest_gap, nobody_restarted
from benchmarks.fault_matrix.fences import zombie_fenced

_SHORT_S = 1.5  # below every detection, the hand-over's included
_DEFAULT_S = 5.0  # below the product's own detection
_LONG_S = 8.0  # above dead_after_s
_HEARD_S = 5.0  # until a zombie has heard that it was given up


def _short(role: RoleName, phase: Phase, *, does: str = "", gate: Gate | None = None, quick: bool = False) -> Cell:
    return Cell(
        row=8,
        phase=phase,
        does=does or f"stop {role} for {_SHORT_S} s",
        fault=stop(role),
        gate=gate,
        expect=UNNOTICED,
        lasts_s=_SHORT_S,
        probe=Probe(max_tokens=40, count=2 if phase is Phase.IDLE else 1),
        after=(nobody_restarted(), longest_gap(_SHORT_S + 2.0)),
        quick=quick,
    )


def _long(role: RoleName, phase: Phase, *, expect: Expect = RETRIED, gate: Gate | None = None) -> Cell:
    return Cell(
        row=9,
        phase=phase,
        does=f"stop {role} for {_LONG_S:.0f} s, then let it go on",
        fault=stop(role),
        gate=gate,
        expect=expect,
        lasts_s=_LONG_S,
        probe=Probe(max_tokens=60, count=8 if phase is Phase.IDLE else 1),
        checks=(zombie_fenced(_HEARD_S),),
        after=(nobody_restarted(),),
        shape="even-pairs" if phase is Phase.IDLE else "pairs",  # one that looks slow would be given nothing
    )


def _default(role: RoleName, phase: Phase) -> Cell:
    return Cell(
        row=8,
        phase=phase,
        does=f"default timers: stop {role} for {_DEFAULT_S:.0f} s",
        fault=stop(role),
        expect=UNNOTICED,
        lasts_s=_DEFAULT_S,
        probe=Probe(max_tokens=40, mates=2),
        after=(nobody_restarted(),),
        shape="default-timers",
    )


CELLS = [
    _short("prefill", Phase.IDLE),
    _short("prefill", Phase.PREFILL),
    _short("prefill", Phase.TRANSFER),
    _short("prefill", Phase.DECODE),
    _short("decode", Phase.IDLE),
    _short("decode", Phase.PREFILL),
    _short("decode", Phase.TRANSFER),
    _short("decode", Phase.DECODE, quick=True),
    _short("router", Phase.IDLE),
    _short("router", Phase.PREFILL),
    _short("router", Phase.TRANSFER),
    _short("router", Phase.DECODE),
    _default("prefill", Phase.PREFILL),
    _default("prefill", Phase.TRANSFER),
    _default("decode", Phase.TRANSFER),
    _default("decode", Phase.DECODE),
    _long("prefill", Phase.IDLE, expect=OK),
    _long("prefill", Phase.PREFILL),
    _long("prefill", Phase.TRANSFER),
    _long("decode", Phase.IDLE, expect=OK),
    _long("decode", Phase.PREFILL),
    _long("decode", Phase.TRANSFER, gate=Gate(point="d.received_half", at="decode")),
    _long("decode", Phase.DECODE),
]
