"""Cells with the real model under Ray: killed actors come back with new epochs, and answers stay the same."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.cluster import prepare_builtin
from benchmarks.fault_matrix.actions import nothing
from benchmarks.fault_matrix.cell import Cell, CellResult, Expect, Phase
from benchmarks.fault_matrix.lanes import MatrixResult, Say
from benchmarks.fault_matrix.ray_cells import CELLS, CONTROLS, RayCell, requests_of
from benchmarks.fault_matrix.ray_reference import Answer, reference_answers
from benchmarks.fault_matrix.ray_watch import RayWatch
from benchmarks.fault_matrix.ray_world import RayWorld, is_beginning, tokens_of
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec
from tandem.chaos.cluster.caller import call
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.processes import Kill, Stop
from tandem.chaos.trace import check
from tandem.text.tokenizer import Tokenizer

_TEXT: Final = Path(__file__).parents[2] / "LICENSE"  # long English text that every clone has
_SETTLE_S: Final = 30.0
_STOPPED_S: Final = 3.0
_BACK_S: Final = 120.0
_POLL_S: Final = 0.1


class RayRun:
    """Runs controls and cells one after the other in one cluster."""

    def __init__(self, *, say: Say) -> None:
        self._say = say
        self._answers: dict[str, Answer] = {}
        self.result = MatrixResult()

    async def run(self) -> MatrixResult:
        """Run all of them; then judge the event logs and the books."""
        cells = (*CONTROLS, *CELLS)
        requests = requests_of(cells, await asyncio.to_thread(_tokens))
        self._answers = await reference_answers([spec for specs in requests for spec in specs])
        async with RayWorld() as world:
            self.result.num_clusters += 1
            for cell, specs in zip(cells, requests, strict=True):
                one = _Attack(world, cell, specs)
                await one.run()
                self._judge(cell, one)
                (self.result.controls if cell in CONTROLS else self.result.cells).append(one.result)
                verdict = "ok  " if one.result.passed else "FAIL"
                self._say(f"{verdict} {one.result.seconds:5.1f} s  {one.result.cell.name}{_said(one.result)}")
            await world.settled()
            await world.end()
            await self._audit(world)
        return self.result

    def _judge(self, cell: RayCell, one: "_Attack") -> None:
        expected = Ending.CANCELLED if cell.what == "leave" else Ending.OK
        result = one.result
        if len(one.records) < cell.num_requests:
            result.problems.append(f"only {len(one.records)} of {cell.num_requests} requests were sent")
        for record in one.records:
            said, answer = tokens_of(record), self._answers[record.spec.label]
            result.endings.append(
                f"{record.ending.value} {record.reason} attempts={record.attempts} tokens={record.num_tokens}"
            )
            if record.ending is not expected:
                result.problems.append(f"ended {record.ending.value} {record.reason}: {record.message}")
            if said != answer if record.ending is Ending.OK else not is_beginning(said, answer):
                result.num_wrong += 1
                result.problems.append(f"{said} is not what one process alone answers: {answer}")
            if record.ending is Ending.OK and not cell.min_attempts <= record.attempts <= cell.max_attempts:
                result.problems.append(
                    f"took {record.attempts} attempts, not {cell.min_attempts} to {cell.max_attempts}"
                )
            result.num_hangs += record.ending is Ending.HANG or not record.was_in_time

    async def _audit(self, world: RayWorld) -> None:
        """The cluster's whole life, by the logs of its processes."""
        report = await asyncio.to_thread(check, world.event_logs())  # two of each role, one at a time taken: I7 holds
        self.result.num_events += report.num_events
        self.result.num_requests += len(world.records)
        problems = [str(violation) for violation in report.violations]
        problems += [f"an event log lost something: {line}" for line in report.incomplete]
        problems += [
            f"{log.process}-{log.epoch} (pid {log.pid}) ended without closing its log, and nobody had killed it"
            for log in report.unfinished
            if log.pid not in world.killed_pids
        ]
        problems += await asyncio.to_thread(world.books)
        self.result.problems += [f"ray: {problem}" for problem in problems]
        self._say(f"     ray: {report.num_events} events, {len(problems)} wrong {problems[:3]}")


