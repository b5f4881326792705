"""A child that serves: started until it says ``ready``, then followed; its later statuses go to one callback."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from tandem.cluster.processes.child import ChildProcess, ChildSpec
from tandem.cluster.processes.failure import error_from_exit, error_from_status
from tandem.core.errors import EnvironmentProblem, SetupError

OnEvent = Callable[[dict[str, Any]], None]


class Service:
    """One serving child. Use `start`, then `wait` or `stop`; `stop` is always safe."""

    def __init__(self, spec: ChildSpec, *, on_event: OnEvent | None = None) -> None:
        self.spec = spec
        self.child: ChildProcess | None = None
        self._on_event = on_event
        self._following: asyncio.Task[None] | None = None
        self._last_said = ""

    async def start(self, timeout_s: float) -> dict[str, Any]:
        """Start it and return its ``ready`` status. Raises SetupError in its own words; nothing is left then."""
        self._last_said = ""
        self.child = await ChildProcess.start(self.spec)
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._following = asyncio.create_task(self._follow(self.child, ready), name=f"follow {self.spec.name}")
        try:
            # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the result.
            async with asyncio.timeout(timeout_s):
                return await ready
        except TimeoutError:
            await self.stop(grace_s=1.0)
            raise EnvironmentProblem(
                f"{self.spec.name} was not ready after {timeout_s:g} s: {self._last_said or 'it said nothing'}",
                remedy=f"see {self.spec.log_file}",
            ) from None
        except BaseException:
            await self.stop(grace_s=1.0)
            raise

    async def wait(self) -> SetupError:
        """Wait until it ends; return the error that says how."""
        if self.child is None:
            return EnvironmentProblem(f"{self.spec.name} was never started")
        code = await self.child.wait()
        return error_from_exit(self.spec.name, code, self.child.log_tail(), self.spec.log_file)

    async def stop(self, *, grace_s: float) -> None:
        """Let it finish for ``grace_s``, then end it. Idempotent."""
        if self.child is not None:
            await self.child.stop(grace_s=grace_s)
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def kill(self) -> None:
        """End it now."""
        if self.child is not None and self.child.returncode is None:
            self.child.signal(signal.SIGKILL)

    async def _follow(self, child: ChildProcess, ready: asyncio.Future[dict[str, Any]]) -> None:
        failure: SetupError | None = None
        async for status in child.statuses():
            self._last_said = str(status.get("detail", self._last_said))
            if status.get("event") == "failed":
                failure = error_from_status(self.spec.name, status, self.spec.log_file)
            elif status.get("event") == "ready" and not ready.done():
                ready.set_result(status)
            elif self._on_event is not None:
                self._on_event(status)
        if not ready.done():
            code = await child.wait()
            exited = error_from_exit(self.spec.name, code, child.log_tail(), self.spec.log_file)
            if not ready.done():
                ready.set_exception(failure or exited)
