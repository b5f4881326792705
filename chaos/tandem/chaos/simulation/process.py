"""One simulated process: it runs, stands still (SIGSTOP) or is dead; its clock has its own zero point and rate."""

from collections import deque
from collections.abc import Callable

from tandem.chaos.simulation.world import World


class ProcessClock:
    """The monotonic clock of one process."""

    def __init__(self, world: World, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self._world = world
        self._offset_s = offset_s
        self.rate = rate
        self.ahead_s = 0.0  # what a forward step has taken while the world stood still

    def now_s(self) -> float:
        """See Clock."""
        return self._offset_s + self._world.now_s * self.rate + self.ahead_s


class Process:
    """One life. Calls wait while it stands still; after its death none runs."""

    def __init__(self, world: World, name: str, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.paused_since_s: float | None = None
        self.resumed_at_s = float("-inf")
        self.on_resume: Callable[[float], None] = lambda seconds: None
        self.clock = ProcessClock(world, offset_s=offset_s, rate=rate)
        self._deferred: deque[Callable[[], None]] = deque()
        self._at_death: list[Callable[[], None]] = []
        self._offset_s, self._rate = offset_s, rate

    def second_clock(self) -> ProcessClock:
        """Return another reader of the same clock, for the engine, whose steps take time."""
        return ProcessClock(self.world, offset_s=self._offset_s, rate=self._rate)

    def call(self, call: Callable[[], None]) -> None:
        """Run ``call`` in this process: now, or when it goes on."""
        if not self.is_alive:
            return
        if self.paused_since_s is not None:
            self._deferred.append(call)
        else:
            call()

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` after ``delay_s`` of this process's own clock."""
        self.world.after(delay_s / self.clock.rate, lambda: self.call(call))

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` each ``period_s``; a pause does not make it catch up."""

        def tick() -> None:
            call()
            self.after(period_s, tick)

        self.after(period_s * (0.5 + 0.5 * self.world.rng.random()), tick)

    def at_death(self, call: Callable[[], None]) -> None:
        """Have the kernel do this when the process is gone."""
        self._at_death.append(call)

    def pause(self) -> None:
        """SIGSTOP."""
        if self.is_alive and self.paused_since_s is None:
            self.paused_since_s = self.world.now_s
            self.world.note(self.name, "stopped")

    def resume(self) -> None:
        """SIGCONT: what waits in its buffers is read first, in order."""
        if not self.is_alive or self.paused_since_s is None:
            return
        paused_s, self.paused_since_s = self.world.now_s - self.paused_since_s, None
        self.resumed_at_s = self.world.now_s
        self.on_resume(paused_s * self.clock.rate)
        self.world.note(self.name, f"continued, {len(self._deferred)} calls waited")
        waiting, self._deferred = self._deferred, deque()
        for call in waiting:
            self.call(call)

    def kill(self) -> None:
        """End it without any farewell but the kernel's."""
        if self.is_alive:
            self.world.note(self.name, "dies")
            self.is_alive = False
            self._deferred.clear()
            self.bury()

    def lose_power(self) -> None:
        """End it with its kernel: nobody is told anything until the machine is back (``bury``)."""
        if self.is_alive:
            self.world.note(self.name, "loses power")
            self.is_alive = False
            self._deferred.clear()

    def bury(self) -> None:
        """The kernel of a dead process answers for it: its connections are gone."""
        waiting, self._at_death = self._at_death, []
        for call in waiting:
            call()
