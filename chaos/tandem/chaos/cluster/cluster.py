"""The cluster itself: starts the processes, knows their pids, epochs and files, sends requests, ends everything."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tandem.chaos.cluster.baseline import Baseline, measure, shared_memory_files
from tandem.chaos.cluster.caller import call
from tandem.chaos.cluster.options import ChaosOptions
from tandem.chaos.cluster.records import RequestRecord, judge, summarise
from tandem.chaos.cluster.runtime import TaggedRuntime
from tandem.chaos.cluster.specs import RequestSpec, random_specs
from tandem.chaos.tagged.evidence import Verified, read_mismatches, read_verified
from tandem.chaos.tagged.expected import Oracle
from tandem.chaos.tagged.model import prepare_tagged
from tandem.client import AsyncClient, Client, ClusterStatus, WorkerState, WorkerStatus
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.progress import SilentProgress
from tandem.cluster.supervisor import Programs, Supervisor
from tandem.core.description import WorkerDescription
from tandem.core.errors import EnvironmentProblem, TandemError, Unavailable
from tandem.core.ids import LOCAL_TENANT, Tenant
from tandem.rpc.channels import open_channel
from tandem.rpc.keys import IssuedKey, issue_key
from tandem.rpc.stubs.worker import WorkerStub

_POLL_S = 0.05
_CALL_S = 5.0
_GRACE_S = 20.0  # on a busy machine; a process that is killed then has not closed its event log
_STREAMS_PER_CONNECTION = 64
_OPERATOR = Tenant("operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFolders:
    """Where a cluster keeps what outlives its processes."""

    root: Path

    @property
    def model(self) -> Path:
        """The tagged model."""
        return self.root / "model"

    @property
    def logs(self) -> Path:
        """Logs of the processes, by name."""
        return self.root / "logs"

    @property
    def events(self) -> Path:
        """Event logs, one file per process life."""
        return self.root / "events"

    @property
    def evidence(self) -> Path:
        """What the tagged engines verified."""
        return self.root / "evidence"


class ChaosCluster:
    """Use as an async context manager; see the package's docstring."""

    def __init__(self, options: ChaosOptions | None = None) -> None:
        self.options = options or ChaosOptions()
        self._remove_folder = self.options.folder is None
        self.folders = ClusterFolders(root=self.options.folder or Path(tempfile.mkdtemp(prefix="tandem-chaos-")))
        self._keys: dict[str, IssuedKey] = {
            tenant: issue_key(f"k{index}", Tenant(tenant)) for index, tenant in enumerate(self.options.tenants)
        }
        self._operator = issue_key("operator", _OPERATOR, operator=True) if self._keys else None
        self._model = prepare_tagged(self.folders.model, self.options.shape)
        self._runtime = TaggedRuntime(self.options, log_folder=self.folders.logs, evidence_folder=self.folders.evidence)
        self._supervisor = Supervisor(
            self._config(),
            model=self._model,
            runtime=self._runtime,
            log_folder=self.folders.logs,
            progress=SilentProgress(),
            programs=Programs(
                router_variables=self.options.router_variables, controller_variables=self.options.controller_variables
            ),
        )
        self._clients: dict[str, AsyncClient] = {}
        self._operator_client: AsyncClient | None = None
        self.oracle = Oracle(self.folders.model)
        self.public_address = ""
        self.internal_address = ""
        self.router_pid = 0
        self.registry_url = ""
        self.baseline = Baseline()

    async def __aenter__(self) -> Self:
        self.folders.evidence.mkdir(parents=True, exist_ok=True)
        try:
            running = await self._supervisor.start()
        except BaseException:
            self._drop_folder()
            raise
        self.public_address, self.internal_address = running.public_address, running.internal_address
        self.router_pid, self.registry_url = running.router_pid, running.registry_url
        try:
            if self.options.warm_up:
                await self._warm_up()
            await self.take_baseline()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._close_clients()
            await self._supervisor.stop(grace_s=_GRACE_S if error is None else 1.0)
        finally:
            self._drop_folder()

    # --- requests ----------------------------------------------------------------------------------------------------

    def client(self, tenant: str = LOCAL_TENANT, *, retries: int = 0) -> AsyncClient:
        """Return the asyncio SDK of a tenant; it is closed with the cluster. No retries: what the router does shows."""
        if tenant not in self._clients:
            key = self._keys.get(tenant)
            self._clients[tenant] = AsyncClient(
                self.public_address, api_key=None if key is None else key.text, retries=0, num_connections=4
            )
        return self._clients[tenant].with_options(retries=retries)

    def api_key(self, tenant: str) -> str | None:
        """The tenant's key, for whoever brings its own client; None without keys."""
        key = self._keys.get(tenant)
        return None if key is None else key.text

    def sync_client(self, tenant: str = LOCAL_TENANT, *, retries: int = 0) -> Client:
        """Return the blocking SDK of a tenant, to be closed by the caller."""
        key = self._keys.get(tenant)
        return Client(self.public_address, api_key=None if key is None else key.text, retries=retries)

    async def run_requests(
        self,
        specs: Sequence[RequestSpec],
        *,
        concurrency: int = 4 * _STREAMS_PER_CONNECTION,
        begun: Callable[[RequestRecord], None] | None = None,
    ) -> list[RequestRecord]:
        """Send all of them, at most ``concurrency`` at once, and judge every answer. Records come in order of specs.

        ``begun`` gets every record as its request is sent: whoever must account for all of them, also when this call is
        cancelled.
        """
        gate = asyncio.Semaphore(concurrency)
        began_s = asyncio.get_running_loop().time()

        async def one(spec: RequestSpec) -> RequestRecord:
            if spec.start_after_s:
                await asyncio.sleep(max(0.0, began_s + spec.start_after_s - asyncio.get_running_loop().time()))
            async with gate:
                return await call(self.client(spec.tenant), spec, begun=begun)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(spec)) for spec in specs]
        records = [task.result() for task in tasks]
        await asyncio.to_thread(self.judge, records)
        return records

    def judge(self, records: Sequence[RequestRecord]) -> None:
        """Compare what came with what the oracle says."""
        with_output = [record for record in records if record.children or record.ending == "ok"]
        answers = self.oracle.expected_many([record.spec.task() for record in with_output])
        for record, expected in zip(with_output, answers, strict=True):
            judge(record, expected)

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Names of the workers, prefill first."""
        options = self.options
        prefill = (f"prefill-{index}" for index in range(options.num_prefill))
        return (*prefill, *(f"decode-{index}" for index in range(options.num_decode)))

    def pid(self, worker_id: str) -> int:
        """Return the pid of a worker's present process. Raises EnvironmentProblem while there is none."""
        for process in self._runtime.processes():
            if process.worker_id == worker_id and process.pid is not None and process.is_running:
                return process.pid
        raise EnvironmentProblem(f"{worker_id} is not running")

    def num_restarts(self, worker_id: str) -> int:
        """How often a worker was started again."""
        return next(p.num_restarts for p in self._runtime.processes() if p.worker_id == worker_id)

    @property
    def controller_pid(self) -> int | None:
        """Pid of the controller's present process; None while there is none."""
        return self._supervisor.controller_pid

    def pids(self) -> Mapping[str, int]:
        """Pids of every running process, the router's as ``router``."""
        running = {p.worker_id: p.pid for p in self._runtime.processes() if p.pid is not None and p.is_running}
        return {"router": self.router_pid, **running}

    async def restart_router(self) -> int:
        """End the router (it may be dead already), start it again on the same ports, return its pid."""
        self.router_pid = await self._supervisor.restart_router()
        return self.router_pid

    async def status(self) -> ClusterStatus:
        """The cluster as the router sees it. Raises TandemError while the router can't be reached."""
        return await self.operator().status()

    def operator(self) -> AsyncClient:
        """Return the operator's SDK, of the router's internal address; it is closed with the cluster."""
        if self._operator_client is None:
            key = None if self._operator is None else self._operator.text
            self._operator_client = AsyncClient(
                self.internal_address, api_key=key, retries=0, timeout_s=_CALL_S, insecure=self.options.insecure
            )
        return self._operator_client

    async def worker(self, worker_id: str) -> WorkerStatus:
        """One worker as the router sees it. Raises Unavailable while the router does not know it."""
        for status in (await self.status()).workers:
            if status.info.worker_id == worker_id:
                return status
        raise Unavailable(f"the router does not know {worker_id}")

    async def describe(self, worker_id: str) -> WorkerDescription:
        """Ask the worker itself. Raises TandemError when it does not answer."""
        address = (await self.worker(worker_id)).info.address
        async with open_channel(address, insecure=self.options.insecure) as channel:
            return await WorkerStub(channel).get_info(timeout_s=_CALL_S)

    async def restarted(self, worker_id: str, *, since: int, timeout_s: float = 30.0) -> WorkerStatus:
        """Wait until the router uses a life of the worker other than epoch ``since``. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(TandemError):
                    status = await self.worker(worker_id)
                    if status.info.epoch != since and status.state is WorkerState.READY:
                        return status
                await asyncio.sleep(_POLL_S)

    async def settled(self, *, timeout_s: float = 30.0) -> ClusterStatus:
        """Wait until every worker is ready and no request is left at the router. Raises TimeoutError."""
        last = "the router does not answer"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with contextlib.suppress(TandemError):
                        status = await self.status()
                        ready = [w for w in status.workers if w.state is WorkerState.READY]
                        if len(ready) == len(self.worker_ids) and not status.num_queued and not status.num_running:
                            return status
                        states = ", ".join(f"{w.info.worker_id} {w.state.value}" for w in status.workers)
                        last = f"{states}; {status.num_queued} wait, {status.num_running} run"
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise TimeoutError(f"not settled after {timeout_s:.0f} s: {last}") from None

    async def take_baseline(self) -> None:
        """Remember the size of every process as it is now: what leak checks compare with."""
        status = await self.settled()
        num_tasks = {"router": status.num_tasks}
        for worker_id in self.worker_ids:
            num_tasks[worker_id] = (await self.describe(worker_id)).holdings.num_tasks
        self.baseline = Baseline(
            processes={name: measure(pid, num_tasks=num_tasks[name]) for name, pid in self.pids().items()},
            shared_memory=shared_memory_files(),
        )

    async def _warm_up(self) -> None:
        """Open every lasting connection: callers to the router, each prefill worker to each decode worker."""
        count = 8 * max(1, self.options.num_prefill) * self.options.num_decode
        tenants = self.options.tenants or (LOCAL_TENANT,)
        records = await self.run_requests(random_specs(count, seed=0, tenants=tenants, max_output_tokens=4))
        summary = summarise(records)
        if summary.num_ok != count or summary.wrong_tokens:
            raise EnvironmentProblem(f"the cluster does not serve without any fault: {summary}")

    # --- evidence ----------------------------------------------------------------------------------------------------

    def verified(self) -> Verified:
        """What all engines of all lives have verified so far."""
        return sum(read_verified(self.folders.evidence).values(), Verified())

    def mismatches(self) -> list[dict[str, Any]]:
        """Every wrong KV that an engine found; must be empty."""
        return read_mismatches(self.folders.evidence)

    def event_logs(self) -> list[Path]:
        """Event logs, one file per process life."""
        return sorted(path for path in self.folders.events.rglob("*") if path.is_file())

    def log_text(self, name: str) -> str:
        """The log of ``router`` or a worker."""
        return (self.folders.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _config(self) -> ClusterConfig:
        options = self.options
        public_port, internal_port = free_ports(2)
        keys = [key.entry.model_dump() for key in (*self._keys.values(), *([self._operator] if self._operator else []))]
        observability: dict[str, Any] = {"log_level": options.log_level}
        if options.event_log:
            observability["event_log"] = self.folders.events
        values: dict[str, Any] = {
            "model": {"source": "tagged"},
            "pools": {"prefill": {"replicas": options.num_prefill}, "decode": {"replicas": options.num_decode}},
            "engine": {"num_blocks": 256, **options.engine},
            "transfer": {"transports": list(options.transports)},
            "registry": {"embedded": options.registry == "embedded"},
            "router": {"port": public_port, "internal_port": internal_port, "keys": keys, **options.router},
            "observability": observability,
            **options.cluster,
        }
        return ClusterConfig.model_validate(values)

    async def _close_clients(self) -> None:
        clients = [*self._clients.values(), *([self._operator_client] if self._operator_client else [])]
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)

    def _drop_folder(self) -> None:
        if self._remove_folder:
            shutil.rmtree(self.folders.root, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
