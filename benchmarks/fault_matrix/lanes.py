"""Runs cells in clusters, several at once, one cell at a time in each; checks every cluster's event log at its end."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.fault_matrix.audit import audit
from benchmarks.fault_matrix.cell import Cell, CellResult
from benchmarks.fault_matrix.run import run_cell
from benchmarks.fault_matrix.world import SHAPES, World
from tandem.chaos.trace.report import INVARIANTS
from tandem.core.errors import TandemError

Say = Callable[[str], None]
OpenWorld = Callable[[str, Path], World]
_MOST_PROBLEMS: Final = 20
_MOST_SHOWN: Final = 3
_MOST_FAILED_STARTS: Final = 3


@dataclass(slots=True)
class MatrixResult:
    """What all lanes found."""

    cells: list[CellResult] = field(default_factory=list)
    controls: list[CellResult] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of whole clusters: event logs, books
    num_checks: Counter[str] = field(default_factory=Counter)  # of event logs, by invariant
    num_events: int = 0
    num_requests: int = 0
    num_clusters: int = 0

    @property
    def unjudged(self) -> list[str]:
        """Invariants that no cluster's event log gave anything to judge by."""
        return [invariant for invariant in INVARIANTS if not self.num_checks[invariant]]

    def add(self, other: "MatrixResult") -> None:
        """Take in what another run found."""
        self.cells += other.cells
        self.controls += other.controls
        self.problems += other.problems
        self.num_checks += other.num_checks
        self.num_events += other.num_events
        self.num_requests += other.num_requests
        self.num_clusters += other.num_clusters


class _NotStarted(Exception):
    """A cluster did not come up, on a busy machine; nothing was tried in it."""


class Lanes:
    """Hands cells to clusters of their shape."""

    def __init__(self, cells: Sequence[Cell], controls: Sequence[Cell], *, say: Say, open_world: OpenWorld) -> None:
        self._waiting: dict[str, deque[Cell]] = {}
        for cell in cells:
            self._waiting.setdefault(cell.shape, deque()).append(cell)
        self._controls = {shape: [c for c in controls if c.shape == shape] for shape in self._waiting}
        self._say = say
        self._open = open_world
        self.result = MatrixResult()

    async def run(self, plan: Sequence[Sequence[str]]) -> MatrixResult:
        """Run everything; ``plan`` names, per lane, the shapes it goes through in order."""
        async with asyncio.TaskGroup() as group:
            for shapes in plan:
                group.create_task(self._lane(shapes))
        for shape, cells in self._waiting.items():  # what never ran failed
            self.result.cells += [CellResult(cell=c, problems=[f"the cluster {shape} never started"]) for c in cells]
        return self.result

    async def _lane(self, shapes: Sequence[str]) -> None:
        for shape in shapes:
            num_failed_starts = 0
            while self._waiting.get(shape) and num_failed_starts < _MOST_FAILED_STARTS:
                try:
                    await self._cluster(shape)
                except _NotStarted as error:  # the other lanes go on, and this one tries again
                    num_failed_starts += 1
                    self._say(f"      {error}")

    async def _cluster(self, shape: str) -> None:
        """One life of one cluster: until no cell is left, or one went wrong and may have left something."""
        folder = Path(tempfile.mkdtemp(prefix="tandem-faults-"))
        went_well = False
        try:
            world = self._open(shape, folder)
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(world)
                except (TandemError, TimeoutError, OSError) as error:
                    raise _NotStarted(f"the cluster {shape} did not start: {error}") from error
                self.result.num_clusters += 1
                all_passed = await self._run_all(world, shape)
            went_well = await asyncio.to_thread(self._audit, world, shape) and all_passed
        finally:
            if went_well:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            else:
                self._say(f"      the logs of this {shape} cluster are kept in {folder}")

    async def _run_all(self, world: World, shape: str) -> bool:
        """Run what waits; tells whether all of it passed."""
        controls, self._controls[shape] = self._controls.get(shape, []), []
        for cell in controls:
            self.result.controls.append(await self._run(world, cell))
        while self._waiting[shape]:
            result = await self._run(world, self._waiting[shape].popleft())
            self.result.cells.append(result)
            if not result.passed:
                return False
        return True

    async def _run(self, world: World, cell: Cell) -> CellResult:
        result = await run_cell(world, cell)
        verdict = "ok  " if result.passed else "FAIL"
        self._say(f"{verdict} {result.seconds:5.1f} s  {cell.name}" + "".join(f"\n       {p}" for p in _all(result)))
        return result

    def _audit(self, world: World, shape: str) -> bool:
        """The whole life of the cluster, by its event logs; tells whether nothing is wrong with it."""
        began_s = time.monotonic()
        found = audit(world)
        self.result.num_checks.update(found.num_checks)
        self.result.num_events += found.num_events
        self.result.num_requests += len(world.records)
        self.result.problems += [f"{shape}: {problem}" for problem in found.problems[:_MOST_PROBLEMS]]
        seconds = time.monotonic() - began_s
        self._say(f"     {shape}: {found.num_events} events in {seconds:.1f} s, {len(found.problems)} wrong")
        for problem in found.problems[:_MOST_SHOWN]:
            self._say(f"       {problem}")
        return not found.problems


def open_local(shape: str, folder: Path) -> World:
    """A world on loopback."""
    return World(SHAPES[shape], folder)


def _all(result: CellResult) -> list[str]:
    unverified = [] if result.fault_verified else [f"the fault did not take effect: {result.evidence}"]
    return [*result.problems, *result.leaks, *unverified]
