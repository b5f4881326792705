"""What the supervisor asks of a runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.cluster.programs.config import ControllerProgramConfig, WorkerProgramConfig
from tandem.core.errors import SetupError

OnStatus = Callable[[str, str], None]
"""Called with (worker id, what it is doing) while workers start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """One worker as its runtime sees it."""

    worker_id: str
    pid: int | None
    is_running: bool
    num_restarts: int


class WorkerRuntime(Protocol):
    """Starts workers, starts a dead one again with a new epoch, stops them all."""

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        """Start all workers and wait until each is ready.

        Raises SetupError with the worker's own words when one can't start; nothing is left then.
        """
        ...

    async def add(self, worker: WorkerProgramConfig, *, timeout_s: float) -> None:
        """Start one more worker and wait until it is ready. Raises SetupError; nothing of it is left then."""
        ...

    async def remove(self, worker_id: str, *, grace_s: float) -> None:
        """Let one worker finish what it runs, at most ``grace_s``, then end it for good. Unknown ones are no error."""
        ...

    async def host_controller(self, program: ControllerProgramConfig) -> bool:
        """Run the controller where the workers run; False: the caller must. Raises SetupError."""
        ...

    async def wait(self) -> SetupError:
        """Return only when the runtime itself has ended and no worker can be started any more."""
        ...

    async def stop(self, *, grace_s: float) -> None:
        """Let workers finish what they run, at most ``grace_s``, then end them. Idempotent."""
        ...

    def kill(self) -> None:
        """End everything now, without a drain."""
        ...

    def processes(self) -> tuple[WorkerProcess, ...]:
        """Return what runs now."""
        ...
