"""The product's event log in process: every event of every simulated process goes straight to the trace checker."""

from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.world import World
from tandem.chaos.trace.checker import Checker
from tandem.core.event_log.events import Event, LogOpened, ProcessPaused
from tandem.core.event_log.record import LOG_VERSION, ProcessLife


class Judge:
    """One checker for all processes of a run. Invariant I7 is left out: whole pools are killed here on purpose."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checker = Checker(check_serving=False)
        self._num_seen = 0

    def sink(self, process: Process, epoch: int) -> "ProcessSink":
        """Return the event log of one process life."""
        return ProcessSink(self, process, ProcessLife(process.name, epoch))

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
