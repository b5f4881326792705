"""A cluster of Ray actors with the real model, and what its requests answer when nobody disturbs them."""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.cluster import cluster_config, prepare_builtin
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec
from tandem.chaos.cluster.caller import call
from tandem.chaos.leaks import Observation
from tandem.chaos.leaks.rules import check_blocks, check_counters, check_ledgers
from tandem.client import AsyncClient, ClusterStatus, WorkerState, WorkerStatus
from tandem.cluster.progress import SilentProgress
from tandem.cluster.runtime.ray_runtime import RayRuntime
from tandem.cluster.supervisor import Supervisor
from tandem.core.description import WorkerDescription
from tandem.core.errors import EnvironmentProblem, TandemError
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.worker import WorkerStub

_WORKERS: Final = 4
_POLL_S: Final = 0.05
_CALL_S: Final = 10.0


class RayWorld:
    """Two prefill and two decode actors. Use as an async context manager; nothing of Ray is left afterwards."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._answers: dict[str, dict[int, list[int]]] = {}
        self.folder = Path()

    async def __aenter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-ray-faults-")))
        config = cluster_config(
            runtime={"kind": "ray"},
            pools={"prefill": {"replicas": 2, "cpus": 0.1}, "decode": {"replicas": 2, "cpus": 0.1}},
            engine={"kv_memory_bytes": "256MiB", "max_batched_tokens": 128, "profile_budget_s": 0.5},
            router={"port": 0, "placement": {"mode": "split"}},
            observability={"log_level": "warning", "event_log": self.folder / "events"},
        )
        model = await asyncio.to_thread(prepare_builtin)
        supervisor = Supervisor(
            config,
            model=model,
            runtime=RayRuntime(config, log_folder=self.folder),
            log_folder=self.folder,
            progress=SilentProgress(),
        )
        running = await supervisor.start()
        self._stack.push_async_callback(supervisor.stop, grace_s=10.0)
        self.client = await self._stack.enter_async_context(AsyncClient(running.public_address, retries=0))
        self._operator = await self._stack.enter_async_context(AsyncClient(running.internal_address, retries=0))
        await self.settled()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def status(self) -> ClusterStatus:
        """The cluster as its router sees it."""
        return await self._operator.status()

    async def worker(self, name: str) -> WorkerStatus:
        """One worker as the router sees it."""
        return next(w for w in (await self.status()).workers if w.info.worker_id == name)

    async def settled(self, *, timeout_s: float = 120.0) -> None:
        """Wait until all actors are ready and no request is left. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                status = await self.status()
                num_ready = sum(worker.state is WorkerState.READY for worker in status.workers)
                if num_ready == _WORKERS and not status.num_running and not status.num_queued:
                    return
                await asyncio.sleep(_POLL_S)

    async def undisturbed(self, spec: RequestSpec) -> dict[int, list[int]]:
        """What ``spec`` answers without any fault; asked once. Raises EnvironmentProblem when it is not served."""
        known = self._answers.get(spec.label)
        if known is None:
            record = await call(self.client, spec)
            if record.ending is not Ending.OK:
                raise EnvironmentProblem(f"{spec.label} ended {record.ending.value} {record.reason} without any fault")
            known = self._answers[spec.label] = tokens_of(record)
        return known

    async def leaks(self, *, settle_s: float) -> list[str]:
        """L1 to L3, waited for."""
        until_s = time.monotonic() + settle_s
        while True:
            status = await self.status()
            workers = {str(w.info.worker_id): await _describe(w.info.address) for w in status.workers}
            seen = Observation(status=status, workers=workers)
            problems = [*check_blocks(seen), *check_ledgers(seen), *check_counters(seen)]
            if not problems or time.monotonic() > until_s:
                return problems
            await asyncio.sleep(_POLL_S)

    def event_logs(self) -> list[Path]:
        """Event logs of every process life."""
        return sorted((self.folder / "events").glob("*.jsonl"))


async def _describe(address: str) -> WorkerDescription | None:
    try:
        async with open_channel(address) as channel:
            return await WorkerStub(channel).get_info(timeout_s=_CALL_S)
    except TandemError:
        return None


def tokens_of(record: RequestRecord) -> dict[int, list[int]]:
    """Tokens by sequence."""
    return {index: list(child.token_ids) for index, child in sorted(record.children.items())}


def is_beginning(found: dict[int, list[int]], whole: dict[int, list[int]]) -> bool:
    """Tell whether everything found is how the whole begins."""
    return all(index in whole and whole[index][: len(tokens)] == tokens for index, tokens in found.items())
