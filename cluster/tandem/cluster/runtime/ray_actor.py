"""A worker as a Ray actor: the same worker program, in a thread with an event loop of its own.

Only control goes through the actor's methods: who it is, how its start goes, stop. Prompts, tokens and KV never do.
"""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.util
import structlog

from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.core.errors import SetupError, TandemError
from tandem.core.log import configure_logging

if TYPE_CHECKING:
    from tandem.cluster.programs.worker_program import ReadyWorker

_log = structlog.get_logger(__name__)
_FAILURE_SHOWN_S = 10.0  # how long a failed start waits to be asked why; also the pause before Ray tries again


class WorkerActor:
    """Runs one life of a worker. The process ends when the program fails, so that Ray starts a new life."""

    def __init__(self, config_json: str, *, announce_node_address: bool, log_file: str) -> None:
        """Start the program and return at once; ``log_file`` takes this process's stderr, unless it is empty."""
        if log_file:
            send_stderr_to(Path(log_file))
        config = WorkerProgramConfig.model_validate_json(config_json)
        if announce_node_address:
            config = config.model_copy(update={"host": str(ray.util.get_node_ip_address())})  # type: ignore[no-untyped-call]
        configure_logging(level=config.log_level, style=config.log_style, worker=config.worker_id)
        self._config = config
        self._detail = "starting"
        self._epoch = ""
        self._failure: dict[str, str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="worker program", daemon=True)
        self._thread.start()

    def ping(self) -> dict[str, Any]:
        """Return how this life goes."""
        return {
            "pid": os.getpid(),
            "epoch": self._epoch,
            "ready": bool(self._epoch),
            "detail": self._detail,
            "failure": self._failure,
        }

    def stop(self, grace_s: float) -> bool:
        """Drain and end the program; tell whether that was done in time."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(grace_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except TandemError as error:
            remedy = error.remedy if isinstance(error, SetupError) else ""
            problem = error.problem if isinstance(error, SetupError) else error.message
            self._failure = {"problem": problem, "remedy": remedy, "reason": error.reason}
            _log.error("worker_failed", problem=problem)
            time.sleep(_FAILURE_SHOWN_S)
            os._exit(1)
        except BaseException:  # noqa: BLE001  # the process is of no use any more: Ray starts another
            _log.error("worker_crashed", exc_info=True)
            os._exit(1)

    async def _serve(self) -> None:
        # Here and not above: Ray's driver loads this module too, and has no use for torch.
        from tandem.cluster.programs.worker_program import WorkerProgram  # noqa: PLC0415
        from tandem.worker_host.assembly import build_engine  # noqa: PLC0415

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        program = WorkerProgram(self._config, build=build_engine)
        await program.run(self._stop, on_status=self._on_status, on_ready=self._on_ready)

    def _on_status(self, detail: str) -> None:
        self._detail = detail

    def _on_ready(self, worker: "ReadyWorker") -> None:
        self._epoch = str(worker.info.epoch)
        self._detail = "ready"


def send_stderr_to(path: Path) -> None:
    """Let this process write its log into a file of its own."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 2)
    os.close(descriptor)
