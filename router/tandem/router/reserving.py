"""Requests that wait for the routers' shared reservations, and the reservations of those that run. Zero I/O.

::

    queue ──ask──► reserving ──answer: a worker──────────► placed there, if that still fits
                       │  └────none, or none in time─────► placed as this router alone would
                       ├───────nothing fits any more─────► queue, at its place
                       └───────cancelled, too late, …────► ended; a reservation that still comes is released

While it waits, a request counts as work ahead on the prefill worker that this router would have chosen, and has its
slot and blocks on the decode worker: a burst does not ask for more than there is room for.

Only first attempts wait. Whoever has nothing to choose from, or was served before, goes at once and has its work
reserved without an answer, so that the other routers know of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.router.actions import WorkerKey
from tandem.router.candidates import Candidate
from tandem.router.fleet import Fleet
from tandem.router.live import Live, charges_of
from tandem.router.placer import Chosen
from tandem.router.queue import CentralQueue, SetAside
from tandem.router.sharing import Answer, OnAnswer, Reserver, SharingMode, SharingPolicy, Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that waits for an answer."""

    live: Live
    ticket: Ticket
    aside: SetAside
    own: WorkerKey  # what this router would have chosen
    decode: WorkerKey
    load_s: float
    asked_s: float


@dataclass(frozen=True, slots=True)
class _Held:
    ticket: Ticket
    worker: WorkerKey


class Reserving:
    """Who waits, and who holds what. The caller places and ends requests; this keeps count."""

    def __init__(
        self,
        *,
        reserver: Reserver | None,
        policy: SharingPolicy,
        queue: CentralQueue,
        fleet: Fleet,
        num_routers: Callable[[], int],
        on_answer: OnAnswer,
    ) -> None:
        self.policy = policy
        self.ahead_s: dict[WorkerKey, float] = {}  # work for which a reservation is asked, where it would go
        self._reserver = reserver
        self._queue = queue
        self._fleet = fleet
        self._num_routers = num_routers
        self._on_answer = on_answer
        self._asked: dict[RequestId, Asked] = {}
        self._held: dict[RequestId, _Held] = {}
        self._number = 0

    def __len__(self) -> int:
        """Requests of which there is anything here."""
        return len(self._asked.keys() | self._held.keys())

    @property
    def is_on(self) -> bool:
        """Whether the routers agree on workers now."""
        if self._reserver is None or self.policy.mode is SharingMode.OFF:
            return False
        return self.policy.mode is SharingMode.ON or self._num_routers() > 1

    def ask(self, live: Live, chosen: Chosen, candidates: Sequence[Candidate], now_s: float) -> bool:
        """Let the waiting ``live`` leave the queue and wait for an answer; False: it goes at once as ``chosen``."""
        own, reserver = chosen.placement.prefill, self._reserver
        if reserver is None or own is None or len(candidates) < 2 or live.ledger.task.attempt > 0:
            return False
        load_s = chosen.placement.predicted_prefill_s
        decode = chosen.placement.decode
        record = self._fleet.get(decode)
        if record is not None:
            record.in_flight.add(_key(live), charges_of(chosen.demand, chosen.placement)[decode])
        self.ahead_s[own] = self.ahead_s.get(own, 0.0) + load_s
        asked = Asked(
            live=live,
            ticket=self._new_ticket(live),
            aside=self._queue.set_aside(live.entry),
            own=own,
            decode=decode,
            load_s=load_s,
            asked_s=now_s,
        )
        self._asked[live.entry.request_id] = asked
        reserver.ask(asked.ticket, candidates, self._on_answer)
        return True

    def answered(self, ticket: Ticket, answer: Answer) -> Asked | None:
        """Who waits for this answer, and does no longer; None: nobody, and what was reserved is released."""
        asked = self._asked.get(ticket.request_id)
        if asked is not None and asked.ticket == ticket:
            return self._pop(ticket.request_id)
        self.give_back(ticket, answer.worker)
        return None

    def overdue(self, request_id: RequestId, now_s: float) -> Asked | None:
        """The same for want of an answer; None while there is time, or nobody waits."""
        asked = self._asked.get(request_id)
        if asked is None or now_s < asked.asked_s + self.policy.max_wait_s:  # as its one timer is set, to the last bit
            return None
        return self._pop(request_id)

    def give_up(self, request_id: RequestId) -> Asked | None:
        """The request is over: return it if it waited."""
        asked = self._pop(request_id)
        if asked is not None:
            self._queue.refund(asked.aside)
        return asked

    def hold(self, ticket: Ticket, worker: WorkerKey) -> None:
        """The request goes to ``worker``, and has this reservation until ``release``."""
        self._held[ticket.request_id] = _Held(ticket, worker)

    def tell(self, live: Live, candidate: Candidate) -> None:
        """The request goes there at once: reserve it for the others to see, unless it is."""
        request_id = live.entry.request_id
        if self._reserver is not None and request_id not in self._held:
            ticket = self._new_ticket(live)
            self.hold(ticket, candidate.worker)
            self._reserver.tell(ticket, candidate)

    def release(self, request_id: RequestId) -> None:
        """Its prompt is computed, or its attempt is over."""
        held = self._held.pop(request_id, None)
        if held is not None:
            self.give_back(held.ticket, held.worker)

    def give_back(self, ticket: Ticket, worker: WorkerKey | None) -> None:
        """What was reserved is not used."""
        if worker is not None and self._reserver is not None:
            self._reserver.release(ticket, worker)

    def _pop(self, request_id: RequestId) -> Asked | None:
        asked = self._asked.pop(request_id, None)
        if asked is not None:
            left_s = self.ahead_s.pop(asked.own) - asked.load_s
            if any(other.own == asked.own for other in self._asked.values()):
                self.ahead_s[asked.own] = left_s  # else nothing: no drift from adding and subtracting floats
            self._fleet.end_attempt((asked.decode,), _key(asked.live))
        return asked

    def _new_ticket(self, live: Live) -> Ticket:
        self._number += 1
        return Ticket(live.entry.request_id, self._number)


def _key(live: Live) -> AttemptKey:
    return AttemptKey(request_id=live.entry.request_id, attempt=live.ledger.task.attempt)
