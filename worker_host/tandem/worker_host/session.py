"""One attached router: the asyncio side of its stream."""

import asyncio
from collections.abc import AsyncIterator, Callable

from tandem.core.messages import WorkerMessage

_MAX_WAITING_MESSAGES = 4096


class SlowRouter(Exception):
    """The router does not read what it asked for; its stream is ended so that memory stays bounded."""


class RouterSession:
    """Carries messages from the worker's threads to one router's stream, in order and bounded in number.

    ``send`` is safe from any thread and never waits: decoding must not stop because a router is slow. ``on_overrun`` is
    called once, on the loop's thread, when too many messages wait: whoever does not read gets no more computed.
    """

    def __init__(
        self, session_id: str, loop: asyncio.AbstractEventLoop, *, on_overrun: Callable[[], None] = lambda: None
    ) -> None:
        self.session_id = session_id
        self._loop = loop
        self._on_overrun = on_overrun
        self._queue: asyncio.Queue[WorkerMessage | None] = asyncio.Queue()  # None = the end
        self._is_overrun = False
        self._is_closed = False

    def send(self, message: WorkerMessage) -> None:
        """Queue a message; drops it when the stream has ended."""
        try:
            self._loop.call_soon_threadsafe(self._put, message)
        except RuntimeError:
            return  # the loop has closed: the process is ending

    def close(self) -> None:
        """Take no more messages. Loop thread only."""
        self._is_closed = True

    def end(self) -> None:
        """Let ``messages`` end after what is queued. Loop thread only."""
        self._queue.put_nowait(None)

    def _put(self, message: WorkerMessage) -> None:
        # After an overrun nothing more is kept: the stream is lost, and a router that never reads again would never
        # get to hear of it.
        if self._is_closed or self._is_overrun:
            return
        self._queue.put_nowait(message)
        if self._queue.qsize() > _MAX_WAITING_MESSAGES:
            self._is_overrun = True
            self._on_overrun()

    async def messages(self) -> AsyncIterator[WorkerMessage]:
        """Yield messages as they come, until `end`. Raises SlowRouter when too many wait."""
        while (message := await self._queue.get()) is not None:
            if self._is_overrun:
                raise SlowRouter(f"{self._queue.qsize()} messages wait for the router")
            yield message
