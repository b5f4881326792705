"""The thread tools of the services: a descriptor that wakes a poll, and a thread for callbacks and ticks."""

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)


class Waker:
    """Wakes a thread that polls ``fileno()``. ``wake`` may come from any thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_open = True

    def fileno(self) -> int:
        """Descriptor that is readable after ``wake``."""
        return self._fd

    def wake(self) -> None:
        """Make the descriptor readable; nothing happens after ``close``."""
        with self._lock:
            if self._is_open:
                os.eventfd_write(self._fd, 1)

    def drain(self) -> None:
        """Make it unreadable again."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close; idempotent."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._fd)


class CallbackThread(Protocol):
    """Where a service's callbacks run, one at a time and in order."""

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` soon. Any thread."""
        ...

    def close(self) -> None:
        """Stop after what was posted so far, and wait."""
        ...


ThreadFactory = Callable[[str, Callable[[], None], float], CallbackThread]
"""From a name, a tick and its period in seconds to a running thread."""


class ServiceThread:
    """Runs posted calls in order and ``tick`` every ``period_s``, on one thread.

    The callbacks of a service all come from here: never two at once, never from inside a call into the service, in the
    order in which things happened. They should be short; a slow one delays time-outs, nothing else.
    """

    def __init__(self, name: str, *, tick: Callable[[], None], period_s: float) -> None:
        self._tick = tick
        self._period_s = period_s
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @classmethod
    def ticking(cls, name: str, tick: Callable[[], None], period_s: float) -> "ServiceThread":
        """Make one; the service's default ``ThreadFactory``."""
        return cls(name, tick=tick, period_s=period_s)

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` soon. Any thread."""
        self._calls.put(call)

    def close(self) -> None:
        """Stop after what was posted so far, and wait (unless called from a callback)."""
        self._calls.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        next_tick_s = time.monotonic() + self._period_s
        while True:
            try:
                call = self._calls.get(timeout=max(0.0, next_tick_s - time.monotonic()))
            except queue.Empty:
                next_tick_s = time.monotonic() + self._period_s
                call = self._tick
            if call is None:
                return
            try:
                call()
            except Exception:  # noqa: BLE001  a callback's defect must not stop every other hand-over
                _log.exception("kv callback failed")
            if time.monotonic() >= next_tick_s:
                next_tick_s = time.monotonic() + self._period_s
                self._calls.put(self._tick)
