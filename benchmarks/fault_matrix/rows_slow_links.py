"""Rows 13 to 15: links that are slow, narrow, or reset again and again."""

import time
from functools import partial

from benchmarks.fault_matrix.actions import Link, on_link, repeated
from benchmarks.fault_matrix.cell import OK, UNNOTICED, Cell, Check, Expect, Gate, Phase, Probe, ok_or_named
from benchmarks.fault_matrix.checks import few_requeues, longest_gap, nobody_restarted
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, random_specs
from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.stream_faults import Cut, Delay, RateLimit

UP, DOWN = Direction.TO_SERVER, Direction.TO_CLIENT
_MEGABIT = 125_000.0
_LEARNT_S = 40.0
_IN_A_ROW = 5
_FIRST_CALLERS = 6  # at once: more than one decode worker gets some


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


def a_caller() -> Check:
    """Another caller's KV goes over the link: the fault meets something."""

    async def check(scene: Scene) -> list[str]:
        (record,) = await scene.run(random_specs(1, seed=14, max_output_tokens=2, max_n=1))
        return [] if record.ending is Ending.OK else [f"a caller ended {record.ending.value} {record.reason}"]

    return check


def goes_round(*, within_s: float) -> Check:
    """Callers that come one by one are all answered, and soon none of them by the worker behind a slow link."""

    async def check(scene: Scene) -> list[str]:
        worker, began_s = await scene.victim("decode"), time.monotonic()
        count, num_struck, in_a_row, seed = _FIRST_CALLERS, 0, 0, 0
        while in_a_row < _IN_A_ROW:
            if time.monotonic() - began_s > within_s:
                return [f"after {seed} rounds in {within_s} s the router still sends to {worker}"]
            seed += 1
            records = await scene.run(random_specs(count, seed=seed, max_output_tokens=2, max_n=1))
            if bad := [r for r in records if r.ending is not Ending.OK or r.workers is None]:
                return [f"a caller ended {r.ending.value} {r.reason}" for r in bad]
            struck = sum(r.workers.decode_worker == worker for r in records if r.workers is not None)
            num_struck += struck
            in_a_row = 0 if struck else in_a_row + 1
            count = 1
        scene.facts.append(f"{worker} got {num_struck} callers, and was left alone after {seed - in_a_row} rounds")
        return [] if num_struck else [f"no caller came to {worker} at all: nothing was learnt there"]

    return check


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
    Cell(
        row=14,
        phase=Phase.TRANSFER,
        does="1 Mbit/s on one KV link: the next requests go round it",
        fault=on_link("kv", lambda: [RateLimit(UP, bytes_per_s=_MEGABIT)]),
        expect=ok_or_named("KV_TIMEOUT"),
        gate=Gate(point="d.received_half", at="decode"),
        checks=(goes_round(within_s=_LEARNT_S),),
        after=(nobody_restarted(),),
        shape="new-pairs",
    ),
    Cell(
        row=14,
        phase=Phase.DECODE,
        does="1 Mbit/s on every KV link: a stream that D has goes on",
        fault=on_link("kv", lambda: [RateLimit(UP, bytes_per_s=_MEGABIT)], everywhere=True, any_is_enough=True),
        expect=UNNOTICED,
        probe=Probe(max_tokens=100),
        checks=(a_caller(),),
        after=(nobody_restarted(), longest_gap(2.0)),
    ),
    _narrow(Phase.IDLE),
    _narrow(Phase.PREFILL),
    _narrow(Phase.TRANSFER),
    _reset_often("attach", Phase.PREFILL, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
    _reset_often("attach", Phase.DECODE, ok_or_named("WORKER_LOST", "UNAVAILABLE")),
    _reset_often("kv", Phase.TRANSFER, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
    _reset_often("kv", Phase.DECODE, ok_or_named("WORKER_LOST", "KV_TIMEOUT")),
    _reset_often("public", Phase.DECODE, Expect(endings=frozenset({Ending.OK, Ending.ERROR}))),
]
