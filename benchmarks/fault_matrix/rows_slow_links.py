"""Rows 13 to 15: links that are slow, narrow, or reset again and again."""

from functools import partial

from benchmarks.fault_matrix.actions import Link, on_link, repeated
from benchmarks.fault_matrix.cell import OK, Cell, Expect, Phase, Probe, ok_or_named
from benchmarks.fault_matrix.checks import few_requeues, nobody_restarted
from tandem.chaos.cluster import Ending
from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.stream_faults import Cut, Delay, RateLimit

UP, DOWN = Direction.TO_SERVER, Direction.TO_CLIENT
_MEGABIT = 125_000.0


def _delays(seconds: float) -> list[Delay]:
    return [Delay(UP, seconds=seconds), Delay(DOWN, seconds=seconds)]


def _resets() -> list[Cut]:
    return [Cut(UP, how="reset", times=None)]


def _late(link: Link, seconds: float, phase: Phase) -> Cell:
    return Cell(
        row=13,
        phase=phase,
        does=f"{1000 * seconds:.0f} ms later on every {link} link",
        fault=on_link(link, partial(_delays, seconds), everywhere=True, any_is_enough=True),
        expect=OK,
        when="before",
        probe=Probe(count=4),
        after=(few_requeues(0.1), nobody_restarted()),
    )


def _narrow(phase: Phase) -> Cell:
    return Cell(
        row=14,
        phase=phase,
        does="1 Mbit/s on every KV link",
        fault=on_link("kv", lambda: [RateLimit(UP, bytes_per_s=_MEGABIT)], everywhere=True, any_is_enough=True),
        expect=ok_or_named("KV_TIMEOUT", "OVERLOADED"),
        probe=Probe(count=4),
        after=(nobody_restarted(),),
    )


def _reset_often(link: Link, phase: Phase, expect: Expect) -> Cell:
    resets = on_link(link, _resets, everywhere=link != "public", any_is_enough=True)
    return Cell(
        row=15,
        phase=phase,
        does=f"resets on every {link} link, again and again",
        fault=repeated(resets, on_s=0.2, off_s=1.3),
        expect=expect,
        lasts_s=4.0,
        probe=Probe(count=4, max_tokens=60),
        after=(nobody_restarted(),),
    )


CELLS = [
    _late("attach", 0.05, Phase.PREFILL),
    _late("attach", 0.2, Phase.DECODE),
    _late("kv", 0.05, Phase.TRANSFER),
    _late("kv", 0.2, Phase.TRANSFER),
    _narrow(Phase.IDLE),
    _narrow(Phase.PREFILL),
    _narrow(Phase.TRANSFER),
    _reset_often("attach", Phase.PREFILL, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
    _reset_often("attach", Phase.DECODE, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
    _reset_often("kv", Phase.TRANSFER, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
    _reset_often("kv", Phase.DECODE, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
    _reset_often("public", Phase.DECODE, Expect(endings=frozenset({Ending.OK, Ending.ERROR}))),
]
