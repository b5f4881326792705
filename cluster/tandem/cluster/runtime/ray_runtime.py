"""Workers as Ray actors. This is the supervisor's side: it talks to `ray_process`, and never loads Ray itself."""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.processes.child import ChildSpec
from tandem.cluster.processes.failure import setup_error
from tandem.cluster.processes.service import Service
from tandem.cluster.programs.config import (
    ControllerProgramConfig,
    PlacedWorker,
    RayOrder,
    RayProgramConfig,
    WorkerProgramConfig,
)
from tandem.cluster.runtime.base import OnStatus, WorkerProcess
from tandem.core.environment import child_environment
from tandem.core.errors import ConfigError, EnvironmentProblem, SetupError
from tandem.core.types import Role
from tandem.rpc.addresses import is_loopback

_log = structlog.get_logger(__name__)
_MODULE = "tandem.cluster.programs.ray_process"
_OWN_RAY_S = 60.0  # on top of the workers' own start time


class RayRuntime:
    """Starts workers through Ray, in an instance of our own or in a cluster that runs already."""

    def __init__(self, config: ClusterConfig, *, log_folder: Path, module: str = _MODULE) -> None:
        self._config = config
        self._module = module
        self._log_folder = log_folder
        self._service: Service | None = None
        self._temp_folder: Path | None = None
        self._on_status: OnStatus = _ignore
        self._workers: dict[str, WorkerProcess] = {}
        self._changed = asyncio.Event()
        self._failures: dict[str, SetupError] = {}
        self._ended: set[str] = set()

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        """Start Ray if need be, and all workers. Raises SetupError; nothing is left then."""
        require_safe_placement(self._config)
        self._on_status = on_status
        environment = child_environment(num_threads=self._config.engine.num_threads)
        temp_folder = self._temp_folder = Path(tempfile.mkdtemp(prefix="tandem-ray-"))  # short: it holds unix sockets
        if self._config.runtime.address is None:
            environment |= _with_token(temp_folder / "token")
        self._service = Service(
            ChildSpec(
                name="ray",
                module=self._module,
                config_json=self._program(workers, temp_folder, timeout_s).model_dump_json(),
                log_file=self._log_folder / "ray.log",
                environment=environment,
            ),
            on_event=self._on_event,
        )
        try:
            await self._service.start(timeout_s + _OWN_RAY_S)
        except BaseException:
            self._remove_temp_folder()
            raise

    async def wait(self) -> SetupError:
        """Return when Ray's driver has ended: nobody starts workers again then."""
        if self._service is None:
            return EnvironmentProblem("ray was never started")
        return await self._service.wait()

    async def add(self, worker: WorkerProgramConfig, *, timeout_s: float) -> None:
        """Start one more worker in a placement group of its own, which Ray's autoscaler may have to make room for."""
        name = worker.worker_id
        self._failures.pop(name, None)
        self._ended.discard(name)
        await self._order(RayOrder(add=self._placed(worker)))
        try:
            async with asyncio.timeout(timeout_s):
                while name not in self._workers or not self._workers[name].is_running:
                    if name in self._failures:
                        raise self._failures[name]
                    await self._news()
        except TimeoutError:
            await self._order(RayOrder(remove=name))
            raise EnvironmentProblem(
                f"{name} was not ready after {timeout_s:g} s",
                remedy="`ray status` tells whether Ray waits for resources",
            ) from None

    async def remove(self, worker_id: str, *, grace_s: float) -> None:
        """Drain and end one worker; its resources are given back."""
        await self._order(RayOrder(remove=worker_id))
        try:
            async with asyncio.timeout(grace_s + 10.0):
                while worker_id not in self._ended:
                    await self._news()
        except TimeoutError:
            _log.warning("worker_not_ended", worker=worker_id)

    async def host_controller(self, program: ControllerProgramConfig) -> bool:
        """Run it as a detached actor."""
        await self._order(RayOrder(controller=program))
        return True

    async def _order(self, order: RayOrder) -> None:
        child = None if self._service is None else self._service.child
        if child is None:
            raise EnvironmentProblem("ray was never started")
        await child.send_line(order.model_dump_json())

    async def _news(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def stop(self, *, grace_s: float) -> None:
        """Drain and end every worker, and Ray if it is ours."""
        if self._service is not None:
            await self._service.stop(grace_s=grace_s + 10.0)
        self._remove_temp_folder()

    def kill(self) -> None:
        """End the driver; its Ray, or its actors in a foreign Ray, end with it."""
        if self._service is not None:
            self._service.kill()
        self._remove_temp_folder()

    def processes(self) -> tuple[WorkerProcess, ...]:
        """Return one entry per worker."""
        return tuple(self._workers[name] for name in sorted(self._workers))

    def _program(self, workers: Sequence[WorkerProgramConfig], temp_folder: Path, timeout_s: float) -> RayProgramConfig:
        config = self._config
        return RayProgramConfig(
            address=config.runtime.address,
            namespace=config.metadata.name,
            placement=config.runtime.placement,
            workers=[self._placed(worker) for worker in workers],
            own_resources={config.controller.ray_resource: 1.0} if config.controller.ray_resource else {},
            may_scale=config.controller.enabled,
            announce_node_address=workers_are_elsewhere(config),
            temp_folder=temp_folder,
            log_folder=self._log_folder,
            start_timeout_s=timeout_s,
            stop_timeout_s=config.runtime.stop_timeout_s,
            log_level=config.observability.log_level,
            log_style=config.observability.log_style,
        )

    def _placed(self, worker: WorkerProgramConfig) -> PlacedWorker:
        pools = self._config.pools
        section = pools.prefill if worker.role is Role.PREFILL else pools.decode
        return PlacedWorker(program=worker, cpus=section.cpus, gpus=section.gpus)

    def _on_event(self, status: dict[str, Any]) -> None:
        name, detail = str(status.get("worker", "ray")), str(status.get("detail", ""))
        self._on_status(name, detail)
        self._changed.set()
        if status.get("event") == "worker_failed":
            self._failures[name] = setup_error(name, status, remedy="see the log of that worker")
        if status.get("event") == "worker_ended":
            self._ended.add(name)
            self._workers.pop(name, None)
        if status.get("event") != "worker":
            return
        pid = status.get("pid")
        before = self._workers.get(name)
        now = WorkerProcess(
            worker_id=name,
            pid=pid if isinstance(pid, int) else None,
            is_running=bool(status.get("running")),
            num_restarts=int(status.get("restarts", 0)),
        )
        self._workers[name] = now
        if before is not None and before.num_restarts != now.num_restarts:
            _log.warning("worker_restarted", worker=name, restarts=now.num_restarts)

    def _remove_temp_folder(self) -> None:
        if self._temp_folder is not None:
            shutil.rmtree(self._temp_folder, ignore_errors=True)


def workers_are_elsewhere(config: ClusterConfig) -> bool:
    """Tell whether workers may run on other machines: a foreign Ray cluster, and nobody pinned ``workers.host``."""
    return (
        config.runtime.kind == "ray"
        and config.runtime.address is not None
        and "host" not in config.workers.model_fields_set
    )


def require_safe_placement(config: ClusterConfig) -> None:
    """Raise ConfigError when workers on other machines would be open to all, or could not reach the registry."""
    if not workers_are_elsewhere(config):
        return
    if config.registry.redis_url is None and is_loopback(config.router.internal_host):
        raise ConfigError(
            f"router.internal_host is {config.router.internal_host}: workers of another machine can't announce"
            " themselves there",
            remedy="set it to an address that they reach, or registry.redis_url to a Redis that everybody reaches",
        )
    if config.workers.tls is None and not config.workers.insecure:
        raise ConfigError(
            "runtime.address names a Ray cluster, so every worker listens on its node's address, and workers.tls is not"
            " set",
            remedy="set workers.tls (`tandem certs init` makes a development set), or workers.insecure: true if the"
            " network is yours alone, or workers.host: 127.0.0.1 if every worker runs on this machine",
        )


def _with_token(path: Path) -> dict[str, str]:
    """Make the token without which nobody may use our Ray instance, and return the variables that name it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _ignore(worker: str, what: str) -> None:
    """Drop a status."""
