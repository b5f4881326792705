"""Whether a worker is alive, judged by its beats and its stream. Zero I/O.

::

    CONNECTING ──attached──► ALIVE ──silent suspect_after──► SUSPECT ──silent dead_after──► DEAD
                               ▲  └──────stream broke────────►  │                            │
                               └────────beat, or attached again─┴────────────────────────────┘

SUSPECT gets no new work, and keeps what it runs while its stream stands. DEAD has its requests taken away. A broken
stream takes them away at once, because the worker aborts what came over it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """What the router believes of one worker."""

    CONNECTING = "connecting"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthTimers:
    """Silence, in seconds. Beats come each second, so a worker that stops is SUSPECT 4.5 to 5.5 s and DEAD 9 to 10 s
    later: no stall below 5 s takes a request away, and none above 6 s goes unnoticed."""

    suspect_after_s: float = 5.5
    dead_after_s: float = 10.0
    stuck_step_s: float = 60.0  # a forward step older than this makes the beats beside it worthless


class WorkerPulse:
    """Health of one life of one worker. ``on_change`` (if any) is called with every new judgement."""

    __slots__ = ("_on_change", "_timers", "attached", "health", "last_heard_s")

    def __init__(self, timers: HealthTimers, *, on_change: Callable[[Health], None] | None = None) -> None:
        self._timers = timers
        self._on_change = on_change
        self.health = Health.CONNECTING
        self.attached = False
        self.last_heard_s: float | None = None

    def heard(self, now_s: float) -> None:
        """Anything came from the worker."""
        self.last_heard_s = now_s
        if self.attached and self.health is not Health.ALIVE:
            self._judge(Health.ALIVE)

    def stream_opened(self, now_s: float) -> None:
        """The Attach stream stands."""
        self.attached = True
        self.heard(now_s)

    def stream_broke(self) -> None:
        """The Attach stream ended."""
        self.attached = False
        if self.health is Health.ALIVE:
            self._judge(Health.SUSPECT)

    def forgive(self, seconds: float) -> None:
        """Do not count silence of which the listener itself was deaf for ``seconds``."""
        if self.last_heard_s is not None:
            self.last_heard_s += seconds

    def tick(self, now_s: float) -> bool:
        """Judge the silence; True when the worker has just become DEAD."""
        if self.last_heard_s is None or self.health is Health.DEAD:
            return False
        silent_s = now_s - self.last_heard_s
        if silent_s >= self._timers.dead_after_s:
            self._judge(Health.DEAD)
            return True
        if silent_s >= self._timers.suspect_after_s and self.health is Health.ALIVE:
            self._judge(Health.SUSPECT)
        return False

    def _judge(self, health: Health) -> None:
        self.health = health
        if self._on_change is not None:
            self._on_change(health)
