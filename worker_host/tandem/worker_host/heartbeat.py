"""The heartbeat thread: one Beat a second to every attached router, however long a forward step takes."""

import threading
from collections.abc import Callable

from tandem.core.messages import Beat


class Heartbeat:
    """Calls ``broadcast(make_beat())`` every ``period_s`` from a thread of its own until stopped."""

    def __init__(
        self, *, make_beat: Callable[[], Beat], broadcast: Callable[[Beat], None], period_s: float = 1.0
    ) -> None:
        self._make_beat = make_beat
        self._broadcast = broadcast
        self._period_s = period_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop beating and wait for the thread."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self._broadcast(self._make_beat())
