"""Rows 16 to 20: frames of a hand-over come twice, late, spoilt, or in another order."""

import asyncio
import time
from functools import partial

from benchmarks.fault_matrix.actions import at_point, both, on_link
from benchmarks.fault_matrix.cancels import Stage, leave_in
from benchmarks.fault_matrix.cell import CANCELLED, OK, RETRIED, UNNOTICED, Cell, Gate, Phase, Probe, ok_or_named
from benchmarks.fault_matrix.checks import freed_within, nobody_restarted, refused
from benchmarks.fault_matrix.fences import late_chunk_refused, never_adopted, one_grant_each, read_refused
from benchmarks.fault_matrix.history import History
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, RequestSpec, Verdict, random_specs
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.frame_faults import DropFrame, DuplicateFrame, FlipInFrame, HoldFrame, Kinds
from tandem.chaos.faults.frame_splitter import DATA, FramePart
from tandem.kvtransfer.codec import FrameType

_HELD_S = 10.0
_REFILLED_S = 8.0
_MOST_BATCHES = 8
_FREE_S = 1.5  # as for callers that leave (rows 21 to 26)


class _LateChunk:
    """A chunk is held, its request cancelled, the pool filled by others, and the chunk let go."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._fault = HoldFrame(DATA, nth=1)
        self._proxy = scene.world.kv["decode-0"]
        self._problems = ""
        self._num_released = 0

    async def begin(self) -> None:
        self._proxy.add(self._fault)
        self._working = asyncio.create_task(self._work())

    async def end(self) -> None:
        await asyncio.gather(self._working, return_exceptions=True)
        self._proxy.remove(self._fault)

    def verify(self) -> Evidence:
        """The chunk came late, and the others got right answers."""
        evidence = self._fault.verify()
        took_effect = evidence.took_effect and self._num_released > 0 and not self._problems
        return Evidence(took_effect=took_effect, facts=f"{evidence.facts}{self._problems}")

    async def _work(self) -> None:
        until_s = time.monotonic() + _HELD_S
        while not self._fault.num_held and time.monotonic() < until_s:  # noqa: ASYNC110  # set by the proxy's thread
            await asyncio.sleep(0.01)
        await self._scene.leave()
        records = await self._scene.run(_others(17))
        self._num_released = await asyncio.to_thread(self._fault.release, self._scene.world.thread)
        records += await self._scene.run(_others(18))
        bad = [r for r in records if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL]
        self._problems = "".join(f"; another ended {r.ending.value} {r.reason} {r.problem}" for r in bad)


class _LeaveAndRefill:
    """The caller leaves while the sender is about to read; others get the blocks; then the sender goes on."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._others: asyncio.Task[list[str]] | None = None
        self._bad: list[str] = []
        self._is_refilled = asyncio.Event()

    async def begin(self) -> None:
        await self._scene.leave()
        self._others = asyncio.create_task(self._run_others())
        until_s = time.monotonic() + _REFILLED_S
        while not await asyncio.to_thread(self._are_others):  # they compute their prompts in the blocks that were freed
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(0.1)
        self._is_refilled.set()

    async def end(self) -> None:
        if self._others is not None:
            self._bad, self._others = await self._others, None

    def verify(self) -> Evidence:
        """The caller left at the gate, and the others got right answers."""
        left = any(record.cancelled_s is not None for record in self._scene.probes)
        return Evidence(took_effect=left and not self._bad, facts=f"left: {left}; {self._bad}")

    def _are_others(self) -> bool:
        """Whether every block that the caller's prompt had at P was given to others since."""
        history = History(self._scene)
        mine = {history.request_of(record) for record in self._scene.probes}
        uses = [use for use in history.uses if use.request in mine and use.life.name.startswith("prefill")]
        return bool(uses) and all(history.was_reused(use.life, use.block, by_s=time.monotonic()) for use in uses)

    async def _run_others(self) -> list[str]:
        records = []
        for seed in range(19, 19 + _MOST_BATCHES):
            records += await self._scene.run(_others(seed))
            if self._is_refilled.is_set():
                break
        return [r.reason or r.problem for r in records if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL]


def _others(seed: int) -> list[RequestSpec]:
    return random_specs(6, seed=seed, max_output_tokens=6, max_n=1, max_prompt_blocks=5)


def _flip(kinds: Kinds, name: str, part: FramePart, offset: int) -> Cell:
    nth = 0 if isinstance(kinds, FrameType) else 1
    return Cell(
        row=19,
        phase=Phase.TRANSFER,
        does=f"a bit of a {name}'s {part.value} is flipped",
        fault=on_link(
            "kv", lambda: [FlipInFrame(kinds, part, offset=offset, nth=nth)], everywhere=True, any_is_enough=True
        ),
        expect=OK if kinds is FrameType.COMMIT else RETRIED,  # a D that has committed goes on alone
        when="before",
        after=() if kinds is FrameType.COMMIT else (never_adopted(),),
        quick=name == "chunk" and part is FramePart.PAYLOAD,
    )


def _duplicates(kinds: Kinds) -> list[DuplicateFrame]:
    return [DuplicateFrame(kinds, times=3)]


