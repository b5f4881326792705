"""Times at which a request must be looked at again. Zero I/O."""

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from tandem.core.ids import RequestId


class TimerKind(StrEnum):
    """What is due."""

    DEADLINE = "deadline"  # the caller's deadline
    WAIT_OVER = "wait_over"  # the longest stay in the queue
    PLACE_AGAIN = "place_again"  # the pause before another attempt
    NO_ANSWER = "no_answer"  # the wait for a shared reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Something that is due. A request that has ended in between is simply not found any more."""

    kind: TimerKind
    request_id: RequestId


class Timers:
    """Earliest first. Nothing is cancelled: what has become pointless is ignored when it is due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due_s: float, timer: Timer) -> None:
        """Have ``timer`` returned by the first ``pop_due`` at or after ``due_s``."""
        self._sequence += 1
        heapq.heappush(self._heap, (due_s, self._sequence, timer))

    def pop_due(self, now_s: float) -> list[Timer]:
        """Remove and return what is due, earliest first."""
        due: list[Timer] = []
        while self._heap and self._heap[0][0] <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def keep_only(self, live: Collection[RequestId]) -> None:
        """Forget timers of requests that are not in ``live``; called when the heap has outgrown them."""
        self._heap = [item for item in self._heap if item[2].request_id in live]
        heapq.heapify(self._heap)
