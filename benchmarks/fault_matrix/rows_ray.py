"""Cells with the real model under Ray: killed actors come back with new epochs, and answers stay the same."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.fault_matrix.actions import nothing
from benchmarks.fault_matrix.cell import Cell, CellResult, Expect, Phase
from benchmarks.fault_matrix.lanes import MatrixResult, Say
from benchmarks.fault_matrix.ray_world import RayWorld, is_beginning, tokens_of
from benchmarks.fault_matrix.scene import decode_records
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec
from tandem.chaos.cluster.caller import call
from tandem.chaos.faults.processes import Kill, Stop
from tandem.chaos.trace import check
from tandem.core.event_log.events import ChunkAccepted, Dispatched, GrantEnded, RequestEnded
from tandem.core.types import SamplingParams, StopParams
from tandem.text.tokenizer import Tokenizer

_TEXT: Final = Path(__file__).parents[2] / "LICENSE"
_PHASE_S: Final = 60.0
_DEADLINE_S: Final = 110.0
_SETTLE_S: Final = 30.0
_STOPPED_S: Final = 3.0
_POLL_S: Final = 0.01
_LEFT_S: Final = 5.0
Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCell:
    """One cell: which row, at which moment, what happens to whom."""

    row: int
    phase: Phase
    victim: Role
    what: Literal["kill", "stop", "leave"] = "kill"
    tokens: int = 5  # mid-decode: after so many
    n: int = 1
    sampled: bool = False
    min_attempts: int = 1

    @property
    def does(self) -> str:
        """In words."""
        kind = f"n={self.n} sampled" if self.sampled else "greedy"
        when = f" after {self.tokens} tokens" if self.phase is Phase.DECODE else ""
        return f"Ray, real model: {self.what} {self.victim}{when}, {kind}"


CELLS: Final = (
    RayCell(row=1, phase=Phase.IDLE, victim="prefill"),
    RayCell(row=2, phase=Phase.PREFILL, victim="prefill", min_attempts=2),
    RayCell(row=2, phase=Phase.PREFILL, victim="prefill", n=2, sampled=True, min_attempts=2),
    RayCell(row=4, phase=Phase.TRANSFER, victim="prefill", min_attempts=2),
    RayCell(row=5, phase=Phase.IDLE, victim="decode"),
    RayCell(row=5, phase=Phase.PREFILL, victim="decode", min_attempts=2),
    RayCell(row=5, phase=Phase.TRANSFER, victim="decode", min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=1, min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=12, min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=8, n=2, sampled=True, min_attempts=2),
    RayCell(row=1, phase=Phase.DECODE, victim="prefill"),
    RayCell(row=8, phase=Phase.PREFILL, victim="prefill", what="stop"),
    RayCell(row=8, phase=Phase.DECODE, victim="decode", what="stop"),
    RayCell(row=24, phase=Phase.TRANSFER, victim="decode", what="leave"),
)


class RayRun:
    """Runs the cells one after the other in one cluster."""

    def __init__(self, *, say: Say) -> None:
        self._say = say
        self.result = MatrixResult()

    async def run(self) -> MatrixResult:
        """Run all of them; then judge the event logs."""
        async with RayWorld() as world:
            self.result.num_clusters += 1
            text = _TEXT.read_text(encoding="utf-8")
            prompt = await asyncio.to_thread(_tokens, text)
            for cell in CELLS:
                spec = _spec(cell, prompt)
                answer = await world.undisturbed(spec)
                result = await self._cell(world, cell, spec, answer)
                self.result.cells.append(result)
                self.result.num_requests += 1
                verdict = "ok  " if result.passed else "FAIL"
                self._say(f"{verdict} {result.seconds:5.1f} s  {result.cell.name} {result.problems} {result.leaks}")
            await world.settled()
            logs = world.event_logs()
            report = await asyncio.to_thread(check, logs)  # two of each role, one of them taken at a time: I7 holds
            self.result.num_events += report.num_events
            self.result.problems += [f"ray: {violation}" for violation in report.violations]
            self.result.problems += [f"ray: an event log lost something: {line}" for line in report.incomplete]
        return self.result

    async def _cell(
        self, world: RayWorld, cell: RayCell, spec: RequestSpec, answer: dict[int, list[int]]
    ) -> CellResult:
        shown = Cell(row=cell.row, phase=cell.phase, does=cell.does, fault=nothing(), expect=Expect(), shape="ray")
        result = CellResult(cell=shown)
        began_s = time.monotonic()
        records: list[RequestRecord] = []
        task: asyncio.Task[RequestRecord] | None = None
        try:
            watch = _Watch(world)
            if cell.phase is not Phase.IDLE:
                task = asyncio.create_task(call(world.client, spec, begun=records.append))
                await watch.reach(cell, records)
            if cell.what == "leave" and task is not None:
                await _leave(task)
                result.fault_verified, result.evidence = await watch.left(records[0])
            else:
                await self._hit(world, cell, watch.victim(cell.victim), result)
            if task is None:
                task = asyncio.create_task(call(world.client, spec, begun=records.append))
            await asyncio.gather(task, return_exceptions=True)
            _judge(cell, records[0], answer, result)
            await world.settled()
            result.leaks = await world.leaks(settle_s=_SETTLE_S)
        except Exception as error:  # noqa: BLE001  # a cell must not take the others with it
            result.problems.append(f"{type(error).__name__}: {error}")
        finally:
            if task is not None:
                task.cancel()
        result.seconds = time.monotonic() - began_s
        return result

    async def _hit(self, world: RayWorld, cell: RayCell, name: str, result: CellResult) -> None:
        before = (await world.worker(name)).info
        if cell.what == "stop":
            stop = await asyncio.to_thread(Stop, before.pid)
            await asyncio.sleep(_STOPPED_S)
            await asyncio.to_thread(stop.resume)
            found = stop.verify()
            result.fault_verified, result.evidence = found.took_effect, f"{name}: {found.facts}"
        else:
            kill = await asyncio.to_thread(Kill, before.pid)
            now = await _come_back(world, name, before.epoch)
            found = kill.verify()
            result.fault_verified = found.took_effect and now != before.pid
            result.evidence = f"{name}: {found.facts}; Ray started pid {now} with a new epoch"


class _Watch:
    """Follows the event logs from now on."""

    def __init__(self, world: RayWorld) -> None:
        self._world = world
        self._sizes = {path: path.stat().st_size for path in world.event_logs()}
        self._pair: Dispatched | None = None

    def victim(self, role: Role) -> str:
        """Who serves the request in ``role``; the first of them when there is none."""
        if self._pair is None:
            return f"{role}-0"
        return self._pair.prefill if role == "prefill" else self._pair.decode

    async def reach(self, cell: RayCell, records: list[RequestRecord]) -> None:
        """Wait until the request is in the cell's phase. Raises TimeoutError."""
        async with asyncio.timeout(_PHASE_S):
            while not self._is_there(cell, records):  # noqa: ASYNC110  # files have no event
                await asyncio.sleep(_POLL_S)

    def _is_there(self, cell: RayCell, records: list[RequestRecord]) -> bool:
        if self._pair is None:
            self._pair = next((e for e in self._events("router") if isinstance(e, Dispatched)), None)
            return False
        if cell.phase is Phase.DECODE:
            return bool(records) and records[0].num_tokens >= cell.tokens
        if cell.phase is Phase.TRANSFER:
            return any(isinstance(event, ChunkAccepted) for event in self._events(self._pair.decode))
        return True  # dispatched: a prompt of this length takes a second and more

    async def left(self, record: RequestRecord) -> tuple[bool, str]:
        """Whether the caller left, and the router and the decode worker ended its request for that, uncommitted."""
        async with asyncio.timeout(_LEFT_S):
            while not (ends := [e for e in self._events("router") if isinstance(e, RequestEnded)]):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
            while not (grants := [e for e in self._events("decode") if isinstance(e, GrantEnded)]):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
        outcome, grant = ends[-1].outcome, grants[-1].how
        is_shown = record.ending is Ending.CANCELLED and outcome == "cancelled" and grant != "committed"
        return is_shown, f"the caller saw {record.ending.value}, the router {outcome}, the decode worker {grant}"

    def _events(self, process: str) -> list[object]:
        found: list[object] = []
        for path in self._world.event_logs():
            if path.name.startswith(process):
                with path.open("rb") as file:
                    file.seek(self._sizes.get(path, 0))
                    found += [record.event for record in decode_records(file.read())]
        return found


