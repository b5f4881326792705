"""`tandem top` on a real pseudo-terminal: what it draws, a change of size, and the terminal as it was in the end."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.cells import cell_len

from tandem.client import AsyncClient
from tandem.core.types import Role
from tandem.router.config import RouterConfig
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.router_cluster import Cluster, cluster

ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
HOME = "\x1b[H"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The terminal must be the one that controls the process: only then Ctrl-C and a new size become signals.
LAUNCH = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.executable, [sys.executable, '-m', 'tandem.cluster', *sys.argv[1:]])"
)


class Terminal:
    """A pseudo-terminal, a command on it, and everything that the command wrote."""

    def __init__(self, *, columns: int, rows: int) -> None:
        self._ours, self._its = pty.openpty()
        os.set_blocking(self._ours, False)
        self.resize(columns=columns, rows=rows)
        self.modes = termios.tcgetattr(self._its)
        self.written = ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *words: str) -> None:
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LAUNCH, *words, stdin=self._its, stdout=self._its, stderr=self._its, env=environment
        )

    def resize(self, *, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def frames(self) -> list[list[str]]:
        """What was drawn from the upper left corner on, as lines without colours."""
        drawn = self.written.split(HOME)[1:]
        return [ESCAPES.sub("", frame).replace("\r", "").split("\n") for frame in drawn]

    async def until(self, holds: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"not within {timeout_s:g} s; the terminal shows:\n{ESCAPES.sub('', self.written)[-3000:]}")

    async def drawn(self, *, columns: int, rows: int, after: int) -> None:
        """Wait for a frame, after so many others, that fills a screen of this size."""

        def filled() -> bool:
            late = self.frames()[after:]
            return any((max(map(cell_len, frame)), len(frame)) == (columns, rows) for frame in late)

        await self.until(filled)

    async def ended(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(20.0):
            status = await self._process.wait()
        await asyncio.sleep(0.1)  # the last of what it wrote
        return status

    def assert_as_it_was(self) -> None:
        """The first screen, a cursor, and typed characters that are shown."""
        assert self.written.rfind(LEFT) > self.written.rfind(ENTERED) >= 0
        assert self.written.rfind(SHOWN) > self.written.rfind(HIDDEN) >= 0
        assert termios.tcgetattr(self._its) == self.modes
        assert "Traceback" not in self.written

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._its)

    def _read(self) -> None:
        self.written += os.read(self._ours, 65536).decode("utf-8", "replace")


@asynccontextmanager
async def top(found: Cluster, *, columns: int = 110, rows: int = 40) -> AsyncIterator[Terminal]:
    terminal = Terminal(columns=columns, rows=rows)
    try:
        await terminal.start("top", "--address", found.router.internal_address, "--interval", "0.5")
        yield terminal
    finally:
        await terminal.close()


@asynccontextmanager
async def router(folder: Path) -> AsyncIterator[Cluster]:
    workers = [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]
    config = RouterConfig.model_validate({"port": 0, "admission": {"standard_ttft_s": 30.0}})
    async with cluster(folder, workers, config) as found:
        yield found


async def test_it_draws_the_cluster_follows_a_new_size_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    async with router(tmp_path) as found, top(found) as terminal:
        async with AsyncClient(found.router.address) as client:
            for _ in range(3):
                await client.generate("a b c", max_tokens=4)
        await terminal.until(lambda: any("100.0%" in line for frame in terminal.frames()[:-1] for line in frame))
        assert terminal.written.index(ENTERED) < terminal.written.index("prefill-0")
        shown = "\n".join(terminal.frames()[-2])  # the last one may be half drawn
        for word in (
            "prefill-0",
            "decode-0",
            "0 queued",
            "classes, last minute",
            "standard",
            "prefill : decode",
            "1 : 1",
        ):
            assert word in shown
        assert re.search(r"kept promises +│? *[·█▁]+ +│? *100\.0%", shown)
        for columns, rows in ((64, 20), (130, 50)):
            num_frames = len(terminal.frames())
            terminal.resize(columns=columns, rows=rows)
            await terminal.drawn(columns=columns, rows=rows, after=num_frames)
        terminal.press(b"q")
        assert await terminal.ended() == 0
        terminal.assert_as_it_was()


async def test_ctrl_c_and_other_keys(tmp_path: Path) -> None:
    async with router(tmp_path) as found, top(found) as terminal:
        await terminal.until(lambda: "decode-0" in terminal.written)
        terminal.press(b"xyz\x1b[A")
        num_frames = len(terminal.frames())
        await terminal.until(lambda: len(terminal.frames()) > num_frames + 1)
        assert "xyz" not in terminal.written, "keys are not shown"
        terminal.press(b"\x03")
        assert await terminal.ended() == 0
        terminal.assert_as_it_was()


async def test_a_router_that_ends_is_told_of_on_the_first_screen(tmp_path: Path) -> None:
    async with router(tmp_path) as found, top(found) as terminal:
        await terminal.until(lambda: "decode-0" in terminal.written)
        await found.router.stop(grace_s=0.0)
        assert await terminal.ended() == 1
        terminal.assert_as_it_was()
        assert terminal.written[terminal.written.rfind(LEFT) :].strip(), "the reason"
