"""Where code that waits or measures gets its time from, so that tests and simulations can hand in their own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds. The zero point means nothing; only differences do."""

    def now_s(self) -> float:
        """Return the current monotonic time in seconds."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()