def _judge(cell: RayCell, record: RequestRecord, answer: dict[int, list[int]], result: CellResult) -> None:
    said = tokens_of(record)
    result.endings.append(
        f"{record.ending.value} {record.reason} attempts={record.attempts} tokens={record.num_tokens}"
    )
    expected = Ending.CANCELLED if cell.what == "leave" else Ending.OK
    if record.ending is not expected:
        result.problems.append(f"ended {record.ending.value} {record.reason}: {record.message}")
    if said != answer if record.ending is Ending.OK else not is_beginning(said, answer):
        result.num_wrong += 1
        result.problems.append("the tokens are not those of the undisturbed run")
    if record.ending is Ending.OK and record.attempts < cell.min_attempts:
        result.problems.append(f"took {record.attempts} attempts: the fault came too late")
    result.num_hangs += record.ending is Ending.HANG or not record.was_in_time


async def _leave(task: asyncio.Task[RequestRecord]) -> None:
    """The caller goes away; its record says what it saw."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _come_back(world: RayWorld, name: str, epoch: int) -> int:
    async with asyncio.timeout(120.0):
        while True:
            for worker in (await world.status()).workers:
                if worker.info.worker_id == name and worker.info.epoch != epoch:
                    return worker.info.pid
            await asyncio.sleep(0.1)


def _tokens(text: str) -> list[int]:
    from benchmarks.cluster import prepare_builtin  # noqa: PLC0415  # loads the model's tokenizer only when Ray runs

    return list(Tokenizer.load(prepare_builtin().folder).encode(text))


def _spec(cell: RayCell, prompt: list[int]) -> RequestSpec:
    is_long = cell.phase in (Phase.PREFILL, Phase.TRANSFER)
    sampling = SamplingParams(temperature=0.8, top_k=40, seed=7) if cell.sampled else SamplingParams()
    length, num_tokens = (512, 8) if is_long else (64, 32)
    return RequestSpec(
        prompt=tuple(prompt[:length]),
        n=cell.n,
        sampling=sampling,
        stop=StopParams(max_tokens=num_tokens, ignore_eos=True),
        deadline_s=_DEADLINE_S,
        label=f"{length} tokens, n={cell.n}, {'sampled' if cell.sampled else 'greedy'}",
    )
