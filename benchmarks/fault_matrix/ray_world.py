"""A cluster of Ray actors with the real model, and whether anything of its requests is left."""

import asyncio
import contextlib
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.cluster import cluster_config, prepare_builtin
from tandem.chaos.cluster import RequestRecord, RequestSpec
from tandem.chaos.cluster.baseline import Baseline, ProcessSize, measure, shared_memory_files
from tandem.chaos.cluster.caller import call
from tandem.chaos.leaks import Observation, check_usage
from tandem.chaos.leaks.rules import problems_of
from tandem.client import AsyncClient, ClusterStatus, WorkerState, WorkerStatus
from tandem.cluster.progress import SilentProgress
from tandem.cluster.runtime.ray_runtime import RayRuntime
from tandem.cluster.supervisor import Supervisor
from tandem.core.description import WorkerDescription
from tandem.core.errors import TandemError
from tandem.core.types import StopParams
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.worker import WorkerStub

_WORKERS: Final = 4
_POLL_S: Final = 0.05
_CALL_S: Final = 10.0
_RAYS_OWN: Final = 10  # descriptors, and threads
_WARM_UPS: Final = 12
_PLAIN: Final = 1000  # ids from here on are words of the vocabulary


class RayWorld:
    """Two prefill and two decode actors. Use as an async context manager; nothing of Ray is left afterwards."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._processes = AsyncExitStack()
        self.folder = Path()
        self.records: list[RequestRecord] = []  # of every request that was ever sent
        self.killed_pids: set[int] = set()  # by faults
        self.last_to_settle = ""  # what the last look for leaks waited for
        self.baseline = Baseline()

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
        await self._stack.enter_async_context(self._processes)
        self._processes.push_async_callback(supervisor.stop, grace_s=10.0)
        self._router_pid = running.router_pid
        self.client = await self._processes.enter_async_context(AsyncClient(running.public_address, retries=0))
        self._operator = await self._processes.enter_async_context(AsyncClient(running.internal_address, retries=0))
        await self.settled()
        await self._warm_up()
        return self

    async def _warm_up(self) -> None:
        """Open every lasting connection, then count what leak checks compare with."""
        specs = [
            RequestSpec(
                prompt=tuple(_PLAIN + 50 * number + position for position in range(20)),
                stop=StopParams(max_tokens=2, ignore_eos=True),
                deadline_s=60.0,
            )
            for number in range(_WARM_UPS)
        ]
        async with asyncio.TaskGroup() as group:
            for spec in specs:
                group.create_task(call(self.client, spec, begun=self.records.append))
        await self.settled()
        seen = await self._observe()
        self.baseline = Baseline(
            processes={name: size if name == "router" else _with_ray(size) for name, size in seen.processes.items()},
            shared_memory=seen.shared_memory,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def end(self) -> None:
        """End every process; what they wrote is still there."""
        await self._processes.aclose()

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

    async def leaks(self, *, settle_s: float) -> list[str]:
        """L1 to L5, waited for. There is no Redis (L6); `books` is L7."""
        began_s = time.monotonic()
        last: list[str] = []
        while True:
            problems = problems_of(await self._observe(), self.baseline)
            took_s = time.monotonic() - began_s
            if not problems or took_s > settle_s:
                self.last_to_settle = f"{took_s:.1f} s until nothing was left, at last {last[:2]}" if last else ""
                return problems
            last = problems
            await asyncio.sleep(_POLL_S)

    async def _observe(self) -> Observation:
        status = await self.status()
        workers = {str(w.info.worker_id): await _describe(w.info.address) for w in status.workers}
        sizes: dict[str, ProcessSize] = {}
        for name, pid in (("router", self._router_pid), *((str(w.info.worker_id), w.info.pid) for w in status.workers)):
            worker = workers.get(name)
            num_tasks = status.num_tasks if name == "router" else 0 if worker is None else worker.holdings.num_tasks
            with contextlib.suppress(OSError):  # it has just ended: check L4 says so
                sizes[name] = measure(pid, num_tasks=num_tasks)
        return Observation(status=status, workers=workers, processes=sizes, shared_memory=shared_memory_files())

    def books(self) -> list[str]:
        """L7: every request was booked once, with the tokens that its caller got. Ask when the router has ended."""
        return check_usage(self.event_logs(), self.records)

    def event_logs(self) -> list[Path]:
        """Event logs of every process life."""
        return sorted((self.folder / "events").glob("*.jsonl"))


def _with_ray(size: ProcessSize) -> ProcessSize:
    """An actor's size, with what Ray itself opens and starts when it likes."""
    return replace(size, num_fds=size.num_fds + _RAYS_OWN, num_threads=size.num_threads + _RAYS_OWN)


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
