"""Rows 10 to 12: links are cut while both ends live, between any two processes, in both or in one direction."""

from functools import partial

from benchmarks.fault_matrix.actions import on_link
from benchmarks.fault_matrix.breakers import breaker_closes, breaker_opens
from benchmarks.fault_matrix.cell import OK, RETRIED, UNNOTICED, Cell, Gate, Phase, Probe
from benchmarks.fault_matrix.checks import freed_within, let_go_within, longest_gap, nobody_restarted
from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.frame_faults import DropFrame
from tandem.chaos.faults.stream_faults import Blackhole, Cut, Stall
from tandem.kvtransfer.codec import FrameType

UP, DOWN = Direction.TO_SERVER, Direction.TO_CLIENT
_NOTICED_S = 20.0  # gRPC: a ping each 10 s, 5 s for its answer
_LONGER_TOKENS = 1500  # take longer than that: who is free by then has noticed


def _cut() -> list[Stall]:
    return [Stall(UP), Stall(DOWN)]


def _reset() -> list[Cut]:
    return [Cut(UP, how="reset", times=None)]


def _blackhole(direction: Direction) -> list[Blackhole]:
    return [Blackhole(direction)]


def _drop(kind: FrameType) -> list[DropFrame]:
    return [DropFrame(kind)]


CELLS = [
    *(
        Cell(
            row=10,
            phase=phase,
            does="cut router and D, both alive",
            fault=on_link("attach", _cut, any_is_enough=True),
            expect=OK if phase is Phase.IDLE else RETRIED,
            gate=Gate(tokens=5) if phase is Phase.DECODE else None,
            lasts_s=8.0 if phase is Phase.IDLE else None,
            probe=Probe(max_tokens=_LONGER_TOKENS, deadline_s=60.0)
            if phase is Phase.DECODE
            else Probe(count=4 if phase is Phase.IDLE else 1),
            checks=(let_go_within("decode", _NOTICED_S),)
            if phase is Phase.DECODE
            else (freed_within("decode", _NOTICED_S),),
            after=(nobody_restarted(),),
        )
        for phase in Phase
    ),
    *(
        Cell(
            row=11,
            phase=phase,
            does="cut P and D, both seen by the router",
            fault=on_link("kv", _cut, any_is_enough=True),
            expect=OK if phase is Phase.IDLE else RETRIED,
            probe=Probe(count=8 if phase is Phase.IDLE else 1),
            checks=(breaker_opens(),),
            after=(breaker_closes(), nobody_restarted()),
            shape="even-pairs",
        )
        for phase in (Phase.IDLE, Phase.PREFILL, Phase.TRANSFER)
    ),
    Cell(
        row=11,
        phase=Phase.DECODE,
        does="cut P and D, both seen by the router: a stream that D has goes on",
        fault=on_link("kv", _cut, any_is_enough=True),
        expect=UNNOTICED,
        probe=Probe(max_tokens=200),
        checks=(breaker_opens(),),
        after=(breaker_closes(), nobody_restarted(), longest_gap(2.0)),
        shape="even-pairs",
    ),
    Cell(
        row=11,
        phase=Phase.TRANSFER,
        does="every KV connection of D is reset",
        fault=on_link("kv", _reset, any_is_enough=True),
        expect=RETRIED,
        checks=(breaker_opens(),),
        after=(breaker_closes(), nobody_restarted()),
        shape="even-pairs",
    ),
    *(
        Cell(
            row=12,
            phase=phase,
            does=f"nothing comes {what}",
            fault=on_link("kv", partial(_blackhole, direction), everywhere=phase is Phase.IDLE, any_is_enough=True),
            # A D that has everything commits, and goes on alone.
            expect=OK if phase is Phase.IDLE or direction is DOWN else RETRIED,
            probe=Probe(count=8 if phase is Phase.IDLE else 1),
        )
        for phase in (Phase.IDLE, Phase.PREFILL, Phase.TRANSFER)
        for what, direction in (("back from D to P", DOWN), ("from P to D", UP))
    ),
    *(
        Cell(
            row=12,
            phase=Phase.TRANSFER,
            does=f"one {kind.name} is lost",
            fault=on_link("kv", partial(_drop, kind), everywhere=True, any_is_enough=True),
            expect=UNNOTICED,
            when="before",
            quick=kind is FrameType.COMMIT,
        )
        for kind in (FrameType.COMMIT, FrameType.COMMIT_ACK, FrameType.CREDIT)
    ),
    Cell(
        row=12,
        phase=Phase.DECODE,
        does="nothing comes from D to the router",
        fault=on_link("attach", lambda: [Stall(DOWN)]),
        expect=RETRIED,
        probe=Probe(max_tokens=_LONGER_TOKENS, deadline_s=60.0),
        checks=(let_go_within("decode", _NOTICED_S),),
    ),
    Cell(
        row=12,
        phase=Phase.DECODE,
        does="nothing comes from the router to D",
        fault=on_link("attach", lambda: [Stall(UP)], any_is_enough=True),
        expect=OK,
        probe=Probe(max_tokens=60),
    ),
]
