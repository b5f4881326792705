"""Workers as plain subprocesses of this one: no Ray, no cluster manager."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from tandem.cluster.processes.child import ChildProcess, ChildSpec
from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.cluster.runtime.base import OnStatus, WorkerProcess
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem

_log = structlog.get_logger(__name__)
_MODULE = "tandem.cluster.programs.worker_process"
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 15.0
_HEALTHY_S = 30.0  # a worker that lived this long starts again without waiting


class _Slot:
    """One worker's place: its present process and the task that keeps it filled."""

    def __init__(self, config: WorkerProgramConfig, log_folder: Path) -> None:
        self.config = config
        self.child: ChildProcess | None = None
        self.num_restarts = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.spec = ChildSpec(
            name=config.worker_id,
            module=_MODULE,
            config_json=config.model_dump_json(),
            log_file=log_folder / f"{config.worker_id}.log",
            environment=child_environment(num_threads=config.engine.num_threads),
        )


class LocalRuntime:
    """Supervises subprocesses. A worker that dies is started again, with growing pauses when it keeps dying."""

    def __init__(self, *, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._slots: list[_Slot] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        """Start all workers at once; raises EnvironmentProblem with a dead worker's last words."""
        self._slots = [_Slot(config, self._log_folder) for config in workers]
        for slot in self._slots:
            task = asyncio.create_task(self._keep_filled(slot, on_status), name=f"worker {slot.config.worker_id}")
            self._tasks.add(task)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(slot.ready for slot in self._slots))
        except TimeoutError:
            late = [slot.config.worker_id for slot in self._slots if not slot.ready.done()]
            await self.stop(grace_s=1.0)
            raise EnvironmentProblem(
                f"not ready after {timeout_s:.0f} s: {', '.join(late)}",
                remedy=f"look at the logs in {self._log_folder}, or raise runtime.start_timeout_s",
            ) from None
        except EnvironmentProblem:
            await self.stop(grace_s=1.0)
            raise

    async def stop(self, *, grace_s: float) -> None:
        """Drain and end every worker, all at once."""
        self._is_stopping = True
        children = [slot.child for slot in self._slots if slot.child is not None]
        await asyncio.gather(*(child.stop(grace_s=grace_s) for child in children))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def processes(self) -> tuple[WorkerProcess, ...]:
        """Return one entry per slot."""
        return tuple(
            WorkerProcess(
                worker_id=slot.config.worker_id,
                pid=slot.child.pid if slot.child else None,
                is_running=slot.child is not None and slot.child.returncode is None,
                num_restarts=slot.num_restarts,
            )
            for slot in self._slots
        )

    async def _keep_filled(self, slot: _Slot, on_status: OnStatus) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._is_stopping:
            began_s = asyncio.get_running_loop().time()
            await self._run_once(slot, on_status)
            if self._is_stopping:
                return
            if not slot.ready.done():
                return  # it never came up: `start` was told why and gives up
            if asyncio.get_running_loop().time() - began_s > _HEALTHY_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.warning("worker_died", worker=slot.config.worker_id, restart_in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
            slot.num_restarts += 1

    async def _run_once(self, slot: _Slot, on_status: OnStatus) -> None:
        last_words = ""
        child = slot.child = await ChildProcess.start(slot.spec)
        async for status in child.statuses():
            event = str(status.get("event", ""))
            if event == "ready":
                if not slot.ready.done():
                    slot.ready.set_result(None)
            elif event == "failed":
                last_words = str(status.get("message", ""))
            else:
                on_status(slot.config.worker_id, str(status.get("detail", event)))
        code = await child.wait()
        if not slot.ready.done() and not self._is_stopping:
            words = last_words or child.log_tail(6) or f"exit status {code}"
            slot.ready.set_exception(
                EnvironmentProblem(
                    f"{slot.config.worker_id} could not start: {words}", remedy=f"see {slot.spec.log_file}"
                )
            )
