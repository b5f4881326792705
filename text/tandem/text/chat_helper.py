"""One template process as seen by its server: start, ask, kill. Not a pool; `tandem.text.chat_renderer` is.

Every wait here has a deadline. A helper that missed one, or whose caller was cancelled, has an answer under way that
nobody waits for; it must be killed, never asked again.
"""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import TypeVar

import msgspec

from tandem.text.chat_template import ChatTemplate
from tandem.text.chat_wire import HEADER, Hello, Outcome, Render, Reply, Setup, frame

_END_LIMIT_S = 5.0

_Message = TypeVar("_Message", Hello, Reply)


class HelperFailed(Exception):
    """The process ended, or wrote something that is no reply."""


class ChatHelper:
    """A running template process. ``pid`` is its process id."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(
        cls, template: ChatTemplate, *, start_limit_s: float, compile_limit_s: float, render_limit_s: float
    ) -> "ChatHelper":
        """Start a process and give it the template.

        Raises:
            HelperFailed: it can't start, or the template does not compile.
            TimeoutError: start or compilation missed its limit.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a jinja2.py in the current folder must not be imported
                "-m",
                "tandem.text.chat_process",
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                # Our modules, and none of our secrets.
                env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        except OSError as error:
            raise HelperFailed(f"can't start the template process: {error.strerror}") from None
        helper = cls(process)
        try:
            async with asyncio.timeout(start_limit_s):
                await helper._receive(Hello, 1024)
            setup = Setup(template.source, template.special_tokens, compile_limit_s, render_limit_s)
            async with asyncio.timeout(compile_limit_s):
                await helper._send(setup)
                reply = await helper._receive(Reply, 64 * 1024)
            if reply.outcome is not Outcome.OK:
                raise HelperFailed(reply.text)
        except BaseException:
            await helper.kill()
            raise
        return helper

    @property
    def alive(self) -> bool:
        """False once the system has reported the process's end."""
        return self._process.returncode is None

    async def render(self, request: Render, *, limit_s: float, max_bytes: int) -> Reply:
        """Ask for one text of at most ``max_bytes``.

        Raises:
            HelperFailed, TimeoutError: kill the helper after either.
        """
        async with asyncio.timeout(limit_s):
            await self._send(request)
            return await self._receive(Reply, max_bytes + 1024)

    async def kill(self) -> None:
        """End the process now and wait until the system has taken it back."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._reap()

    async def close(self) -> None:
        """Let the process end by itself; kill it if it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_LIMIT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        else:
            await self._reap()

    async def _reap(self) -> None:
        # Reading to the end and closing our side lets asyncio close its transport before the loop goes away.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_END_LIMIT_S):
                if self._process.stdin is not None:
                    self._process.stdin.close()
                if self._process.stdout is not None:
                    while await self._process.stdout.read(1 << 16):
                        pass
                await self._process.wait()

    async def _send(self, message: Setup | Render) -> None:
        if self._process.stdin is None:
            raise HelperFailed("the template process has no input")
        try:
            self._process.stdin.write(frame(message))
            await self._process.stdin.drain()
        except OSError:
            raise HelperFailed("the template process ended") from None

    async def _receive(self, kind: type[_Message], max_bytes: int) -> _Message:
        if self._process.stdout is None:
            raise HelperFailed("the template process has no output")
        try:
            (size,) = HEADER.unpack(await self._process.stdout.readexactly(HEADER.size))
            if size > max_bytes:
                raise HelperFailed("the template process sent more than it may")
            return msgspec.msgpack.decode(await self._process.stdout.readexactly(size), type=kind)
        except asyncio.IncompleteReadError:
            raise HelperFailed("the template process ended") from None
        except msgspec.DecodeError:
            raise HelperFailed("the template process sent no reply") from None
