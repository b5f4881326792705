"""SIGINT and SIGTERM: the first asks for a drain, the second ends everything at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_INTERRUPTED = 130


class Interrupted(Exception):  # not an error: a person wanted it
    """Somebody ended the work before it was done."""


class Interrupts:
    """Use as a context manager inside a running loop. ``stop`` is set by the first signal."""

    def __init__(self, *, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self.stop = asyncio.Event()
        self._on_first = on_first
        self._on_second = on_second

    def __enter__(self) -> Self:
        """Take the signals over."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    async def unless_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run ``work``; when the stop comes first, cancel it, let it clean up, and raise Interrupted."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        either = asyncio.Event()
        task.add_done_callback(lambda _: either.set())
        stopped.add_done_callback(lambda _: either.set())
        try:
            await either.wait()
            if not task.done():
                raise Interrupted
            return task.result()
        finally:
            for waiting in (task, stopped):
                waiting.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    def _on_signal(self) -> None:
        if self.stop.is_set():
            self._on_second()
            os._exit(EXIT_INTERRUPTED)
        self.stop.set()
        self._on_first()
