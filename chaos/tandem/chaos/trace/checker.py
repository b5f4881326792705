"""The checker: hands each event to the books that follow its process, and sums up. Zero I/O."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from tandem.chaos.trace.blocks import BlockBook
from tandem.chaos.trace.grants import GrantBook
from tandem.chaos.trace.report import INVARIANTS, Findings, Report, UnfinishedLog
from tandem.chaos.trace.requests import RequestBook
from tandem.chaos.trace.roles import Excused, RoleBook, never_excused
from tandem.chaos.trace.seen import Seen
from tandem.core.event_log import events as ev
from tandem.core.event_log.events import KINDS, Event
from tandem.core.event_log.record import ProcessLife

_Handler = Callable[[Seen, Any], None]


class _Process:
    """What is followed of one process life."""

    def __init__(self, findings: Findings, roles: RoleBook | None) -> None:
        self.grants = GrantBook(findings)
        self.requests = RequestBook(findings)
        self.last: Seen | None = None
        self.is_closed = False
        self.incomplete = ""
        self.pid = 0
        blocks = BlockBook(findings)
        self.handlers: dict[type, tuple[_Handler, ...]] = {
            ev.BlocksAllocated: (blocks.allocated,),
            ev.BlocksRekeyed: (blocks.rekeyed,),
            ev.BlocksSealed: (blocks.sealed,),
            ev.BlocksCommitted: (blocks.committed,),
            ev.BlocksCached: (blocks.cached,),
            ev.BlocksBorrowed: (blocks.borrowed,),
            ev.BlocksReturned: (blocks.returned,),
            ev.BlocksFreed: (blocks.freed,),
            ev.BlockPinned: (blocks.pinned,),
            ev.BlockUnpinned: (blocks.unpinned,),
            ev.ChunkAccepted: (blocks.chunk_accepted,),
            ev.DecodeStep: (blocks.stepped,),
            ev.GrantMade: (self.grants.made,),
            ev.GrantEnded: (self.grants.ended,),
            ev.ProcessPaused: (self.grants.paused,),
            ev.RequestAccepted: (self.requests.accepted,),
            ev.Dispatched: (self.requests.dispatched,),
            ev.Requeued: (self.requests.dispatched,),
            ev.TokensForwarded: (self.requests.forwarded,),
            ev.RequestEnded: (self.requests.ended,),
            ev.UsageRecorded: (self.requests.usage,),
        }
        if roles is not None:
            self.handlers[ev.RoleChanged] = (roles.changed,)
            self.handlers[ev.WorkerJudged] = (roles.judged,)
            self.handlers[ev.LogOpened] = (lambda seen, _: roles.began(seen),)
            self.handlers[ev.RequestAccepted] += (lambda seen, _: roles.request_accepted(seen),)


class Checker:
    """Takes the events of any number of processes and judges them. ``feed`` in order, then ``finish`` once."""

    def __init__(self, *, check_serving: bool = True, excused: Excused = never_excused) -> None:
        """``check_serving=False`` leaves I7 out, for logs whose order is not known; ``excused`` says when a role may
        stand empty, because the run itself took all of its workers away.
        """
        self._findings = Findings()
        self._roles = RoleBook(self._findings, excused) if check_serving else None
        self._processes: dict[ProcessLife, _Process] = {}
        self._counts: Counter[type[Event]] = Counter()

    def feed(self, process: ProcessLife, event: Event, *, at_s: float = 0.0, file: str = "", line: int = 0) -> None:
        """Take the next event of ``process``; ``at_s`` is of its own clock, ``file`` and ``line`` are the report's."""
        self._counts[type(event)] += 1
        state = self._process(process)
        seen = state.last = Seen(process, at_s, event, file, line)
        if state.incomplete:
            return
        if isinstance(event, ev.RecordsLost):
            state.incomplete = f"{event.count} records are missing at {seen.place}: nothing after them was judged"
        elif isinstance(event, ev.LogClosed):
            state.is_closed = True
        else:
            if isinstance(event, ev.LogOpened):
                state.pid = event.pid
            for handler in state.handlers.get(type(event), ()):
                handler(seen, event)

    def empty(self, process: ProcessLife) -> None:
        """The log of ``process`` holds nothing: it was killed before its first record was written."""
        self._process(process)

    def give_up(self, process: ProcessLife, why: str) -> None:
        """Something is wrong with the log of ``process``: judge nothing more of it."""
        state = self._process(process)
        state.incomplete = state.incomplete or why

    @property
    def num_violations(self) -> int:
        """Violations found so far; those that only the end shows are not among them."""
        return self._findings.num_violations

    def finish(self) -> Report:
        """Judge what only the end shows, and return the verdict."""
        for state in self._processes.values():
            if state.last is not None and not state.incomplete:
                state.grants.finish(state.last)
                state.requests.finish(state.last, closed=state.is_closed)
        return Report(
            violations=self._findings.violations,
            num_violations=self._findings.num_violations,
            num_events=sum(self._counts.values()),
            counts={
                KINDS[kind]: count for kind, count in sorted(self._counts.items(), key=lambda item: KINDS[item[0]])
            },
            num_checks={invariant: self._findings.num_checks[invariant] for invariant in INVARIANTS},
            num_processes=len(self._processes),
            num_killed=sum(not state.is_closed for state in self._processes.values()),
            incomplete=[
                f"{life.name}-{life.epoch}: {state.incomplete}"
                for life, state in self._processes.items()
                if state.incomplete
            ],
            unfinished=[
                UnfinishedLog(
                    process=life.name,
                    epoch=life.epoch,
                    pid=state.pid,
                    last_s=0.0 if state.last is None else state.last.at_s,
                )
                for life, state in self._processes.items()
                if not state.is_closed
            ],
            num_excused=self._findings.num_excused,
        )

    def _process(self, life: ProcessLife) -> _Process:
        state = self._processes.get(life)
        if state is None:
            state = self._processes[life] = _Process(self._findings, self._roles)
        return state
