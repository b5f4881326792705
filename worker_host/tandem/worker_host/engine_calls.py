"""Questions from the event loop to the engine thread: posted through the inbox, answered between forward steps."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tandem.core.errors import Unavailable
from tandem.worker_host.inbox import Inbox

Answer = TypeVar("Answer")


class EngineCalls:
    """Runs functions on the engine thread for whoever awaits them."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def post(self, do: Callable[[], None]) -> None:
        """Have it done there; nobody waits for it."""
        self._inbox.post(do)

    async def run(self, ask: Callable[[], Answer], *, timeout_s: float) -> Answer:
        """Return what ``ask`` returns there. Raises what it raises, and Unavailable after ``timeout_s``."""
        future: Future[Answer] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return  # nobody waits any more
            try:
                future.set_result(ask())
            except Exception as error:  # noqa: BLE001 - it is the asker's, and must not end the engine thread
                future.set_exception(error)

        self._inbox.post(answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Unavailable(
                f"the engine did not answer within {timeout_s:g} s", reason="ENGINE_BUSY", retry_after_s=1.0
            ) from None
