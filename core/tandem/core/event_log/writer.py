"""Writes one process life's events to its file, from any thread, without making any of them wait for the disk.

``record`` puts the event into a bounded buffer; a thread of the log's own encodes and writes what is there every 20 ms,
and at once after urgent events. What was handed to the kernel survives a SIGKILL: the loss is at most the last 20 ms or
so. When the buffer is full, events are dropped and one ``records_lost`` record stands where the first one is missing.
"""

import os
import threading
from collections import deque
from pathlib import Path
from typing import Protocol

import structlog

from tandem.core.clock import Clock, MonotonicClock
from tandem.core.errors import EnvironmentProblem
from tandem.core.event_log.events import URGENT, Event, LogClosed, LogOpened, ProcessPaused, RecordsLost
from tandem.core.event_log.record import LOG_VERSION, LineEncoder, ProcessLife, file_name

_log = structlog.get_logger(__name__)
_FLUSH_PERIOD_S = 0.02
_MAX_PENDING = 1 << 16
_BATCH = 256  # events encoded between two looks at the clock of other threads (each write lets them run)
_PAUSE_S = 0.25  # the log's thread wakes each 20 ms; when it comes this much later, the whole process stood still
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class EventSink(Protocol):
    """Where events go: an ``EventLog``, or a checker's or a test's list."""

    def record(self, event: Event) -> None:
        """Take an event. Safe from any thread; never waits, never raises."""
        ...


class _Loss:
    """Stands in the buffer for events that found no room."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class EventLog:
    """The log of one process life. ``close`` writes what is left and the closing record."""

    def __init__(
        self,
        path: Path,
        life: ProcessLife,
        *,
        clock: Clock | None = None,
        max_pending: int = _MAX_PENDING,
        flush_period_s: float = _FLUSH_PERIOD_S,
    ) -> None:
        """Open the file, which must not exist. Raises OSError."""
        self.path = path
        self.num_lost = 0
        self._now_s = (clock or MonotonicClock()).now_s
        self._max_pending = max_pending
        self._flush_period_s = flush_period_s
        self._encoder = LineEncoder(life)
        self._pending: deque[tuple[float, Event | _Loss]] = deque()
        self._lock = threading.Lock()
        self._loss: _Loss | None = None
        self._wake = threading.Event()
        self._is_closing = False
        self._is_broken = False
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.record(LogOpened(version=LOG_VERSION, host=_boot_id(), pid=os.getpid()))
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self._thread.start()

    def record(self, event: Event) -> None:
        """Take an event. Safe from any thread; never waits, never raises."""
        if len(self._pending) >= self._max_pending:
            self._lose()
            return
        self._pending.append((self._now_s(), event))
        if type(event) in URGENT:
            self._wake.set()

    def flush(self) -> None:
        """Ask for what is there to be written now; does not wait."""
        self._wake.set()

    def close(self) -> None:
        """Write everything, then the closing record. Events that come later are not written. Idempotent."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        self._wake.set()
        self._thread.join()
        self._drain()
        self._pending.append((self._now_s(), LogClosed()))
        self._drain()
        os.close(self._descriptor)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _lose(self) -> None:
        """Count one loss, at the place in the order where the first one happened."""
        with self._lock:
            if self._loss is None:
                self._loss = _Loss()
                self._pending.append((self._now_s(), self._loss))
            self._loss.count += 1
            self.num_lost += 1

    def _run(self) -> None:
        last_s = self._now_s()
        while not self._is_closing:
            self._wake.wait(self._flush_period_s)
            self._wake.clear()
            woke_s = self._now_s()
            late_s = woke_s - last_s - self._flush_period_s
            if late_s > _PAUSE_S:
                self.record(ProcessPaused(seconds=late_s))
            try:
                self._drain()
            except Exception:  # noqa: BLE001  loop shell: the process goes on without its log
                _log.exception("event log failed", path=str(self.path))
                self._is_broken = True
            last_s = self._now_s()

    def _drain(self) -> None:
        """Write everything that is there now, a batch at a time."""
        for _ in range(len(self._pending) // _BATCH + 1):
            buffer = bytearray()
            for _ in range(min(len(self._pending), _BATCH)):
                at_s, event = self._pending.popleft()
                self._encoder.append(buffer, at_s, self._closed(event) if isinstance(event, _Loss) else event)
            if buffer:
                self._write(buffer)

    def _closed(self, loss: _Loss) -> RecordsLost:
        """The loss has its place in the file now: the next one is another."""
        with self._lock:
            if self._loss is loss:
                self._loss = None
            return RecordsLost(count=loss.count)

    def _write(self, buffer: bytearray) -> None:
        if self._is_broken:
            return
        view = memoryview(buffer)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            # Half a line may stand there; nothing may follow it, or it would look like damage in the middle.
            self._is_broken = True
            _log.error("event log can't be written any more", path=str(self.path), problem=error.strerror)


def open_event_log(folder: Path, life: ProcessLife, *, clock: Clock | None = None) -> EventLog:
    """Open the log of ``life`` in ``folder``, which is made when it is missing. Raises EnvironmentProblem."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return EventLog(folder / file_name(life), life, clock=clock)
    except OSError as error:
        raise EnvironmentProblem(
            f"the event log can't be written to {folder}: {error.strerror}",
            remedy="set event_log to a folder that this process may write to, or leave it out",
        ) from error


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
