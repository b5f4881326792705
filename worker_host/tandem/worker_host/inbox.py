"""The one door to the engine thread: actions posted by other threads, run between forward steps."""

import queue
from collections.abc import Callable

Action = Callable[[], None]


class Inbox:
    """A thread-safe queue of actions. Many threads post; the engine thread alone takes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Action] = queue.SimpleQueue()

    def post(self, action: Action) -> None:
        """Run ``action`` on the engine thread before its next step. Safe from any thread."""
        self._queue.put(action)

    def run_waiting(self) -> int:
        """Run every action that waits now; return how many."""
        num_run = 0
        while True:
            try:
                action = self._queue.get_nowait()
            except queue.Empty:
                return num_run
            action()
            num_run += 1

    def wait_and_run(self, timeout_s: float) -> bool:
        """Wait for one action and run it; False when none came in time."""
        try:
            action = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return False
        action()
        return True
