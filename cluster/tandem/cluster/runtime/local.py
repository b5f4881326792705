"""Workers as plain subprocesses of this one: no Ray, no cluster manager."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from tandem.cluster.processes.child import ChildSpec
from tandem.cluster.processes.service import Service
from tandem.cluster.programs.config import ControllerProgramConfig, WorkerProgramConfig
from tandem.cluster.runtime.backoff import Backoff
from tandem.cluster.runtime.base import OnStatus, WorkerProcess
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem, SetupError

_log = structlog.get_logger(__name__)
_MODULE = "tandem.cluster.programs.worker_process"


class LocalRuntime:
    """Supervises subprocesses. A worker that dies is started again, with growing pauses when it keeps dying."""

    def __init__(
        self,
        *,
        log_folder: Path,
        module: str = _MODULE,
        variables: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """``variables`` names further environment variables of a worker, by its id."""
        self._log_folder = log_folder
        self._module = module
        self._variables = variables
        self._slots: list[_Slot] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._on_status: OnStatus = _ignore

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        """Start all workers at once; raises the first one's SetupError, and nothing is left then."""
        self._on_status = on_status
        self._slots = [_Slot(self._spec(config), on_status) for config in workers]
        try:
            await asyncio.gather(*(slot.service.start(timeout_s) for slot in self._slots))
        except BaseException:
            await self.stop(grace_s=1.0)
            raise
        for slot in self._slots:
            self._keep(slot, timeout_s)

    async def add(self, worker: WorkerProgramConfig, *, timeout_s: float) -> None:
        """Start one more worker and wait until it is ready."""
        slot = _Slot(self._spec(worker), self._on_status)
        self._slots.append(slot)
        try:
            await slot.service.start(timeout_s)
        except BaseException:
            self._slots.remove(slot)
            await slot.service.stop(grace_s=1.0)
            raise
        self._keep(slot, timeout_s)

    async def remove(self, worker_id: str, *, grace_s: float) -> None:
        """Drain and end one worker; it is not started again."""
        for slot in [slot for slot in self._slots if slot.service.spec.name == worker_id]:
            self._slots.remove(slot)
            task = self._tasks.pop(worker_id, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await slot.service.stop(grace_s=grace_s)

    async def host_controller(self, program: ControllerProgramConfig) -> bool:
        """Leave it to the caller."""
        return False

    async def stop(self, *, grace_s: float) -> None:
        """Drain and end every worker, all at once."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(slot.service.stop(grace_s=grace_s) for slot in self._slots))

    async def wait(self) -> SetupError:
        """Never return: this runtime starts its workers again by itself."""
        await asyncio.Event().wait()
        return EnvironmentProblem("unreachable")

    def processes(self) -> tuple[WorkerProcess, ...]:
        """Return one entry per slot."""
        return tuple(slot.describe() for slot in self._slots)

    def kill(self) -> None:
        """End every worker now, without a drain."""
        for slot in self._slots:
            slot.service.kill()

    def _keep(self, slot: "_Slot", timeout_s: float) -> None:
        name = slot.service.spec.name
        self._tasks[name] = asyncio.create_task(slot.keep_filled(timeout_s), name=f"keep {name}")

    def _spec(self, config: WorkerProgramConfig) -> ChildSpec:
        return ChildSpec(
            name=config.worker_id,
            module=self._module,
            config_json=config.model_dump_json(),
            log_file=self._log_folder / f"{config.worker_id}.log",
            environment={
                **child_environment(num_threads=config.engine.num_threads),
                **self._variables(config.worker_id),
            },
        )


class _Slot:
    """One worker's place, kept filled."""

    def __init__(self, spec: ChildSpec, on_status: OnStatus) -> None:
        self._on_status = on_status
        self.num_restarts = 0
        self.service = Service(spec, on_event=self._on_event)

    async def keep_filled(self, start_timeout_s: float) -> None:
        """Start the worker again whenever it ends; a start that fails counts as an end."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            error = await self.service.wait()
            pause_s = backoff.after(lived_s=loop.time() - began_s)
            _log.warning("worker_died", worker=self.service.spec.name, problem=error.problem, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)
            self.num_restarts += 1
            try:
                await self.service.start(start_timeout_s)
            except SetupError as problem:
                _log.warning("worker_restart_failed", worker=self.service.spec.name, problem=problem.problem)

    def describe(self) -> WorkerProcess:
        """Return how it is now."""
        child = self.service.child
        return WorkerProcess(
            worker_id=self.service.spec.name,
            pid=child.pid if child else None,
            is_running=child is not None and child.returncode is None,
            num_restarts=self.num_restarts,
        )

    def _on_event(self, status: dict[str, Any]) -> None:
        self._on_status(self.service.spec.name, str(status.get("detail", status.get("event", ""))))


def _ignore(worker: str, what: str) -> None:
    """Drop a status."""
