"""Rows 13 to 15: links that are slow, narrow, or reset again and again."""

from benchmarks.fault_matrix.actions import on_link, repeated
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


CELLS = [
    *(
        Cell(
            row=13,
            phase=phase,
            does=f"{1000 * seconds:.0f} ms later on every {link} link",
            fault=on_link(link, lambda seconds=seconds: _delays(seconds), everywhere=True, any_is_enough=True),
            expect=OK,
            when="before",
            probe=Probe(count=4),
            after=(few_requeues(0.1), nobody_restarted()),
        )
        for link, seconds, phase in (
            ("attach", 0.05, Phase.PREFILL),
            ("attach", 0.2, Phase.DECODE),
            ("kv", 0.05, Phase.TRANSFER),
            ("kv", 0.2, Phase.TRANSFER),
        )
    ),
    *(
        Cell(
            row=14,
            phase=phase,
            does="1 Mbit/s on every KV link",
            fault=on_link("kv", lambda: [RateLimit(UP, bytes_per_s=_MEGABIT)], everywhere=True, any_is_enough=True),
            expect=ok_or_named("KV_TIMEOUT", "OVERLOADED"),
            probe=Probe(count=4),
            after=(nobody_restarted(),),
        )
        for phase in (Phase.IDLE, Phase.PREFILL, Phase.TRANSFER)
    ),
    *(
        Cell(
            row=15,
            phase=phase,
            does=f"resets on every {link} link, again and again",
            fault=repeated(
                on_link(link, _resets, everywhere=link != "public", any_is_enough=True), on_s=0.2, off_s=1.3
            ),
            expect=expect,
            lasts_s=4.0,
            probe=Probe(count=4, max_tokens=60),
            after=(nobody_restarted(),),
        )
        for link, phase, expect in (
            ("attach", Phase.PREFILL, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
            ("attach", Phase.DECODE, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
            ("kv", Phase.TRANSFER, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
            ("kv", Phase.DECODE, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
            ("public", Phase.DECODE, Expect(endings=frozenset({Ending.OK, Ending.ERROR}))),
        )
    ),
]
