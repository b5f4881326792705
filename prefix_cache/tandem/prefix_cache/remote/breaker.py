"""When to leave a failing server alone. Zero I/O.

::

    CLOSED ──failures in a row──► OPEN ──open_s──► HALF OPEN ──one success──► CLOSED
                                   ▲                  │
                                   └────a failure─────┘
"""

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Whether calls are made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Bounds."""

    max_failures: int = 5
    open_s: float = 2.0  # 2 probes in vain, one of them of a server that is well again but busy, are over within 5 s


class Breaker:
    """Counts failures in a row; lets one call at a time try again after a pause."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._num_failures = 0
        self._opened_s: float | None = None
        self._is_probing = False
        self.num_opened = 0

    def state(self, now_s: float) -> BreakerState:
        """What the next call meets."""
        opened_s = self._opened_s  # another thread may ask while it changes
        if opened_s is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now_s >= opened_s + self._policy.open_s else BreakerState.OPEN

    def may_call(self, now_s: float) -> bool:
        """Whether to call now. After True, exactly one of ``succeeded`` and ``failed`` must follow."""
        match self.state(now_s):
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                if self._is_probing:
                    return False
                self._is_probing = True
                return True

    def succeeded(self) -> None:
        """A call came back in time."""
        self._num_failures = 0
        self._opened_s = None
        self._is_probing = False

    def failed(self, now_s: float) -> None:
        """A call failed, or took too long."""
        self._num_failures += 1
        if self._is_probing or self._num_failures >= self._policy.max_failures:
            if self._opened_s is None:
                self.num_opened += 1
            self._opened_s = now_s
        self._is_probing = False
