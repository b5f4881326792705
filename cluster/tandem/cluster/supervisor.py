"""Brings a cluster up, keeps it up, takes it down: registry, router, workers, in that order and back."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_router, plan_workers
from tandem.cluster.processes.child import ChildProcess, ChildSpec
from tandem.cluster.programs.config import RegistryTarget
from tandem.cluster.progress import Progress
from tandem.cluster.registry.choice import RegistryChoice, choose_registry
from tandem.cluster.runtime.base import WorkerRuntime
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem
from tandem.core.prepared_model import PreparedModel

_log = structlog.get_logger(__name__)
_ROUTER_MODULE = "tandem.cluster.programs.router_process"
_REGISTRY_MODULE = "tandem.cluster.programs.registry_process"
_PROCESS_START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCluster:
    """Where a cluster that is up can be reached."""

    public_address: str
    internal_address: str
    router_pid: int
    registry: str  # for people: where workers announce themselves


class Supervisor:
    """Owns every process of one cluster. Use `start`, then `watch`, then always `stop`."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        model: PreparedModel,
        runtime: WorkerRuntime,
        log_folder: Path,
        progress: Progress,
    ) -> None:
        self._config = config
        self._model = model
        self._runtime = runtime
        self._log_folder = log_folder
        self._progress = progress
        self._registry_child: ChildProcess | None = None
        self._router_child: ChildProcess | None = None
        self._status_tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> RunningCluster:
        """Start everything; on any error, stop what was started and raise it."""
        try:
            return await self._start()
        except BaseException:
            await self.stop(grace_s=1.0)
            raise

    async def _start(self) -> RunningCluster:
        choice = choose_registry(self._config.registry)
        if choice.warning:
            self._progress.begin(f"warning: {choice.warning}")
            self._progress.done()
        target = await self._start_registry(choice)
        self._progress.begin("router")
        self._router_child, ready = await self._start_child(
            "router", _ROUTER_MODULE, plan_router(self._config, self._model, target).model_dump_json(by_alias=True)
        )
        public, internal = str(ready["public_address"]), str(ready["internal_address"])
        self._progress.done(f"listens on {public}")
        if target.kind == "router":
            target = target.model_copy(update={"address": internal})
        workers = plan_workers(self._config, self._model, target)
        pools = self._config.pools
        self._progress.begin(f"workers ({pools.prefill.replicas} prefill, {pools.decode.replicas} decode)")
        await self._runtime.start(
            workers,
            on_status=lambda worker, what: self._progress.update(f"{worker}: {what}"),
            timeout_s=self._config.runtime.start_timeout_s,
        )
        self._progress.done("ready")
        return RunningCluster(
            public_address=public,
            internal_address=internal,
            router_pid=self._router_child.pid,
            registry=choice.description,
        )

    async def watch(self, stop: asyncio.Event) -> None:
        """Return when ``stop`` is set. Raises EnvironmentProblem when the router dies: without it nothing is served."""
        router = self._router_child
        if router is None:
            return
        either = asyncio.Event()
        died = asyncio.create_task(router.wait())
        stopped = asyncio.create_task(stop.wait())
        for task in (died, stopped):
            task.add_done_callback(lambda _: either.set())
        try:
            await either.wait()
        finally:
            for task in (died, stopped):
                task.cancel()
            await asyncio.gather(died, stopped, return_exceptions=True)
        if not stop.is_set():
            raise EnvironmentProblem(
                f"the router ended with status {router.returncode}: {router.log_tail(6)}",
                remedy=f"see {router.spec.log_file}",
            )

    async def stop(self, *, grace_s: float) -> None:
        """Drain the router, then the workers, then the registry. Idempotent."""
        began_s = time.monotonic()
        if self._router_child is not None:
            await self._router_child.stop(grace_s=grace_s)
        left_s = max(1.0, grace_s - (time.monotonic() - began_s))
        await self._runtime.stop(grace_s=left_s)
        if self._registry_child is not None:
            await self._registry_child.stop(grace_s=5.0)
        for task in self._status_tasks:
            task.cancel()
        await asyncio.gather(*self._status_tasks, return_exceptions=True)
        self._status_tasks.clear()

    async def _start_registry(self, choice: RegistryChoice) -> RegistryTarget:
        namespace = self._config.registry.namespace
        if choice.url:
            return RegistryTarget(kind="redis", url=choice.url, namespace=namespace)
        if not choice.start_embedded:
            return RegistryTarget(kind="router", namespace=namespace)
        self._progress.begin("registry (embedded)")
        self._registry_child, ready = await self._start_child("registry", _REGISTRY_MODULE, "{}")
        self._progress.done()
        return RegistryTarget(kind="redis", url=str(ready["url"]), namespace=namespace)

    async def _start_child(self, name: str, module: str, config_json: str) -> tuple[ChildProcess, dict[str, Any]]:
        spec = ChildSpec(
            name=name,
            module=module,
            config_json=config_json,
            log_file=self._log_folder / f"{name}.log",
            environment=child_environment(num_threads=1),
        )
        child = await ChildProcess.start(spec)
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._status_tasks.add(asyncio.create_task(_follow(child, ready), name=f"status of {name}"))
        try:
            return child, await asyncio.wait_for(ready, _PROCESS_START_S)
        except TimeoutError:
            await child.stop(grace_s=1.0)
            raise EnvironmentProblem(f"the {name} was not ready after {_PROCESS_START_S:.0f} s") from None
        except BaseException:
            await child.stop(grace_s=1.0)
            raise


async def _follow(child: ChildProcess, ready: asyncio.Future[dict[str, Any]]) -> None:
    words = ""
    async for status in child.statuses():
        if status.get("event") == "ready" and not ready.done():
            ready.set_result(status)
        elif status.get("event") == "failed":
            words = str(status.get("message", ""))
    if not ready.done():
        await child.wait()
        text = words or child.log_tail(6) or f"exit status {child.returncode}"
        ready.set_exception(
            EnvironmentProblem(f"the {child.spec.name} could not start: {text}", remedy=f"see {child.spec.log_file}")
        )
