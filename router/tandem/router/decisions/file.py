"""Files of decisions: one JSON object a line, written by a thread of their own, put aside when they are full.

``put`` never waits: it adds to a bounded queue, and what finds no room is counted and missing. The same goes for what
the disk refuses; the file is tried again with the next batch, so a disk that was full for a while costs those lines and
no others. What was handed to the kernel survives a kill. Half a line, where a disk filled up, ends with the next one.
"""

import os
import threading
from collections import deque
from pathlib import Path

import msgspec
import structlog

from tandem.core.decisions import Decision

_log = structlog.get_logger(__name__)
_PERIOD_S = 0.2
_BATCH = 64  # lines encoded before other threads get a turn
MAX_QUEUED = 8192


class DecisionFile:
    """The file being written, ``<name>.jsonl``, and older ones: ``<name>.1.jsonl`` is the youngest of those."""

    def __init__(
        self, folder: Path, name: str, *, max_bytes: int, max_files: int, max_queued: int = MAX_QUEUED
    ) -> None:
        """Make the folder and open the file. Raises OSError."""
        self.num_dropped = 0
        self._folder, self._name = folder, name
        self._max_bytes, self._max_files, self._max_queued = max_bytes, max_files, max_queued
        self._encoder = msgspec.json.Encoder()
        self._queue: deque[Decision] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._is_failing = False
        self._is_torn = False  # the last line may be half there
        self._descriptor: int | None = None
        self._num_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._open()
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file being written."""
        return self._path(0)

    def put(self, decision: Decision) -> None:
        """Take one; never waits, never raises."""
        if len(self._queue) >= self._max_queued:
            self.num_dropped += 1
            return
        self._queue.append(decision)

    def close(self) -> None:
        """Write what is queued and end; it waits for the disk. Idempotent."""
        if not self._is_closing:
            self._is_closing = True
            self._wake.set()
            self._thread.join()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(_PERIOD_S)
            self._drain()
        self._drain()

    def _drain(self) -> None:
        for _ in range(-(-len(self._queue) // _BATCH)):
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            try:
                self._write(b"".join([self._encoder.encode(one) + b"\n" for one in batch]))
            except Exception as error:  # noqa: BLE001  # loop shell: a full disk must not end the log for ever
                self.num_dropped += len(batch)
                if not self._is_failing:
                    _log.error("decisions can't be written", path=str(self.path), problem=type(error).__name__)
                self._is_failing = True
            else:
                self._is_failing = False

    def _write(self, lines: bytes) -> None:
        if self._num_bytes and self._num_bytes + len(lines) > self._max_bytes:
            self._rotate()
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        view = memoryview(b"\n" + lines if self._is_torn else lines)
        while view:
            self._is_torn = True
            written = os.write(descriptor, view)
            self._num_bytes += written
            view = view[written:]
        self._is_torn = False

    def _rotate(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for age in range(self._max_files - 1, 0, -1):
            if self._path(age - 1).exists():
                self._path(age - 1).replace(self._path(age))
        if self._max_files == 1:
            self._path(0).unlink(missing_ok=True)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        self._num_bytes = os.fstat(self._descriptor).st_size
        return self._descriptor

    def _path(self, age: int) -> Path:
        return self._folder / (f"{self._name}.{age}.jsonl" if age else f"{self._name}.jsonl")
