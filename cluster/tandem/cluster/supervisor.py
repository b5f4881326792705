"""Brings a cluster up, keeps it up, takes it down: registry, router and workers, started together, ended in order."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tandem.cluster.cache_setup import prepare_cache
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.control.keeper import ControllerKeeper
from tandem.cluster.control.program import open_records
from tandem.cluster.control.scale_follower import ScaleFollower
from tandem.cluster.plan import plan_added_worker, plan_controller, plan_router, plan_workers
from tandem.cluster.processes.child import ChildSpec
from tandem.cluster.processes.service import OnEvent, Service
from tandem.cluster.programs.config import RegistryProgramConfig, RegistryTarget
from tandem.cluster.progress import Progress
from tandem.cluster.registry.choice import choose_registry
from tandem.cluster.runtime.backoff import Backoff
from tandem.cluster.runtime.base import WorkerRuntime
from tandem.cluster.runtime.ray_runtime import workers_are_elsewhere
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem, SetupError
from tandem.core.prepared_model import PreparedModel
from tandem.prefix_cache.config import PrefixCacheProgram

_log = structlog.get_logger(__name__)
_PROCESS_START_S = 60.0
_SEEN_S = 30.0  # from "the workers serve" to "the router uses them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The modules that run as processes, and further environment variables of the router's and the controller's."""

    router: str = "tandem.cluster.programs.router_process"
    registry: str = "tandem.cluster.programs.registry_process"
    controller: str = "tandem.cluster.programs.controller_process"
    router_variables: Mapping[str, str] = field(default_factory=dict)
    controller_variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCluster:
    """Where a cluster that is up can be reached."""

    public_address: str
    internal_address: str
    router_pid: int
    registry: str  # for people: where workers announce themselves
    registry_url: str = ""  # of the Redis, if there is one


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
        programs: Programs | None = None,
    ) -> None:
        self._config = config
        self._model = model
        self._runtime = runtime
        self._log_folder = log_folder
        self._progress = progress
        self._programs = programs or Programs()
        self._registry: Service | None = None
        self._registry_folder: Path | None = None
        self._router: Service | None = None
        self._keeper: ControllerKeeper | None = None
        self._alive = (0, 0)  # prefill and decode workers that the router can use
        self._alive_changed = asyncio.Event()

    async def start(self) -> RunningCluster:
        """Start everything; on any error, stop what was started and raise it."""
        try:
            return await self._start()
        except BaseException:
            await self.stop(grace_s=1.0)
            raise

    async def watch(self, stop: asyncio.Event) -> None:
        """Return when ``stop`` is set. Raises SetupError when the router or the runtime ends."""
        if self._router is None:
            return
        parts = {"router": self._router.wait(), "runtime": self._runtime.wait()}
        ends = [asyncio.create_task(ended, name=f"{part} ended") for part, ended in parts.items()]
        others: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait(), name="stop")]
        if self._registry is not None:
            others.append(asyncio.create_task(_keep_up(self._registry), name="keep the registry"))
        first = asyncio.Event()
        for task in (*ends, others[0]):
            task.add_done_callback(lambda _: first.set())
        try:
            await first.wait()
            for task in ends:
                if task.done() and not stop.is_set():
                    raise task.result()
        finally:
            for task in (*ends, *others):
                task.cancel()
            await asyncio.gather(*ends, *others, return_exceptions=True)

    async def stop(self, *, grace_s: float) -> None:
        """Drain the router, then the workers, then the registry. Idempotent."""
        began_s = time.monotonic()
        if self._keeper is not None:
            await self._keeper.stop()
        if self._router is not None:
            await self._router.stop(grace_s=grace_s)
        await self._runtime.stop(grace_s=max(1.0, grace_s - (time.monotonic() - began_s)))
        if self._registry is not None:
            await self._registry.stop(grace_s=5.0)
        self._remove_registry_folder()

    @property
    def controller_pid(self) -> int | None:
        """The controller's process; None while there is none."""
        return None if self._keeper is None else self._keeper.pid

    async def restart_router(self) -> int:
        """End the router if it still runs, start it again with the same configuration, return its pid.

        With fixed ports clients and workers find it where it was; workers attach again by themselves.
        """
        if self._router is None:
            raise EnvironmentProblem("the cluster has not been started")
        self._router.kill()
        await self._router.stop(grace_s=0.0)
        self._alive = (0, 0)
        await self._router.start(_PROCESS_START_S)
        await self._wait_until_seen()
        return self._router.child.pid if self._router.child else 0

    def kill(self) -> None:
        """End every process now, without a drain."""
        if self._keeper is not None:
            self._keeper.kill()
        if self._router is not None:
            self._router.kill()
        self._runtime.kill()
        if self._registry is not None:
            self._registry.kill()
        self._remove_registry_folder()

    async def _start(self) -> RunningCluster:
        choice = choose_registry(self._config.registry, workers_are_elsewhere=workers_are_elsewhere(self._config))
        if choice.warning:
            self._progress.warn(choice.warning)
        namespace = self._config.registry.namespace
        starting: list[Coroutine[Any, Any, object]] = []
        if choice.start_embedded:
            self._registry_folder = Path(tempfile.mkdtemp(prefix="tandem-registry-"))
            program = RegistryProgramConfig(folder=self._registry_folder)
            self._registry = self._service("registry", self._programs.registry, program.model_dump_json())
            target = RegistryTarget(kind="redis", url=program.url, namespace=namespace)
            starting.append(self._start_registry(self._registry))
        elif choice.url:
            target = RegistryTarget(kind="redis", url=choice.url, namespace=namespace)
        else:
            target = RegistryTarget(kind="router", namespace=namespace)
        cache = await asyncio.to_thread(prepare_cache, self._config.prefix_cache, self._model.folder)
        plan = plan_router(self._config, self._model, target, cache=cache).model_dump_json(by_alias=True)
        self._router = self._service("router", self._programs.router, plan, on_event=self._on_router_event)
        if target.kind == "router":  # the workers must be told where to announce themselves
            ready = await self._start_router(self._router)
            target = target.model_copy(update={"address": str(ready["internal_address"])})
            await _all_or_error([*starting, self._start_workers(target, cache)])
        else:  # nobody waits for anybody: a registry that is not up yet is asked again
            working = self._start_workers(target, cache)
            ready = (await _all_or_error([self._start_router(self._router), *starting, working]))[0]
        await self._wait_until_seen()
        if self._config.controller.enabled:
            await self._start_controller(target, cache, str(ready["internal_address"]))
        return RunningCluster(
            public_address=str(ready["public_address"]),
            internal_address=str(ready["internal_address"]),
            router_pid=self._router.child.pid if self._router.child else 0,
            registry=choice.description,
            registry_url=target.url,
        )

    async def _start_registry(self, registry: Service) -> None:
        phase = self._progress.begin("registry")
        await registry.start(_PROCESS_START_S)
        phase.done("embedded")

    async def _start_router(self, router: Service) -> dict[str, Any]:
        phase = self._progress.begin("router")
        ready = await router.start(_PROCESS_START_S)
        phase.done(f"listens on {ready['public_address']}")
        return ready

    async def _start_workers(self, target: RegistryTarget, cache: PrefixCacheProgram) -> None:
        pools = self._config.pools
        phase = self._progress.begin("workers")
        await self._runtime.start(
            plan_workers(self._config, self._model, target, cache=cache),
            on_status=lambda worker, what: phase.update(f"{worker}: {what}"),
            timeout_s=self._config.runtime.start_timeout_s,
        )
        phase.done(f"{pools.prefill.replicas} prefill + {pools.decode.replicas} decode")

    async def _start_controller(self, target: RegistryTarget, cache: PrefixCacheProgram, router: str) -> None:
        config, model = self._config, self._model
        phase = self._progress.begin("controller")
        program = plan_controller(config, target, routers=[router])
        store = open_records(target, tls=program.tls.load() if program.tls else None, insecure=program.insecure)
        follower = ScaleFollower(
            store,
            self._runtime,
            plan=lambda name, role: plan_added_worker(config, model, target, worker_id=name, role=role, cache=cache),
            planned=tuple(plan_workers(config, model, target, cache=cache)),
            start_timeout_s=config.runtime.start_timeout_s,
            grace_s=config.runtime.stop_timeout_s,
        )
        service = None
        if not await self._runtime.host_controller(program):
            service = self._service("controller", self._programs.controller, program.model_dump_json())
        self._keeper = ControllerKeeper(service, store, follower)
        await self._keeper.start()
        phase.done(f"follows {program.policy}" if program.policy else "waits for a policy")

    async def _wait_until_seen(self) -> None:
        """Wait until the router can use every worker."""
        phase = self._progress.begin("ready")
        pools = self._config.pools
        try:
            async with asyncio.timeout(_SEEN_S):
                while self._alive[0] < pools.prefill.replicas or self._alive[1] < pools.decode.replicas:
                    await self._alive_changed.wait()
                    self._alive_changed.clear()
        except TimeoutError:
            raise EnvironmentProblem(
                f"the router reaches {self._alive[0]} prefill and {self._alive[1]} decode workers of"
                f" {pools.prefill.replicas} and {pools.decode.replicas}",
                remedy=f"see {self._log_folder}; are router and workers on one network, with fitting certificates?",
            ) from None
        phase.done()

    def _on_router_event(self, status: dict[str, Any]) -> None:
        if status.get("event") == "workers":
            self._alive = (int(status["prefill"]), int(status["decode"]))
            self._alive_changed.set()

    def _service(self, name: str, module: str, config_json: str, on_event: OnEvent | None = None) -> Service:
        spec = ChildSpec(
            name=name,
            module=module,
            config_json=config_json,
            log_file=self._log_folder / f"{name}.log",
            environment={
                **child_environment(num_threads=1),
                **(self._programs.router_variables if name == "router" else {}),
                **(self._programs.controller_variables if name == "controller" else {}),
            },
        )
        return Service(spec, on_event=on_event)

    def _remove_registry_folder(self) -> None:
        if self._registry_folder is not None:
            shutil.rmtree(self._registry_folder, ignore_errors=True)


async def _all_or_error(work: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run all at once; return their results, or cancel the rest and raise the first error as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except* SetupError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]


async def _keep_up(registry: Service) -> None:
    """Start the registry again whenever it ends: it is a hint, so nobody stops serving meanwhile."""
    backoff = Backoff()
    while True:
        began_s = time.monotonic()
        error = await registry.wait()
        pause_s = backoff.after(lived_s=time.monotonic() - began_s)
        _log.warning("registry_died", problem=error.problem, restart_in_s=pause_s)
        await asyncio.sleep(pause_s)
        try:
            await registry.start(_PROCESS_START_S)
        except SetupError as problem:
            _log.warning("registry_restart_failed", problem=problem.problem)
