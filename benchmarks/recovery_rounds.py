"""One fault under many streams: what the fault is, when it comes, and what came of the streams."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.recovery_load import streams
from tandem.chaos.cluster import ChaosCluster, Ending, RequestRecord, RequestSpec, Verdict
from tandem.chaos.faults.processes import Kill, Stop
from tandem.core.cluster import WorkerState
from tandem.core.errors import TandemError
from tandem.core.inference import OutputDelta
from tandem.core.types import StopParams

_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One fault. ``after_tokens``: it comes when a stream that began with the others has so many."""

    name: str
    after_tokens: int
    victim: str = "decode-0"
    stop_s: float | None = None  # stopped and continued instead of killed
    second_victim: str | None = None  # killed ``second_after_s`` after the first
    second_after_s: float = 1.0

    @property
    def is_stall(self) -> bool:
        """Too short to be noticed: nothing may be aborted."""
        return self.stop_s is not None and self.stop_s < 5.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of one round."""

    round: Round
    records: list[RequestRecord] = field(default_factory=list)
    detected_s: list[float] = field(default_factory=list)
    verified: bool = True  # every fault took effect

    @property
    def completed(self) -> int:
        """Streams that ended well, in full."""
        return sum(record.ending is Ending.OK and record.verdict is Verdict.EQUAL for record in self.records)

    @property
    def mismatches(self) -> int:
        """Streams with a wrong token, text or end."""
        return sum(record.verdict is Verdict.WRONG for record in self.records)

    @property
    def moved(self) -> list[RequestRecord]:
        """Streams that took more than one attempt."""
        return [record for record in self.records if record.attempts > 1]

    @property
    def aborts(self) -> int:
        """Streams that were disturbed: ended by an error, or begun again."""
        return sum(record.ending is not Ending.OK or record.attempts > 1 for record in self.records)

    @property
    def reasons(self) -> dict[str, int]:
        """Errors by reason."""
        found: dict[str, int] = {}
        for record in self.records:
            if record.ending is not Ending.OK:
                name = record.reason or record.ending.value
                found[name] = found.get(name, 0) + 1
        return found


async def play(cluster: ChaosCluster, one: Round, *, num_streams: int, seed: int, max_tokens: int) -> Outcome:
    """Run ``num_streams`` streams, let the fault happen, wait for every stream's end and for the cluster's health."""
    outcome = Outcome(round=one)
    specs = streams(cluster.oracle, num_streams, seed=seed, max_tokens=max_tokens)
    await cluster.settled(timeout_s=60.0)
    reached = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(cluster.run_requests(specs))
        sentinel = group.create_task(_count_tokens(cluster, one.after_tokens, max_tokens, reached))
        await reached.wait()
        await _strike(cluster, one, outcome)
        outcome.records = await running
        sentinel.cancel()
    await cluster.settled(timeout_s=60.0)
    return outcome


async def _count_tokens(cluster: ChaosCluster, num_tokens: int, max_tokens: int, reached: asyncio.Event) -> None:
    """A stream beside the measured ones, by which the moment of the fault is known."""
    spec = RequestSpec(prompt=tuple(range(20, 60)), stop=StopParams(max_tokens=max_tokens, ignore_eos=True))
    with contextlib.suppress(TandemError):
        async with cluster.client().stream(token_ids=spec.prompt, **spec.options()) as stream:
            async for event in stream:
                if isinstance(event, OutputDelta) and event.position + 1 >= num_tokens:
                    reached.set()
    reached.set()


async def _strike(cluster: ChaosCluster, one: Round, outcome: Outcome) -> None:
    if not one.victim:
        return
    if one.stop_s is None:
        await _kill(cluster, one.victim, outcome)
    else:
        await _stop(cluster, one, one.stop_s, outcome)
    if one.second_victim is not None:
        await asyncio.sleep(one.second_after_s)
        await _kill(cluster, one.second_victim, outcome)


async def _kill(cluster: ChaosCluster, worker_id: str, outcome: Outcome) -> None:
    pid = cluster.pid(worker_id)
    async with _watched(cluster, worker_id, outcome):
        killed = await asyncio.to_thread(Kill, pid)
    outcome.verified &= killed.verify().took_effect


async def _stop(cluster: ChaosCluster, one: Round, stop_s: float, outcome: Outcome) -> None:
    stopped = Stop(cluster.pids()[one.victim])
    try:
        if one.is_stall:
            await asyncio.sleep(stop_s)
        else:
            began_s = time.monotonic()
            async with _watched(cluster, one.victim, outcome):
                pass
            await asyncio.sleep(max(stop_s - (time.monotonic() - began_s), 0.0))
        outcome.verified &= stopped.verify().took_effect
    finally:
        stopped.resume()


@asynccontextmanager
async def _watched(cluster: ChaosCluster, worker_id: str, outcome: Outcome) -> AsyncIterator[None]:
    """Measure from the fault, made inside the block, to the moment from which the worker gets no new work."""
    epoch = (await cluster.worker(worker_id)).info.epoch
    began_s = time.monotonic()
    yield
    while True:
        status = await cluster.status()
        states = {str(w.info.worker_id): (w.info.epoch, w.state) for w in status.workers}
        if states.get(worker_id) != (epoch, WorkerState.READY):
            break
        if time.monotonic() - began_s > 30.0:
            break
        await asyncio.sleep(_POLL_S)
    outcome.detected_s.append(time.monotonic() - began_s)
