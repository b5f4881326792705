"""I4 and I5: what the callers of one router were given. Zero I/O."""

from collections import OrderedDict, deque

from tandem.chaos.trace.report import Findings
from tandem.chaos.trace.seen import Seen
from tandem.core.event_log import events as ev

_HISTORY = 16
_MAX_RECENT = 4096
_OK = "ok"


class _Request:
    """One request, as its events tell it."""

    __slots__ = ("accepted", "ended", "history", "next_positions", "num_forwarded", "num_usages")

    def __init__(self) -> None:
        self.accepted: Seen | None = None
        self.ended: Seen | None = None
        self.num_usages = 0
        self.num_forwarded = 0
        self.next_positions: dict[int, int] = {}
        self.history: deque[Seen] = deque(maxlen=_HISTORY)


class RequestBook:
    """The requests of one router life. Requests that are over are forgotten after a while, but for their ids."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._open: dict[str, _Request] = {}
        self._recent: OrderedDict[str, _Request] = OrderedDict()
        self._forgotten: set[str] = set()

    def accepted(self, seen: Seen, event: ev.RequestAccepted) -> None:
        """The router owes a terminal event from now on."""
        request = self._request(seen, event.request)
        if request.accepted is not None:
            self._broken("I4", seen, request, f"request {event.request} is accepted twice")
        request.accepted = seen

    def dispatched(self, seen: Seen, event: ev.Dispatched | ev.Requeued) -> None:
        """I4: nothing is done for a request that has ended."""
        request = self._request(seen, event.request)
        if request.ended is not None:
            self._broken("I4", seen, request, f"attempt {event.attempt} of request {event.request} comes after its end")

    def forwarded(self, seen: Seen, event: ev.TokensForwarded) -> None:
        """I5: the next position, and no other; I4: not after the end."""
        request = self._request(seen, event.request)
        self._findings.checked("I5")
        expected = request.next_positions.get(event.child, 0)
        what = f"request {event.request} child {event.child}"
        if event.position != expected:
            kind = "repeats" if event.position < expected else "jumps"
            problem = f"{what} {kind}: position {event.position} is forwarded where {expected} was due"
            self._broken("I5", seen, request, problem)
        if request.ended is not None:
            self._broken("I4", seen, request, f"{what} is given tokens after its end")
        request.next_positions[event.child] = event.position + event.count
        request.num_forwarded += event.count

    def ended(self, seen: Seen, event: ev.RequestEnded) -> None:
        """I4: once; and an answer that ended well has all the tokens that were counted."""
        request = self._request(seen, event.request)
        self._findings.checked("I4")
        if request.ended is not None:
            self._broken("I4", seen, request, f"request {event.request} ends twice: now {event.outcome} {event.reason}")
        elif event.outcome == _OK and event.num_output_tokens != request.num_forwarded:
            counts = f"{event.num_output_tokens} tokens are counted and {request.num_forwarded} were forwarded"
            self._broken("I4", seen, request, f"request {event.request}: {counts}")
        request.ended = seen
        self._settle(event.request, request)

    def usage(self, seen: Seen, event: ev.UsageRecorded) -> None:
        """I4: once."""
        request = self._request(seen, event.request)
        self._findings.checked("I4")
        request.num_usages += 1
        if request.num_usages > 1:
            self._broken("I4", seen, request, f"the usage of request {event.request} is recorded twice")
        self._settle(event.request, request)

    def finish(self, last: Seen, *, closed: bool) -> None:
        """A router that ended in order owes nobody anything; one that was killed may."""
        if not closed:
            return
        for name, request in self._open.items():
            if request.accepted is not None and request.ended is None:
                self._broken("I4", last, request, f"request {name} was accepted and never ended")
            elif request.ended is not None and not request.num_usages:
                self._broken("I4", last, request, f"the usage of request {name} was never recorded")

    def _request(self, seen: Seen, name: str) -> _Request:
        request = self._open.get(name) or self._recent.get(name)
        if request is None:
            request = _Request()
            if name in self._forgotten:  # long over: any event is one too many
                request.ended, request.num_usages = seen, 1
                self._recent[name] = request
            else:
                self._open[name] = request
        request.history.append(seen)
        return request

    def _settle(self, name: str, request: _Request) -> None:
        if request.ended is None or not request.num_usages or name not in self._open:
            return
        self._recent[name] = self._open.pop(name)
        if len(self._recent) > _MAX_RECENT:
            self._forgotten.add(self._recent.popitem(last=False)[0])

    def _broken(self, invariant: str, seen: Seen, request: _Request, problem: str) -> None:
        self._findings.broken(invariant, seen, problem, tuple(request.history))
