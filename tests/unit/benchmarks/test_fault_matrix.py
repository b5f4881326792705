"""What the chaos matrix itself must not overlook: whoever asked, whoever ended, and where a request was."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.fault_matrix import audit, rows_engine, run
from benchmarks.fault_matrix.cancels import Stage, stage_at
from benchmarks.fault_matrix.cell import Cell, CellResult
from benchmarks.fault_matrix.history import History
from benchmarks.fault_matrix.rows_prefill_death import CELLS
from benchmarks.fault_matrix.scene import Scene
from benchmarks.fault_matrix.world import Span, World
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec, Verdict
from tandem.chaos.trace import UnfinishedLog
from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import ProcessLife, Record
from tandem.core.types import Role

R = "r"
P, D, ROUTER = ("prefill-0", 1), ("decode-0", 2), ("router-0", 3)
REF = BlockRef(7, 1)


@dataclass
class _Scene:
    """The part of a scene that accounts and histories look at."""

    told: list[Record] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    world: Any = field(default_factory=lambda: SimpleNamespace(records=[]))

    def events(self, process: str) -> Sequence[Record]:
        return self.told

    async def judge(self) -> None:
        """They are."""


def _record(ending: Ending = Ending.OK, *, seconds: float = 1.0, **fields: Any) -> RequestRecord:
    spec = RequestSpec(prompt=(5,), deadline_s=2.0)
    return RequestRecord(
        spec=spec, began_s=10.0, ended_s=10.0 + seconds, ending=ending, **{"verdict": Verdict.EQUAL, **fields}
    )


def _told(*events: tuple[tuple[str, int], float, ev.Event]) -> list[Record]:
    return [Record(process=life[0], epoch=life[1], t=t, event=event) for life, t, event in events]


@pytest.mark.parametrize(
    ("record", "num_wrong", "num_hangs", "num_problems"),
    [
        (_record(), 0, 0, 0),
        (_record(verdict=Verdict.WRONG, problem="token 3 is wrong"), 1, 0, 1),
        (_record(Ending.CANCELLED, verdict=Verdict.WRONG), 1, 0, 1),
        (_record(Ending.HANG), 0, 1, 1),
        (_record(seconds=3.5), 0, 1, 1),
        (_record(Ending.ERROR, reason="UNAVAILABLE"), 0, 0, 0),
        (_record(Ending.ERROR), 0, 0, 1),
        (_record(Ending.BROKEN), 0, 0, 1),
    ],
)
async def test_every_request_of_a_cell_counts(
    record: RequestRecord, num_wrong: int, num_hangs: int, num_problems: int
) -> None:
    scene, result = _Scene(records=[_record(), record]), CellResult(cell=CELLS[0])
    await run._account(cast("Scene", scene), result)
    assert (result.num_wrong, result.num_hangs, len(result.problems)) == (num_wrong, num_hangs, num_problems)
    assert len(scene.world.records) == 2


def test_a_request_is_where_its_processes_say() -> None:
    dispatched = ev.Dispatched(request=R, attempt=0, prefill=P[0], prefill_epoch=1, decode=D[0], decode_epoch=2)
    told = _told(
        (ROUTER, 1.0, ev.RequestAccepted(request=R, num_sequences=1, traceparent="t")),
        (ROUTER, 2.0, dispatched),
        (D, 3.0, ev.GrantMade(request=R, attempt=0, blocks=(REF,), deadline_left_s=9.0)),
        (P, 4.0, ev.HandoverSealed(request=R, attempt=0, num_blocks=1)),
        (D, 5.0, ev.HandoverCommitted(request=R, attempt=0)),
        (D, 6.0, ev.DecodeStep(rows=(ev.StepRow(R, 0, 0, 17, (REF,)),))),
    )
    history = History(cast("Scene", _Scene(told=told)))
    assert history.request_of(_record(traceparent="t")) == R
    assert history.request_of(_record(traceparent="another")) == ""
    assert [set(stage_at(history, R, at_s + 0.5)) for at_s in range(1, 7)] == [
        {Stage.QUEUED},
        {Stage.PREFILL},
        {Stage.PREFILL, Stage.TRANSFER},
        {Stage.COMPUTED, Stage.TRANSFER},
        {Stage.COMMITTED},
        {Stage.DECODE},
    ]
    assert stage_at(history, "", 9.0) == {Stage.UNKNOWN}


def test_blocks_are_followed_from_one_use_to_the_next() -> None:
    later = BlockRef(7, 2)
    told = _told(
        (D, 1.0, ev.BlocksAllocated(request=R, attempt=0, state="receiving", blocks=(REF,))),
        (D, 2.0, ev.BlocksFreed(blocks=(REF,))),
        (D, 3.0, ev.BlocksAllocated(request="s", attempt=0, state="receiving", blocks=(later,))),
    )
    history = History(cast("Scene", _Scene(told=told)))
    (use,) = history.uses_of(R, "decode")
    assert (use.allocated_s, use.freed_s) == (1.0, 2.0)
    assert history.uses_of("s")[0].freed_s is None
    assert history.uses_of(R, "prefill") == []
    life = ProcessLife(*D)
    assert history.was_reused(life, REF, by_s=3.0)
    assert not history.was_reused(life, REF, by_s=2.5)
    assert not history.was_reused(life, later, by_s=9.0)


def test_a_cached_block_is_let_go_when_it_is_returned_and_lent_again_later() -> None:
    told = _told(
        (D, 1.0, ev.BlocksAllocated(request=R, attempt=0, state="receiving", blocks=(REF,))),
        (D, 2.0, ev.BlocksCached(request=R, attempt=0, blocks=(REF,))),
        (D, 3.0, ev.BlocksBorrowed(request="s", attempt=0, blocks=(REF,))),
        (D, 4.0, ev.BlocksReturned(request=R, attempt=0, blocks=(REF,))),
        (D, 5.0, ev.BlocksReturned(request="s", attempt=0, blocks=(REF,))),
        (D, 6.0, ev.BlocksBorrowed(request="t", attempt=0, blocks=(REF,))),
        (D, 7.0, ev.BlocksFreed(blocks=(REF,))),
    )
    history = History(cast("Scene", _Scene(told=told)))
    uses = {request: history.uses_of(request)[0] for request in (R, "s", "t")}
    spans = {request: (use.allocated_s, use.freed_s, use.borrowed) for request, use in uses.items()}
    assert spans == {R: (1.0, 4.0, False), "s": (3.0, 5.0, True), "t": (6.0, 7.0, True)}


def _deadly() -> Cell:
    return next(cell for cell in rows_engine.CELLS if "an answer that kills the process, alone" in cell.does)


def _deadly_prompt() -> Cell:
    return next(cell for cell in rows_engine.CELLS if "a prompt that kills the process, alone" in cell.does)


def _world(*cells: Cell, killed: frozenset[int] = frozenset()) -> World:
    spans = [Span(cell=cell, began_s=100.0, ended_s=200.0) for cell in cells]
    desk = SimpleNamespace(hits=lambda name: [SimpleNamespace(pid=55, action="crash")] if name == "decode-0" else [])
    return cast("World", SimpleNamespace(spans=spans, killed_pids=killed, desk=desk, ports={"decode-0": None}))


@pytest.mark.parametrize(
    ("log", "world", "is_known"),
    [
        (UnfinishedLog(process="prefill-0", epoch=1, pid=9, last_s=150.0), _world(), False),
        (UnfinishedLog(process="prefill-0", epoch=1, pid=9, last_s=150.0), _world(killed=frozenset({9})), True),
        (UnfinishedLog(process="decode-0", epoch=1, pid=55, last_s=150.0), _world(), True),
        (UnfinishedLog(process="decode-0", epoch=1, pid=9, last_s=150.0), _world(_deadly()), True),
        (UnfinishedLog(process="decode-0", epoch=1, pid=9, last_s=250.0), _world(_deadly()), False),
        (UnfinishedLog(process="prefill-0", epoch=1, pid=9, last_s=150.0), _world(_deadly()), True),  # by its retry
        (UnfinishedLog(process="decode-0", epoch=1, pid=9, last_s=150.0), _world(_deadly_prompt()), False),
        (UnfinishedLog(process="decode-0", epoch=1, pid=9, last_s=150.0), _world(CELLS[0]), False),
    ],
)
def test_who_ended_without_a_word_was_killed_or_is_a_problem(log: UnfinishedLog, world: World, is_known: bool) -> None:
    report = cast("Any", SimpleNamespace(unfinished=[log]))
    assert audit._ended_unasked(world, report) == [] if is_known else len(audit._ended_unasked(world, report)) == 1


def test_a_role_may_stand_empty_only_while_its_own_requests_kill_it() -> None:
    world = _world(_deadly(), CELLS[0])
    assert audit._is_excused(world, Role.DECODE, 110.0, 190.0)
    assert not audit._is_excused(world, Role.DECODE, 110.0, 201.0)
    assert not audit._is_excused(world, Role.PREFILL, 110.0, 190.0)
    assert not audit._is_excused(_world(*CELLS), Role.PREFILL, 110.0, 190.0)


def test_every_row_of_deaths_says_what_its_peer_lets_go() -> None:
    held = [cell for cell in CELLS if cell.gate is not None and cell.gate.point]
    assert len(held) >= 8
    assert all(cell.after for cell in held)
