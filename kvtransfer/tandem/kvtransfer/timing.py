"""Time bounds of a hand-over. All are durations on the side's own monotonic clock; none decides safety."""

from collections import deque
from typing import Final

# A stall shorter than a worker's detection (5 s) aborts nothing: neither a hand-over that moves no byte, nor a
# handshake with a peer that stands still, may give up sooner than the router does.
IDLE_FLOOR_S: Final = 6.0
IDLE_FACTOR: Final = 8.0
TOTAL_AFTER_SEAL_S: Final = 30.0
LEASE_S: Final = 15.0
LEASE_RENEWAL_S: Final = 10.0
REAPER_PERIOD_S: Final = 0.5
SENDER_BEAT_S: Final = 0.5
RECEIVER_BEAT_S: Final = 2.5
COMMIT_REPEAT_S: Final = 1.0
HELLO_TIMEOUT_S: Final = 6.0
SENDER_LINK_IDLE_S: Final = 30.0
RECEIVER_LINK_IDLE_S: Final = 60.0

_SAMPLES: Final = 128


class IdleTimer:
    """Has a transfer stood still for max(6 s, 8 x p99 of its recent steps)?

    Progress-based: a slow link that moves is left alone, a dead one is noticed in seconds.
    """

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s
        self._steps: deque[float] = deque(maxlen=_SAMPLES)

    def progress(self, now_s: float) -> None:
        """Something arrived or left that belongs to this transfer; the step's length is a sample."""
        self._steps.append(now_s - self._last_s)
        self._last_s = now_s

    def rest(self, now_s: float) -> None:
        """The transfer is alive but has nothing to do: no sample."""
        self._last_s = now_s

    @property
    def limit_s(self) -> float:
        """How long a step may take now."""
        if not self._steps:
            return IDLE_FLOOR_S
        ordered = sorted(self._steps)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return max(IDLE_FLOOR_S, IDLE_FACTOR * p99)

    def expired(self, now_s: float) -> bool:
        """True when there was no progress for longer than the limit."""
        idle_s = now_s - self._last_s
        return idle_s > IDLE_FLOOR_S and idle_s > self.limit_s
