"""I7: at every moment some worker of each role serves. Zero I/O.

Goes by the order of feeding. A role counts from its first serving worker on. A worker serves from when it says so until
it drains, stops, is held for dead by a router, or its name begins another life; a kill that nobody has noticed takes
nothing away. When a role is left by its last worker, that is a violation as soon as a router accepts a request, or
another worker comes to serve: before, it may be the end of the run.
"""

from tandem.chaos.trace.report import Findings
from tandem.chaos.trace.seen import Seen
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import ProcessLife
from tandem.core.types import Role


class RoleBook:
    """The serving workers of the whole cluster."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._serving: dict[Role, set[ProcessLife]] = {}
        self._left: dict[Role, Seen] = {}  # roles that nobody serves: who left last

    def changed(self, seen: Seen, event: ev.RoleChanged) -> None:
        """A worker says what it does."""
        self._leave(seen, seen.process, keep=event.role if event.state == "serving" else None)
        if event.state != "serving":
            return
        self._findings.checked("I7")
        left = self._left.pop(event.role, None)
        if left is not None:
            self._broken(seen, event.role, left, f"until {seen.process.name} began to serve")
        self._serving.setdefault(event.role, set()).add(seen.process)

    def began(self, seen: Seen) -> None:
        """A process began: earlier lives of its name are over."""
        for life in [life for lives in self._serving.values() for life in lives]:
            if life.name == seen.process.name and life != seen.process:
                self._leave(seen, life)

    def judged(self, seen: Seen, event: ev.WorkerJudged) -> None:
        """A router holds a worker for dead."""
        if event.health == "dead":
            self._leave(seen, ProcessLife(event.worker, event.worker_epoch))

    def request_accepted(self, seen: Seen) -> None:
        """Somebody wants to be served."""
        self._findings.checked("I7")
        for role, left in list(self._left.items()):
            del self._left[role]  # one violation per gap
            self._broken(seen, role, left, "while a request was accepted")

    def _leave(self, seen: Seen, life: ProcessLife, *, keep: Role | None = None) -> None:
        for role, lives in self._serving.items():
            if role is not keep and life in lives:
                lives.discard(life)
                if not lives:
                    self._left[role] = seen

    def _broken(self, seen: Seen, role: Role, left: Seen, until: str) -> None:
        self._findings.broken("I7", seen, f"no {role.value} worker served {until}", (left,))
