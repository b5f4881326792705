"""The product's event log in process: every event of every simulated process goes straight to the trace checker."""

from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.world import World
from tandem.chaos.trace.checker import Checker
from tandem.core.event_log.events import Event, LogOpened, ProcessPaused
from tandem.core.event_log.record import LOG_VERSION, ProcessLife
from tandem.core.types import Role

_BACK_S = 11.0  # a worker starts up to 8 s after its death, and is found up to 3 s later


class Judge:
    """One checker for all processes of a run.

    While faults go on a role may stand empty (I7): several may hit all of its workers at once. From `must_serve_from_s`
    on that is over, but for a request that kills whoever computes it and is still in the queue then: its victim may be
    the role's only worker, and has the time a worker needs to come back.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.must_serve_from_s = 0.0
        self._back_by_s: dict[Role, float] = {}
        self._checker = Checker(excused=self._is_excused)
        self._num_seen = 0

    def sink(self, process: Process, epoch: int) -> "ProcessSink":
        """Return the event log of one process life."""
        return ProcessSink(self, process, ProcessLife(process.name, epoch))

    def killed_by_a_request(self, role: Role) -> None:
        """A worker of ``role`` ends now, because of what it was asked to compute."""
        self._back_by_s[role] = self._world.now_s + _BACK_S

    def _is_excused(self, role: Role, from_s: float, to_s: float) -> bool:
        until_s = max(self.must_serve_from_s, self._back_by_s.get(role, 0.0))
        return self._world.now_s < until_s  # the processes' own clocks differ

    def feed(self, life: ProcessLife, event: Event, at_s: float) -> None:
        """Judge one event."""
        self._checker.feed(life, event, at_s=at_s)
        if self._checker.num_violations > self._num_seen:
            self._num_seen = self._checker.num_violations
            self._world.violation("trace", f"{life.name} after {type(event).__name__}")

    def finish(self) -> int:
        """Judge what only the end shows; return the number of events."""
        report = self._checker.finish()
        for violation in report.violations:
            self._world.violation("trace", str(violation))
        return report.num_events


class ProcessSink:
    """An EventSink. A pause of the process is told by whoever stopped it, as the log's own thread would notice it."""

    def __init__(self, judge: Judge, process: Process, life: ProcessLife) -> None:
        self._judge = judge
        self._process = process
        self._life = life
        self.record(LogOpened(version=LOG_VERSION, host="sim", pid=1))
        process.on_resume = lambda seconds: self.record(ProcessPaused(seconds=seconds))

    def record(self, event: Event) -> None:
        """See EventSink."""
        self._judge.feed(self._life, event, self._process.clock.now_s())
