"""Calls that need Ray's head: made in order, in a thread of their own.

While the head is away such a call blocks, for a minute or for as long as Ray's nodes wait for a head. Whoever watches
the workers and has to let them drain can't wait with it.
"""

import queue
import threading
import time
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)
_TRIES = 10
_PAUSE_S = 1.0


class HeadCalls:
    """The calls of one driver. `do` from any thread; `finish` waits for them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()
        self._num_open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def do(self, what: str, call: Callable[[], None]) -> None:
        """Let ``call`` be made after those before it; what fails is tried again, and given up after some tries."""
        with self._changed:
            self._num_open += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="calls to ray's head", daemon=True)
                self._thread.start()
        self._calls.put((what, call))

    def finish(self, timeout_s: float) -> bool:
        """Wait until all have been made; tell whether that was so in time. The thread stays: it may be blocked."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_open == 0, timeout_s)

    def _run(self) -> None:
        while True:
            self._make(*self._calls.get())
            with self._changed:
                self._num_open -= 1
                self._changed.notify_all()

    def _make(self, what: str, call: Callable[[], None]) -> None:
        for number in range(1, _TRIES + 1):
            try:
                call()
            except Exception as error:  # noqa: BLE001  # Ray raises many kinds; the calls after this one still count
                problem = (str(error).strip().splitlines() or [""])[0]
                _log.warning("ray_call_failed", what=what, number=number, kind=type(error).__name__, problem=problem)
                time.sleep(_PAUSE_S)
            else:
                return
