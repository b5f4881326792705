"""Where log lines go: a file that never raises and never floods. What can't be written is dropped and counted.

A full disk, a closed pipe or a loop that logs in every round must not end, block or fill up the process that logs.
"""

import time
from collections.abc import Callable
from typing import Final, TextIO

_LINES_PER_S: Final = 200.0
_BURST_LINES: Final = 2000.0


class DroppingLogFile:
    """The ``write`` and ``flush`` of a text file. Not thread-safe: structlog holds its lock around every line.

    The first line that gets through after some were dropped says how many there were.
    """

    def __init__(self, file: TextIO, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.num_dropped = 0
        self._file = file
        self._now_s = now_s
        self._line = ""
        self._num_untold = 0
        self._allowance = _BURST_LINES
        self._last_s = now_s()

    def write(self, text: str) -> int:
        """Take a part of a line; a line goes out at its end."""
        self._line += text
        if self._line.endswith("\n"):
            line, self._line = self._line, ""
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: every line is flushed when it is whole."""

    def _put(self, line: str) -> None:
        told = f"({self._num_untold} log lines were dropped before this one)\n" if self._num_untold else ""
        if self._may_write():
            try:
                self._file.write(told + line)
                self._file.flush()
            except (OSError, ValueError):  # ValueError: the file was closed
                pass
            else:
                self._num_untold = 0
                return
        self.num_dropped += 1
        self._num_untold += 1

    def _may_write(self) -> bool:
        now_s = self._now_s()
        self._allowance = min(_BURST_LINES, self._allowance + (now_s - self._last_s) * _LINES_PER_S)
        self._last_s = now_s
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True
