"""What cells of the chaos matrix demand besides right tokens: each demand fails where it is not met."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.fault_matrix import rows_router
from benchmarks.fault_matrix.cell import Cell, Check, Phase
from benchmarks.fault_matrix.checks import let_go_within, longest_gap
from benchmarks.fault_matrix.effects import kv_was_reused, no_work_after_deadline, stopped_at_its_string
from benchmarks.fault_matrix.fences import zombie_fenced
from benchmarks.fault_matrix.rows_prefill_death import CELLS
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import RequestRecord, RequestSpec
from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import Record
from tandem.core.types import FinishReason, StopParams

R = "r"
REF = BlockRef(7, 1)
PROCESSES = {"prefill-0": 1, "decode-0": 2, "router-0": 3}


@dataclass
class _Scene:
    """The part of a scene that these checks look at."""

    probes: list[RequestRecord]
    told: list[Record] = field(default_factory=list)
    hit_at_s: float = 0.0
    struck: str = "decode-0"
    cell: Cell = CELLS[0]
    facts: list[str] = field(default_factory=list)
    world: Any = None

    def events(self, process: str) -> Sequence[Record]:
        return [record for record in self.told if record.process.startswith(process)]

    def count_events(self, process: str, kind: type[ev.Event]) -> int:
        return sum(isinstance(record.event, kind) for record in self.events(process))


def _probe(**fields: Any) -> RequestRecord:
    spec = RequestSpec(prompt=(5,), deadline_s=1.0, stop=StopParams(max_tokens=9, stop=("x",)))
    return RequestRecord(**{"spec": spec, "began_s": 10.0, "request_id": R, **fields})


def _told(*events: tuple[str, float, ev.Event]) -> list[Record]:
    return [Record(process=name, epoch=PROCESSES[name], t=t, event=event) for name, t, event in events]


def _given(at_s: float) -> tuple[str, float, ev.Event]:
    return "decode-0", at_s, ev.BlocksAllocated(request=R, attempt=0, state="receiving", blocks=(REF,))


def _freed(at_s: float) -> tuple[str, float, ev.Event]:
    return "decode-0", at_s, ev.BlocksFreed(blocks=(REF,))


async def _problems(check: Check, scene: _Scene) -> list[str]:
    return await check(cast("Scene", scene))


@pytest.mark.parametrize(
    ("reason", "ended_s", "worked_s", "at_work", "is_met"),
    [
        ("DEADLINE_EXCEEDED", 11.0, 10.8, True, True),
        ("DEADLINE_EXCEEDED", 10.8, 10.5, True, False),  # told too early
        ("DEADLINE_EXCEEDED", 11.0, 11.6, True, False),  # worked on too long
        ("DEADLINE_EXCEEDED", 11.0, None, True, False),  # nothing was there to be stopped
        ("DEADLINE_EXCEEDED", 11.0, None, False, True),
        ("DEADLINE_UNREACHABLE", 10.0, None, False, True),  # at once is not too early for this one
        ("DEADLINE_UNREACHABLE", 10.0, None, True, False),  # but it shows nothing
        ("DEADLINE_UNREACHABLE", 11.0, 10.5, True, False),
    ],
)
async def test_a_deadline_comes_in_time_and_stops_work(
    reason: str, ended_s: float, worked_s: float | None, at_work: bool, is_met: bool
) -> None:
    told = [] if worked_s is None else _told(_given(worked_s))
    scene = _Scene([_probe(reason=reason, ended_s=ended_s)], told)
    assert (not await _problems(no_work_after_deadline(at_work=at_work), scene)) is is_met


@pytest.mark.parametrize(
    ("reason", "workers", "is_met"),
    [
        ("KV_LAYOUT_MISMATCH", None, True),
        ("", ("decode-0", "decode-0"), True),
        ("", ("prefill-0", "decode-0"), False),
        ("WORKER_LOST", None, False),
    ],
)
async def test_unequal_workers_serve_nothing_together(
    reason: str, workers: tuple[str, str] | None, is_met: bool
) -> None:
    served = workers and SimpleNamespace(prefill_worker=workers[0], decode_worker=workers[1])
    scene = _Scene([_probe(reason=reason, workers=served)])
    assert (not await _problems(rows_router.not_split(), scene)) is is_met


@pytest.mark.parametrize(
    ("finish", "matched", "is_met"),
    [
        (FinishReason.STOP, "x", True),
        (FinishReason.STOP, "y", False),
        (FinishReason.STOP, None, False),
        (FinishReason.LENGTH, None, False),
    ],
)
async def test_an_answer_ends_at_its_stop_string(finish: FinishReason, matched: str | None, is_met: bool) -> None:
    child = cast("Any", SimpleNamespace(finish_reason=finish, matched_stop=matched, token_ids=[1, 2]))
    assert (not await _problems(stopped_at_its_string(), _Scene([_probe(children={0: child})]))) is is_met
    assert await _problems(stopped_at_its_string(), _Scene([_probe()]))


async def test_kv_that_was_computed_anew_was_not_reused() -> None:
    rekeyed = ev.BlocksRekeyed(request=R, from_attempt=0, attempt=1, blocks=(REF,))
    assert not await _problems(kv_was_reused(), _Scene([_probe()], _told(("prefill-0", 1.0, rekeyed))))
    assert await _problems(kv_was_reused(), _Scene([_probe()]))


async def test_a_pause_is_too_long() -> None:
    assert not await _problems(longest_gap(2.0), _Scene([_probe(longest_gap_s=1.9)]))
    assert await _problems(longest_gap(2.0), _Scene([_probe(longest_gap_s=2.1)]))


async def test_blocks_are_let_go_in_time_or_were_never_held() -> None:
    hit_s = time.monotonic() - 10.0
    for events, is_met in (
        ([_given(hit_s - 1.0), _freed(hit_s + 1.9)], True),
        ([_given(hit_s - 1.0), _freed(hit_s + 2.1)], False),
        ([_given(hit_s - 1.0)], False),
        ([_given(hit_s - 1.0), _freed(hit_s - 0.5)], False),  # held nothing when the fault came
    ):
        scene = _Scene([_probe()], _told(*events), hit_at_s=hit_s)
        assert (not await _problems(let_go_within("decode", 2.0), scene)) is is_met, events


async def test_a_zombie_lets_go_of_what_it_held_when_it_went_on() -> None:
    async def status() -> SimpleNamespace:
        return SimpleNamespace(num_stale=0)

    world = SimpleNamespace(cluster=SimpleNamespace(status=status))
    cell = Cell(row=9, phase=Phase.DECODE, does="", fault=CELLS[0].fault, lasts_s=8.0)
    goes_on_s = time.monotonic() - 5.0
    for events, is_met in (
        ([_given(goes_on_s - 9.0), _freed(goes_on_s + 0.1)], True),
        ([_given(goes_on_s - 9.0)], False),  # for nobody
        ([_given(goes_on_s - 9.0), _freed(goes_on_s - 1.0)], False),  # there was nothing to fence
        ([], False),
    ):
        scene = _Scene([_probe()], _told(*events), hit_at_s=goes_on_s - 8.0, cell=cell, world=world)
        assert (not await _problems(zombie_fenced(2.0), scene)) is is_met, events
