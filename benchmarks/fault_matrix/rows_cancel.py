"""Rows 21 to 26: callers leave at every stage; at both workers everything is free soon, and nobody else notices."""

import asyncio
import random
from dataclasses import replace
from functools import partial

from benchmarks.fault_matrix.cancels import Stage, leave_in
from benchmarks.fault_matrix.cell import CANCELLED, OK, Cell, Gate, Phase, Probe
from benchmarks.fault_matrix.checks import freed_within, mates_untouched, nobody_restarted, nothing_kept
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec, Verdict, random_specs
from tandem.chaos.faults.evidence import Evidence

_FREE_S = 1.5  # the second of the row, and the harness's own polls
_FREED = (freed_within("prefill", _FREE_S), freed_within("decode", _FREE_S))
_LET_GO = (nothing_kept("prefill", _FREE_S), nothing_kept("decode", _FREE_S))


_ROW_STAGES = {
    21: (Stage.QUEUED, Stage.UNKNOWN, Stage.PREFILL),  # as soon as it is sent: wherever it has come
    22: (Stage.PREFILL,),
    23: (Stage.PREFILL, Stage.COMPUTED),  # never TRANSFER alone: D has no part in it yet
    # COMMITTED too: at d.before_commit D's receiver has told P that it has all, and D's engine took none of it yet.
    24: (Stage.TRANSFER, Stage.COMMITTED),
}


def _left(
    row: int,
    phase: Phase,
    does: str,
    gate: Gate,
    *,
    stages: tuple[Stage, ...] = (),
    n: int = 1,
    quick: bool = False,
) -> Cell:
    return Cell(
        row=row,
        phase=phase,
        does=does,
        fault=leave_in(*(stages or _ROW_STAGES[row])),
        gate=gate,
        expect=CANCELLED,
        probe=Probe(n=n, max_tokens=200 if phase is Phase.DECODE else 24),
        checks=_FREED,
        after=(*_LET_GO, nobody_restarted()),
        quick=quick,
    )


class _Storm:
    """Many callers beside the probe; a share of them leaves."""

    def __init__(self, scene: Scene, specs: list[RequestSpec]) -> None:
        self._scene, self._specs = scene, specs
        self._task: asyncio.Task[list[RequestRecord]] | None = None
        self._records: list[RequestRecord] = []

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._scene.run(self._specs))

    async def end(self) -> None:
        if self._task is not None:
            self._records, self._task = await self._task, None

    def verify(self) -> Evidence:
        """Some left, some stayed, nobody got anything wrong, and who stayed was served."""
        num_left = sum(record.ending is Ending.CANCELLED for record in self._records)
        bad = [
            f"{r.ending.value} {r.reason} {r.problem}"
            for r in self._records
            if r.verdict is Verdict.WRONG or r.ending not in (Ending.OK, Ending.CANCELLED)
        ]
        num_stayed = len(self._records) - num_left
        took_effect = num_left > 0 and num_stayed > 0 and not bad
        return Evidence(took_effect=took_effect, facts=f"{num_left} left, {num_stayed} stayed; {bad[:3]}")


def _storm(count: int, *, seed: int, share: float, lives_s: tuple[float, ...]) -> list[RequestSpec]:
    return random_specs(
        count, seed=seed, cancel_share=share, lives_s=lives_s, max_output_tokens=12, max_prompt_blocks=4, max_n=2
    )


def _around_the_end(count: int) -> list[RequestSpec]:
    """Callers that leave about when their short answers end, some before it and some after."""
    dice = random.Random(25)
    specs = random_specs(count, seed=25, max_output_tokens=6, max_prompt_blocks=1, max_n=1)
    return [
        replace(spec, cancel_after_s=dice.uniform(0.1, 0.9), start_after_s=0.02 * index)
        for index, spec in enumerate(specs)
    ]


def _hundred_callers(lives_s: tuple[float, ...], scene: Scene) -> _Storm:
    return _Storm(scene, _storm(100, seed=26, share=0.6, lives_s=lives_s))


CELLS = [
    _left(21, Phase.IDLE, "leave as soon as it is sent", Gate(sent=True)),
    Cell(
        row=21,
        phase=Phase.IDLE,
        does="leave while it is queued",
        fault=leave_in(Stage.QUEUED),
        gate=Gate(queued=True),
        expect=CANCELLED,
        probe=Probe(mates=2, max_tokens=150),
        after=(mates_untouched(), nobody_restarted()),
        shape="two-slots",
    ),
    _left(22, Phase.PREFILL, "leave before the first chunk", Gate(point="p.before_prefill")),
    _left(22, Phase.PREFILL, "leave after the first chunk", Gate(point="p.chunk")),
    _left(22, Phase.PREFILL, "leave before the last chunk, n=3", Gate(point="p.chunk", after=1), n=3),
    Cell(
        row=22,
        phase=Phase.PREFILL,
        does="20 of 30 leave at random times",
        fault=lambda scene: _Storm(scene, _storm(30, seed=22, share=0.67, lives_s=(0.1, 0.3))),
        expect=OK,
        after=(nobody_restarted(),),
    ),
    _left(
        23,
        Phase.PREFILL,
        "leave before D hears of it",
        Gate(point="r.before_dispatch_decode", at="router", dwell_s=0.5),
        quick=True,
    ),
    _left(23, Phase.TRANSFER, "leave when P has sealed", Gate(point="p.after_seal")),
    _left(24, Phase.TRANSFER, "leave before chunk 0", Gate(point="p.before_chunk_send")),
    _left(24, Phase.TRANSFER, "leave before chunk 1", Gate(point="p.before_chunk_send", after=1)),
    _left(24, Phase.TRANSFER, "leave before chunk 4", Gate(point="p.before_chunk_send", after=4)),
    _left(24, Phase.TRANSFER, "leave with half of it", Gate(point="d.received_half", at="decode")),
    _left(
        24,
        Phase.TRANSFER,
        "leave with all KV at D, before its engine takes it, n=3",
        Gate(point="d.before_commit", at="decode"),
        n=3,
    ),
    _left(24, Phase.DECODE, "leave after 5 tokens", Gate(tokens=5), stages=(Stage.DECODE,)),
    Cell(
        row=25,
        phase=Phase.DECODE,
        does="100 leave about when their answers end",
        fault=lambda scene: _Storm(scene, _around_the_end(100)),
        expect=OK,
        after=(nobody_restarted(),),
    ),
    *(
        Cell(
            row=26,
            phase=phase,
            does=f"60 % of 100 leave within {lives_s[-1]} s",
            fault=partial(_hundred_callers, lives_s),
            expect=OK,
            probe=Probe(count=2, max_tokens=60),
            after=(nobody_restarted(),),
        )
        for phase, lives_s in ((Phase.IDLE, (0.05, 0.2)), (Phase.DECODE, (0.3, 1.0)))
    ),
]
