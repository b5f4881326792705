"""I7: at every moment some worker of each role serves. Zero I/O.

Goes by the order of feeding. A role counts from its first serving worker on. A worker serves from when it says so until
it drains, stops, is held for dead by a router, or its name begins another life; a kill that nobody has noticed takes
nothing away, and a worker that a router holds for alive again is back. When a role is left by its last worker, that is
a violation as soon as a router accepts a request, or another worker comes to serve: before, it may be the end of the
run. Who takes a whole role away on purpose says so (`Excused`): such a gap must be over when the excuse is.
"""

from collections.abc import Callable

from tandem.chaos.trace.report import Findings
from tandem.chaos.trace.seen import Seen
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import ProcessLife
from tandem.core.types import Role

Excused = Callable[[Role, float, float], bool]
"""Whether a role may stand empty from one moment to another, in the time of the events."""


def never_excused(role: Role, from_s: float, to_s: float) -> bool:
    """Nobody took anything away on purpose."""
    return False


class RoleBook:
    """The serving workers of the whole cluster."""

    def __init__(self, findings: Findings, excused: Excused = never_excused) -> None:
        self._findings = findings
        self._excused = excused
        self._serving: dict[Role, set[ProcessLife]] = {}
        self._given_up: dict[ProcessLife, Role] = {}  # held for dead while they themselves say that they serve
        self._left: dict[Role, Seen] = {}  # roles that nobody serves: who left last

    def changed(self, seen: Seen, event: ev.RoleChanged) -> None:
        """A worker says what it does."""
        self._given_up.pop(seen.process, None)
        self._leave(seen, seen.process, keep=event.role if event.state == "serving" else None)
        if event.state == "serving":
            self._come(seen, event.role, seen.process)

    def began(self, seen: Seen) -> None:
        """A process began: earlier lives of its name are over."""
        for life in [life for lives in self._serving.values() for life in lives] + list(self._given_up):
            if life.name == seen.process.name and life != seen.process:
                self._given_up.pop(life, None)
                self._leave(seen, life)

    def judged(self, seen: Seen, event: ev.WorkerJudged) -> None:
        """A router gives a worker up, or finds it alive after all."""
        life = ProcessLife(event.worker, event.worker_epoch)
        if event.health == "dead":
            role = next((role for role, lives in self._serving.items() if life in lives), None)
            if role is not None:
                self._given_up[life] = role
                self._leave(seen, life)
        elif event.health == "alive" and life in self._given_up:
            self._come(seen, self._given_up.pop(life), life)

    def request_accepted(self, seen: Seen) -> None:
        """Somebody wants to be served."""
        self._findings.checked("I7")
        for role, left in list(self._left.items()):
            if self._excused(role, left.at_s, seen.at_s):
                self._findings.num_excused += 1
                continue  # the gap goes on: it must be over when its excuse is
            del self._left[role]  # one violation per gap
            self._broken(seen, role, left, "while a request was accepted")

    def _come(self, seen: Seen, role: Role, life: ProcessLife) -> None:
        self._findings.checked("I7")
        left = self._left.pop(role, None)
        if left is not None:
            if self._excused(role, left.at_s, seen.at_s):
                self._findings.num_excused += 1
            else:
                self._broken(seen, role, left, f"until {life.name} began to serve")
        self._serving.setdefault(role, set()).add(life)

    def _leave(self, seen: Seen, life: ProcessLife, *, keep: Role | None = None) -> None:
        for role, lives in self._serving.items():
            if role is not keep and life in lives:
                lives.discard(life)
                if not lives:
                    self._left[role] = seen

    def _broken(self, seen: Seen, role: Role, left: Seen, until: str) -> None:
        self._findings.broken("I7", seen, f"no {role.value} worker served {until}", (left,))
