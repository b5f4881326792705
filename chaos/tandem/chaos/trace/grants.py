"""I8: every grant of one process ends in time, by the process's own clock. Zero I/O."""

from dataclasses import dataclass

from tandem.chaos.trace.report import Findings
from tandem.chaos.trace.seen import Seen
from tandem.core.event_log import events as ev

GRACE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Late:
    made: Seen
    ended: Seen
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    begun_s: float
    ended_s: float


class GrantBook:
    """The grants of one process life.

    Time in which the whole process stood still does not count: it is known only from a later record, so that the
    verdict on late grants waits for ``finish``.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._open: dict[tuple[str, int], Seen] = {}
        self._late: list[_Late] = []
        self._pauses: list[_Pause] = []

    def made(self, seen: Seen, event: ev.GrantMade) -> None:
        """A grant begins."""
        self._open[event.request, event.attempt] = seen

    def ended(self, seen: Seen, event: ev.GrantEnded) -> None:
        """… and ends."""
        made = self._open.pop((event.request, event.attempt), None)
        if made is not None:
            self._findings.checked("I8")
            self._check(made, seen)

    def paused(self, seen: Seen, event: ev.ProcessPaused) -> None:
        """The process did not run for a while."""
        self._pauses.append(_Pause(begun_s=seen.at_s - event.seconds, ended_s=seen.at_s))

    def finish(self, last: Seen) -> None:
        """``last`` is the process's last record: what it should have ended before that is late."""
        for made in self._open.values():
            self._findings.checked("I8")
            self._check(made, last)
        for late in self._late:
            paused_s = sum(
                max(min(pause.ended_s, late.ended.at_s) - max(pause.begun_s, late.made.at_s), 0.0)
                for pause in self._pauses
            )
            over_s = late.ended.at_s - late.limit_s - paused_s
            if over_s > 0.0:
                self._complain(late, over_s)

    def _check(self, made: Seen, ended: Seen) -> None:
        event = made.event
        if isinstance(event, ev.GrantMade):
            limit_s = made.at_s + event.deadline_left_s + GRACE_S
            if ended.at_s > limit_s:
                self._late.append(_Late(made=made, ended=ended, limit_s=limit_s))

    def _complain(self, late: _Late, over_s: float) -> None:
        event = late.made.event
        if not isinstance(event, ev.GrantMade):
            return
        which = f"the grant of request {event.request} attempt {event.attempt}, for {event.deadline_left_s:.3f} s,"
        if isinstance(late.ended.event, ev.GrantEnded):
            problem = f"{which} ended {over_s:.3f} s later than {GRACE_S:.0f} s after its deadline"
        else:
            problem = f"{which} had not ended {over_s + GRACE_S:.3f} s after its deadline"
        self._findings.broken("I8", late.ended, problem, (late.made,))
