"""The controller as a detached Ray actor: Ray starts it again when its process or its node dies.

What it must know after a restart is in the cluster's registry; see `tandem.controller.live`. It outlives the driver
that made it, until that one ends it, or until it has been alone for ``_ALONE_S``.
"""

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import ray
import structlog

from tandem.cluster.control.program import run_controller
from tandem.cluster.programs.config import ControllerProgramConfig
from tandem.cluster.runtime.ray_actor import send_stderr_to
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging

_log = structlog.get_logger(__name__)
_ALONE_S = 900.0
_LOOK_S = 5.0
_AGAIN_S = 5.0
ACTOR_NAME = "tandem-controller"


class ControllerActor:
    """One life of the controller. The process ends when the program fails, so that Ray starts a new life."""

    def __init__(self, config_json: str, *, log_file: str) -> None:
        """Start the program and return at once; ``log_file`` takes this process's stderr, unless it is empty."""
        if log_file:
            send_stderr_to(Path(log_file))
        self._config = ControllerProgramConfig.model_validate_json(config_json)
        configure_logging(level=self._config.log_level, style=self._config.log_style, worker=self._config.controller_id)
        self._is_ready = False
        self._failure = ""
        self._seen_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._thread.start()

    def ping(self) -> dict[str, Any]:
        """Return how this life goes; also the sign that somebody still cares for it."""
        self._seen_s = time.monotonic()
        return {"pid": os.getpid(), "ready": self._is_ready, "failure": self._failure}

    def stop(self, grace_s: float) -> bool:
        """End the program; tell whether that was done in time."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(grace_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException:  # noqa: BLE001  # the process is of no use any more: Ray starts another
            _log.error("controller_crashed", exc_info=True)
            os._exit(1)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        watching = asyncio.create_task(self._leave_when_alone(), name="leave when alone")
        try:
            await self._control(self._stop)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _control(self, stop: asyncio.Event) -> None:
        """Run the program; what a person can mend, as a wrong policy file, is tried again until it is mended."""
        while not stop.is_set():
            try:
                await run_controller(self._config, stop, on_ready=self._on_ready)
            except TandemError as error:
                if str(error) != self._failure:  # said once, not every time
                    _log.error("controller_failed", problem=str(error), again_in_s=_AGAIN_S)
                self._failure, self._is_ready = str(error), False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await stop.wait()

    async def _leave_when_alone(self) -> None:
        while time.monotonic() - self._seen_s < _ALONE_S:  # noqa: ASYNC110  # silence has no event
            await asyncio.sleep(_LOOK_S)
        _log.warning("controller_alone", seconds=_ALONE_S)
        # Its creator is gone. Killing itself for good is the one way out that Ray does not mend.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _on_ready(self) -> None:
        self._is_ready, self._failure = True, ""
