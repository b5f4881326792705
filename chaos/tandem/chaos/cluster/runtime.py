"""Starts workers with the tagged engine where the supervisor would start real ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tandem.chaos.cluster.options import ChaosOptions, WorkerChaos
from tandem.chaos.tagged.settings import TaggedWorkerConfig
from tandem.cluster.programs.config import ControllerProgramConfig, WorkerProgramConfig
from tandem.cluster.runtime.base import OnStatus, WorkerProcess
from tandem.cluster.runtime.local import LocalRuntime
from tandem.core.errors import SetupError


class TaggedRuntime:
    """A `WorkerRuntime`: the local one, with another program and what is special about single workers."""

    def __init__(self, options: ChaosOptions, *, log_folder: Path, evidence_folder: Path) -> None:
        self._options = options
        self._evidence_folder = evidence_folder
        self._local = LocalRuntime(
            log_folder=log_folder,
            module=options.worker_module,
            variables=lambda worker: self._special(worker).variables,
        )

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        """Start all workers and wait until each is ready."""
        tagged = [self._tagged(config) for config in workers]
        await self._local.start(tagged, on_status=on_status, timeout_s=timeout_s)

    async def add(self, worker: WorkerProgramConfig, *, timeout_s: float) -> None:
        """Start one more worker."""
        await self._local.add(self._tagged(worker), timeout_s=timeout_s)

    async def remove(self, worker_id: str, *, grace_s: float) -> None:
        """Drain and end one worker."""
        await self._local.remove(worker_id, grace_s=grace_s)

    async def host_controller(self, program: ControllerProgramConfig) -> bool:
        """Leave it to the caller."""
        return await self._local.host_controller(program)

    async def wait(self) -> SetupError:
        """Never return: workers are started again."""
        return await self._local.wait()

    async def stop(self, *, grace_s: float) -> None:
        """Drain and end every worker."""
        await self._local.stop(grace_s=grace_s)

    def kill(self) -> None:
        """End every worker now."""
        self._local.kill()

    def processes(self) -> tuple[WorkerProcess, ...]:
        """What runs now."""
        return self._local.processes()

    def _special(self, worker_id: str) -> WorkerChaos:
        return self._options.workers.get(worker_id, self._options.all_workers)

    def _tagged(self, config: WorkerProgramConfig) -> TaggedWorkerConfig:
        special = self._special(config.worker_id)
        fields: Mapping[str, object] = {
            **config.model_dump(),
            "engine": {**config.engine.model_dump(), "profile_budget_s": 0.0, **special.engine},
            "cost": special.cost or self._options.cost,
            "evidence_folder": self._evidence_folder,
            "port": special.port,
            "advertise_address": special.advertise_address,
            "kv_port": special.kv_port,
            "kv_advertise_address": special.kv_advertise_address,
            **special.program,
        }
        return TaggedWorkerConfig.model_validate(fields)