class _Attack:
    """One cell while it runs."""

    def __init__(self, world: RayWorld, cell: RayCell, specs: Sequence[RequestSpec]) -> None:
        shown = Cell(row=cell.row, phase=cell.phase, does=cell.does, fault=nothing(), expect=Expect(), shape="ray")
        self.result = CellResult(cell=shown)
        self.records: list[RequestRecord] = []
        self._world, self._cell = world, cell
        self._specs = list(specs)
        self._watch = RayWatch(world.event_logs)
        self._tasks: list[asyncio.Task[RequestRecord]] = []

    async def run(self) -> None:
        """Run it to its end; whatever goes wrong becomes a problem of the result."""
        began_s = time.monotonic()
        try:
            await self._strike()
            await self._answered()
            await self._world.settled()
            self.result.leaks = await self._world.leaks(settle_s=_SETTLE_S)
            if self._world.last_to_settle:
                self.result.evidence += f"; {self._world.last_to_settle}"
        except Exception as error:  # noqa: BLE001  # a cell must not take the others with it
            self.result.problems.append(f"{type(error).__name__}: {error}")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._world.records += self.records
        self.result.seconds = time.monotonic() - began_s

    async def _strike(self) -> None:
        if self._cell.phase is not Phase.IDLE:
            self._ask(1)
            await self._watch.reach(self._cell, self.records)
        victim = self._watch.victim(self._cell.victim)
        match self._cell.what:
            case "nothing":
                self._ask(self._cell.num_requests - len(self._tasks))
                await self._answered()
                self._found(f"control, {len(self.records)} requests", took_effect=True)
            case "leave":
                for task in self._tasks:
                    task.cancel()
                await self._answered()
                left = await self._watch.left(self.records[0])
                self._found(left.facts, took_effect=left.took_effect)
            case "stop":
                await self._stop(victim)
            case "kill":
                await self._kill(victim)

    async def _stop(self, name: str) -> None:
        stop = await asyncio.to_thread(Stop, (await self._world.worker(name)).info.pid)
        began_s = time.monotonic()
        self._ask_meanwhile()
        await asyncio.sleep(_STOPPED_S)
        await asyncio.to_thread(stop.resume)
        evidence = stop.verify()
        asked = self._asked_between(began_s, time.monotonic())
        self._found(f"{name}: {evidence.facts}{asked.facts}", took_effect=evidence.took_effect and asked.took_effect)
        self._ask_the_rest()

    async def _kill(self, name: str) -> None:
        before = (await self._world.worker(name)).info
        self._world.killed_pids.add(before.pid)
        kill = await asyncio.to_thread(Kill, before.pid)
        killed_s = time.monotonic()
        self._ask_meanwhile()
        pid = await _come_back(self._world, name, before.epoch)
        evidence = kill.verify()
        asked = self._asked_between(killed_s, self._watch.opened_s(pid))
        self._found(
            f"{name}: {evidence.facts}; Ray started pid {pid} with a new epoch{asked.facts}",
            took_effect=evidence.took_effect and pid != before.pid and asked.took_effect,
        )
        self._ask_the_rest()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _ask(self, count: int) -> None:
        for _ in range(count):
            calling = call(self._world.client, self._specs.pop(0), begun=self.records.append)
            self._tasks.append(asyncio.create_task(calling))

    def _ask_meanwhile(self) -> None:
        """In an idle cell: all but one ask while the fault lasts."""
        if self._cell.phase is Phase.IDLE:
            self._ask(len(self._specs) - 1)

    def _ask_the_rest(self) -> None:
        self._ask(len(self._specs))

    async def _answered(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _asked_between(self, began_s: float, ended_s: float) -> Evidence:
        """Whether the requests of an idle cell were sent while the fault lasted; elsewhere there are none."""
        if self._cell.phase is not Phase.IDLE:
            return Evidence(took_effect=True, facts="")
        meanwhile = [record for record in self.records if began_s <= record.began_s < ended_s]
        facts = f"; {len(meanwhile)} asked while it lasted, {ended_s - began_s:.1f} s"
        return Evidence(took_effect=len(meanwhile) == self._cell.num_requests - 1, facts=facts)

    def _found(self, facts: str, *, took_effect: bool) -> None:
        self.result.evidence, self.result.fault_verified = facts, took_effect


def _said(result: CellResult) -> str:
    unverified = [] if result.fault_verified else [f"the fault did not take effect: {result.evidence}"]
    return "".join(f"\n       {problem}" for problem in [*result.problems, *result.leaks, *unverified])


async def _come_back(world: RayWorld, name: str, epoch: int) -> int:
    """Wait for the next life of a worker; return its pid. Raises TimeoutError."""
    async with asyncio.timeout(_BACK_S):
        while True:
            for worker in (await world.status()).workers:
                if worker.info.worker_id == name and worker.info.epoch != epoch:
                    return worker.info.pid
            await asyncio.sleep(_POLL_S)


def _tokens() -> list[int]:
    return list(Tokenizer.load(prepare_builtin().folder).encode(_TEXT.read_text(encoding="utf-8")))
