"""Runs one cell in a world: phase, fault, outcome, evidence, leaks, and whether the cluster is well again."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.fault_matrix.cell import Cell, CellResult, Expect, LiveFault
from benchmarks.fault_matrix.scene import Scene
from benchmarks.fault_matrix.world import Span, World
from tandem.chaos.cluster import Ending, RequestRecord, Verdict, random_specs
from tandem.chaos.leaks import check_leaks
from tandem.core.cluster import PairState, PairStatus

_CELL_S: Final = 150.0
_SETTLED_S: Final = 45.0
_WRITTEN_S: Final = 0.1  # event logs are written each 20 ms
_FOLLOWERS: Final = 3
_PROBED_S: Final = 30.0
_PROBE_PAUSE_S: Final = 0.3


async def run_cell(world: World, cell: Cell) -> CellResult:
    """Run it to its end; whatever goes wrong becomes a problem of the result."""
    result = CellResult(cell=cell)
    began_s = time.monotonic()
    scene = Scene(world, cell)
    fault = cell.fault(scene)
    num_mismatches = len(world.cluster.mismatches())
    try:
        async with asyncio.timeout(_CELL_S):
            await _attack(scene, fault, result)
            await _recover(scene, fault, result)
    except Exception as error:  # noqa: BLE001  # a cell must not take the others with it
        causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        result.problems += [f"{type(cause).__name__}: {cause}" for cause in causes]
    finally:
        await _clean_up(scene, fault)
    await _account(scene, result)
    new_mismatches = world.cluster.mismatches()[num_mismatches:]
    result.num_wrong += len(new_mismatches)
    result.problems += [f"an engine found wrong KV: {found}" for found in new_mismatches[:2]]
    ended_s = time.monotonic()
    world.spans.append(Span(cell=cell, began_s=began_s, ended_s=ended_s))
    result.seconds = ended_s - began_s
    return result


async def _attack(scene: Scene, fault: LiveFault, result: CellResult) -> None:
    cell = scene.cell
    if cell.when == "before" or cell.used_gate.is_open:
        scene.hit_at_s = time.monotonic()
        await fault.begin()
        scene.arm_gate()
        await scene.start_requests()
        await scene.at_gate()
    else:
        scene.arm_gate()
        await scene.start_requests()
        await scene.at_gate()
        scene.hit_at_s = time.monotonic()
        await fault.begin()
    scene.open_gate()
    checking = asyncio.gather(*(check(scene) for check in cell.checks))
    if cell.lasts_s is not None:
        await asyncio.sleep(cell.lasts_s)
        await fault.end()
    for problems in await checking:
        result.problems += problems
    await scene.finish_requests()
    await fault.end()


async def _recover(scene: Scene, fault: LiveFault, result: CellResult) -> None:
    """Judge the answers; then the cluster must be whole, empty, and serve."""
    world, cell = scene.world, scene.cell
    await scene.judge()
    _judge_probes(scene.probes, cell.expect, result)
    await world.cluster.settled(timeout_s=_SETTLED_S)
    await asyncio.sleep(_WRITTEN_S)
    evidence = fault.verify()
    result.fault_verified, result.evidence = evidence.took_effect, evidence.facts
    for check in cell.after:
        result.problems += await check(scene)
    result.evidence = "; ".join([result.evidence, *scene.facts])
    if cell.serves_afterwards:
        result.problems += await _pairs_closed(scene)
    num_followers = _FOLLOWERS if cell.serves_afterwards else 0
    followers = await scene.run(random_specs(num_followers, seed=cell.row, max_output_tokens=8, max_n=1))
    result.problems += _not_served(followers)
    result.leaks = await check_leaks(world.cluster, settle_s=cell.settle_s)
    result.leaks += [f"{leak}: {_descriptors(world, leak)}" for leak in result.leaks if "descriptors" in leak]


async def _account(scene: Scene, result: CellResult) -> None:
    """Every request that was sent in the cell, whoever sent it: right tokens, an end in time, and one with a name."""
    await scene.judge()
    scene.world.records += scene.records
    for record in scene.records:
        who = record.spec.label or "another request"
        if record.verdict is Verdict.WRONG:
            result.num_wrong += 1
            result.problems.append(f"wrong tokens: {who}: {record.problem}")
        if record.ending is Ending.HANG or not record.was_in_time:
            result.num_hangs += 1
            result.problems.append(f"a hang: {who} had {record.spec.deadline_s} s")
        if record.ending is Ending.BROKEN or (record.ending is Ending.ERROR and not record.reason):
            result.problems.append(f"an end without a name: {who}: {record.error} {record.message}")


def _not_served(records: Sequence[RequestRecord]) -> list[str]:
    return [
        f"afterwards a request ended {r.ending.value} {r.reason} {r.problem}"
        for r in records
        if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL
    ]


async def _pairs_closed(scene: Scene) -> list[str]:
    """Ask until every pair of workers that was taken out of use may be used again, or is (row 11)."""
    until_s = time.monotonic() + _PROBED_S
    number = 0
    problems: list[str] = []
    while True:
        pairs = [p for p in (await scene.world.cluster.status()).pairs if _is_out_of_use(p)]
        if not pairs or problems:
            return problems
        if time.monotonic() > until_s:
            return [f"{p.prefill_worker} to {p.decode_worker} is {p.state.value} ({p.last_reason})" for p in pairs]
        number += 1
        asked = await scene.run(random_specs(4, seed=number, max_output_tokens=2, max_n=1, max_prompt_blocks=2))
        problems += _not_served(asked)
        await asyncio.sleep(_PROBE_PAUSE_S)


def _is_out_of_use(pair: PairStatus) -> bool:
    """Whether no request may be given to it: not yet probed again, or just being probed."""
    is_open = pair.state is PairState.OPEN and (pair.probe_in_ms is None or pair.probe_in_ms > 0.0)
    return is_open or pair.state is PairState.PROBING


def _descriptors(world: World, leak: str) -> list[str]:
    """What the process that a finding is about has open."""
    pid = world.cluster.pids().get(leak.split()[1])
    folder = Path(f"/proc/{pid}/fd")
    try:
        return sorted(str(entry.readlink()) for entry in folder.iterdir())
    except OSError as error:
        return [str(error)]


def _judge_probes(probes: list[RequestRecord], expect: Expect, result: CellResult) -> None:
    for record in probes:
        said = f"{record.ending.value} {record.reason}".strip()
        result.endings.append(f"{said} attempts={record.attempts} tokens={record.num_tokens}")
        if record.ending not in expect.endings:
            result.problems.append(f"a probe ended {said}: {record.message}")
        elif record.ending is Ending.ERROR and expect.reasons and record.reason not in expect.reasons:
            result.problems.append(f"a probe ended with {record.reason}, not {sorted(expect.reasons)}")
        elif record.ending is Ending.OK and not expect.min_attempts <= record.attempts <= expect.max_attempts:
            result.problems.append(f"a probe took {record.attempts} attempts")


async def _clean_up(scene: Scene, fault: LiveFault) -> None:
    """Leave nothing of this cell for the next one, also when it went wrong."""
    scene.open_gate()
    scene.world.disarm_all()
    with contextlib.suppress(Exception):
        await fault.end()
    with contextlib.suppress(Exception):
        await scene.end_all()