CELLS = [
    *(
        Cell(
            row=16,
            phase=Phase.TRANSFER,
            does=f"{name} comes twice",
            fault=on_link("kv", partial(_duplicates, kinds), everywhere=True, any_is_enough=True),
            expect=UNNOTICED,
            when="before",
            probe=Probe(count=2),
            after=(refused("duplicate_chunk"),) if kinds is DATA else (),
            quick=name == "a chunk",
        )
        for name, kinds in (
            ("a chunk", DATA),
            ("an Open", FrameType.OPEN),
            ("a Seal", FrameType.SEAL),
            ("a Commit", FrameType.COMMIT),
            ("a CommitAck", FrameType.COMMIT_ACK),
        )
    ),
    *(
        Cell(
            row=16,
            phase=Phase.TRANSFER,
            does=f"{name} comes twice",
            fault=at_point("router", point, action="again", times=None),
            expect=UNNOTICED,
            when="before",
            probe=Probe(count=2),
            after=(nobody_restarted(), one_grant_each()),
        )
        for name, point in (("a grant, at P,", "r.grant"), ("word of a grant, at the router,", "r.granted"))
    ),
    *(
        Cell(
            row=16,
            phase=phase,
            does="the word to let go comes twice, at every worker",
            fault=both(at_point("router", "r.abort", action="again", times=None), leave_in(stage)),
            expect=CANCELLED,
            gate=gate,
            probe=Probe(max_tokens=200),
            checks=(freed_within("prefill", _FREE_S), freed_within("decode", _FREE_S)),
            after=(nobody_restarted(),),
        )
        for phase, stage, gate in (
            (Phase.TRANSFER, Stage.TRANSFER, Gate(point="p.before_chunk_send", after=1)),
            (Phase.DECODE, Stage.DECODE, Gate(tokens=5)),
        )
    ),
    Cell(
        row=17,
        phase=Phase.TRANSFER,
        does="a chunk comes when its blocks are others'",
        fault=_LateChunk,
        expect=CANCELLED,
        when="before",
        after=(late_chunk_refused(),),
        shape="churn",
        quick=True,
    ),
    Cell(
        row=18,
        phase=Phase.TRANSFER,
        does="the sender reads when its blocks are others'",
        fault=_LeaveAndRefill,
        expect=CANCELLED,
        gate=Gate(point="p.before_chunk_send", after=1),
        after=(read_refused(),),
        shape="churn",
    ),
    Cell(
        row=18,
        phase=Phase.TRANSFER,
        does="the sender reads its last blocks when they are others'",
        fault=_LeaveAndRefill,
        expect=CANCELLED,
        gate=Gate(point="p.before_chunk_send", after=5),
        after=(read_refused(),),
        shape="churn",
    ),
    _flip(DATA, "chunk", FramePart.HEADER, 40),
    _flip(DATA, "chunk", FramePart.PAYLOAD, 1234),
    _flip(DATA, "chunk", FramePart.TRAILER, 3),
    _flip(FrameType.SEAL, "seal", FramePart.HEADER, 30),
    _flip(FrameType.SEAL, "seal", FramePart.PAYLOAD, 2),
    _flip(FrameType.SEAL, "seal", FramePart.TRAILER, 7),
    _flip(FrameType.OPEN, "open", FramePart.HEADER, 25),
    _flip(FrameType.COMMIT, "commit", FramePart.HEADER, 50),
    Cell(
        row=19,
        phase=Phase.TRANSFER,
        does="a bit of every chunk's payload is flipped",
        fault=on_link(
            "kv",
            lambda: [FlipInFrame(DATA, FramePart.PAYLOAD, offset=5, times=None)],
            everywhere=True,
            any_is_enough=True,
        ),
        expect=ok_or_named("KV_INTEGRITY"),
        when="before",
        after=(never_adopted(),),
    ),
    Cell(
        row=20,
        phase=Phase.TRANSFER,
        does="the seal overtakes a chunk",
        fault=on_link(
            "kv", lambda: [HoldFrame(DATA, nth=1, overtaken_by=FrameType.SEAL)], everywhere=True, any_is_enough=True
        ),
        expect=UNNOTICED,
        when="before",
    ),
    Cell(
        row=20,
        phase=Phase.TRANSFER,
        does="a chunk overtakes the one before",
        fault=on_link("kv", lambda: [HoldFrame(DATA, nth=0, overtaken_by=DATA)], everywhere=True, any_is_enough=True),
        expect=UNNOTICED,
        when="before",
    ),
    Cell(
        row=20,
        phase=Phase.TRANSFER,
        does="a chunk overtakes the open",
        fault=on_link(
            "kv", lambda: [HoldFrame(FrameType.OPEN, overtaken_by=DATA)], everywhere=True, any_is_enough=True
        ),
        expect=RETRIED,
        when="before",
        after=(never_adopted(),),
    ),
    Cell(
        row=20,
        phase=Phase.TRANSFER,
        does="a chunk is lost, the seal comes",
        fault=on_link("kv", lambda: [DropFrame(DATA, nth=1)], everywhere=True, any_is_enough=True),
        expect=RETRIED,
        when="before",
        after=(never_adopted(),),
    ),
]
