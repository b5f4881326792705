"""The parent's side of one subprocess.

The child gets its configuration as the first line on stdin; stdin then stays open as a *lifeline*: when it closes,
because we closed it or because we died, the child drains and exits. It reports on stdout, one JSON object a line. It
runs in a session of its own, so that Ctrl-C reaches only us and we decide the order of the end.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.core.errors import EnvironmentProblem

_MAX_STATUS_BYTES = 1 << 20
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start."""

    name: str
    module: str  # its `main()` is run
    config_json: str  # one line
    log_file: Path
    environment: Mapping[str, str]


class ChildProcess:
    """A started subprocess. Use `start`, then `statuses`, then always `stop`."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self._process = process
        self._reaping = asyncio.create_task(self._reap(), name=f"reap {spec.name}")

    @classmethod
    async def start(cls, spec: ChildSpec) -> "ChildProcess":
        """Start it. Raises EnvironmentProblem when the log file can't be written."""
        try:
            spec.log_file.parent.mkdir(parents=True, exist_ok=True)
            log = os.open(spec.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise EnvironmentProblem(f"{spec.log_file}: {error.strerror}", remedy="choose a writable folder") from error
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a stray file in the caller's folder must not shadow a module
                "-m",
                "tandem.cluster.processes.program",
                spec.module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(spec.environment),
                start_new_session=True,
                limit=_MAX_STATUS_BYTES,
            )
        finally:
            os.close(log)
        child = cls(spec, process)
        if process.stdin is not None:
            process.stdin.write(spec.config_json.encode() + b"\n")
            try:
                with contextlib.suppress(ConnectionError):  # it died at once: its exit status will tell
                    await process.stdin.drain()
            except BaseException:
                child.signal(signal.SIGKILL)
                raise
        return child

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.returncode

    async def statuses(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each status object the child reports; ends when it closes stdout (normally by exiting)."""
        if self._process.stdout is None:
            return
        async for line in self._process.stdout:
            try:
                status = json.loads(line)
            except ValueError:
                continue  # a library printed something
            if isinstance(status, dict):
                yield status

    async def wait(self) -> int:
        """Wait for the exit status; what the child itself had started is ended then."""
        return await asyncio.shield(self._reaping)

    async def stop(self, *, grace_s: float) -> int:
        """Close the lifeline, wait, then terminate, then kill. Returns the exit status."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.close()
        for wait_s, last_resort in ((grace_s, signal.SIGTERM), (5.0, signal.SIGKILL)):
            try:
                async with asyncio.timeout(wait_s):
                    return await self.wait()
            except TimeoutError:
                self.signal(last_resort)
        return await self.wait()

    async def send_line(self, line: str) -> None:
        """Write one line to the child, which must read its lifeline. A child that is gone is no error."""
        if self._process.stdin is None or self._process.stdin.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child's whole session; no error when it is gone already."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    async def _reap(self) -> int:
        """Return the exit status, once nothing of the child's session is left.

        asyncio's own wait also waits for the pipes, which a grandchild may hold open for ever; the exit status is there
        before.
        """
        while self._process.returncode is None:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(_POLL_S)
        self.signal(signal.SIGKILL)
        return self._process.returncode

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of its log, for an error message."""
        try:
            data = self.spec.log_file.read_bytes()[-16384:]
        except OSError:
            return ""
        return "\n".join(data.decode("utf-8", errors="replace").splitlines()[-num_lines:])
