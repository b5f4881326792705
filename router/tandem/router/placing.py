"""Takes requests from the queue and sends them to workers, as long as anything fits. Zero I/O of its own.

It joins the queue, placement, overtaking and the routers' shared reservations; the dispatcher says when.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tandem.core.errors import TandemError
from tandem.core.ids import RequestId
from tandem.core.types import Role
from tandem.router.actions import Action
from tandem.router.admitting import Admitting
from tandem.router.candidates import Candidate
from tandem.router.crashes import CrashWatch
from tandem.router.fleet import Fleet
from tandem.router.live import Live
from tandem.router.observer import Observer
from tandem.router.overtaking import Overtaking
from tandem.router.placement import NoCapacity
from tandem.router.placement_terms import Shared
from tandem.router.placer import Chosen, DropHeld, Placer
from tandem.router.queue import CentralQueue
from tandem.router.recovery import error_for
from tandem.router.reserving import Asked, Reserving
from tandem.router.sharing import Answer, ReservationOutcome, Ticket
from tandem.router.timers import Timer, TimerKind, Timers
from tandem.router.waiting import Waits

Apply = Callable[[Live, Sequence[Action], float], None]
GiveUp = Callable[[Live, TandemError, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacingParts:
    """What it joins."""

    fleet: Fleet
    queue: CentralQueue
    lives: Mapping[RequestId, Live]
    placer: Placer
    admitting: Admitting
    overtaking: Overtaking[Live]
    crashes: CrashWatch
    reserving: Reserving
    waits: Waits
    timers: Timers
    observer: Observer


class Placing:
    """Places what waits. ``apply`` carries out a ledger's actions, ``give_up`` ends a request that waits."""

    def __init__(self, parts: PlacingParts, *, apply: Apply, give_up: GiveUp) -> None:
        self.room_changed = False  # since the last look
        self.last_no_capacity = ""
        self._parts = parts
        self._queue = parts.queue
        self._placer = parts.placer
        self._admitting = parts.admitting
        self._reserving = parts.reserving
        self._observer = parts.observer
        self._waits = parts.waits
        self._apply = apply
        self._give_up = give_up

    def place_if_room(self, now_s: float) -> None:
        """Look again if anything became free."""
        if self.room_changed and len(self._queue):
            self.place(now_s)

    def place(self, now_s: float) -> None:
        """Place the queue's head as long as it fits, and those that may overtake it."""
        self.room_changed = False
        self._waits.note_decode_workers(self._parts.fleet.num_alive(Role.DECODE), now_s)
        while (entry := self._queue.peek()) is not None:
            live = self._parts.lives[entry.request_id]
            late = self._admitting.error_if_late(live, now_s)
            if late is not None:
                self._give_up(live, late, now_s)
                continue
            choice = self._placer.choose(live, now_s, num_waiting=len(self._queue) - 1)
            match choice:
                case Chosen():
                    self._go(live, choice, now_s)
                case DropHeld():
                    self._apply(live, live.ledger.drop_held(), now_s)
                case NoCapacity():
                    if not self._unblock(live, choice, now_s):
                        return

    def _unblock(self, live: Live, choice: NoCapacity, now_s: float) -> bool:
        """The head does not fit: end it, make room for it, or let others pass. False: it waits on."""
        self.last_no_capacity = choice.reason
        self._observer.waits(live.ledger.task, choice, num_waiting=len(self._queue) - 1)
        if choice.never:
            self._queue.discard(live.entry.request_id)
            self._apply(live, live.ledger.failed(error_for(choice.never), now_s), now_s)
            return True
        if self._gave_up_waiting(live, now_s):
            return True
        if choice.lacks_room and self._make_room(live, now_s):
            return True
        for other in self._parts.overtaking.find(live.entry, choice, now_s):
            self._go(other.live, other.chosen, now_s)
        return False

    def _make_room(self, live: Live, now_s: float) -> bool:
        """Let running batch requests yield to ``live``; they wait again, behind it."""
        yielding = self._admitting.to_yield(live, now_s)
        for other in yielding:
            self._apply(other, other.ledger.yielded(), now_s)
            self._waits.begin(other, now_s)
            self._admitting.queue_yielded(other)
        return bool(yielding)

    def _gave_up_waiting(self, live: Live, now_s: float) -> bool:
        error = self._waits.error_without_decode_worker(live, now_s)
        if error is not None:
            self._give_up(live, error, now_s)
        return error is not None

    def _dispatch(self, live: Live, chosen: Chosen, now_s: float) -> None:
        choice = live.placement = chosen.placement
        actions = live.ledger.dispatched(prefill=choice.prefill, decode=choice.decode, now_s=now_s)
        if live.ledger.attempt is not None:  # else its deadline has just passed: nothing was begun, nothing would end
            self._placer.note(live, chosen, now_s)
            self._admitting.dispatched(live, now_s)
            self._parts.crashes.dispatched(live.entry.request_id, now_s)
            self._observer.placed(live.ledger.task, choice, waited_s=now_s - live.arrived_s)
        self._apply(live, actions, now_s)

    # --- the routers' shared reservations ----------------------------------------------------------------------------

    def _go(self, live: Live, chosen: Chosen, now_s: float) -> None:
        """Take it from the queue: to its workers, or to wait for what the other routers' reservations say."""
        if self._ask(live, chosen, now_s):
            return
        self._queue.take(live.entry)
        self._dispatch(live, chosen, now_s)
        self._tell(live, chosen)

    def _ask(self, live: Live, chosen: Chosen, now_s: float) -> bool:
        reserving = self._reserving
        if not reserving.is_on:
            return False
        candidates = self._placer.candidates(chosen, now_s, most=reserving.policy.max_candidates)
        if not reserving.ask(live, chosen, candidates, now_s):
            return False
        timer = Timer(kind=TimerKind.NO_ANSWER, request_id=live.entry.request_id)
        self._parts.timers.add(now_s + reserving.policy.max_wait_s, timer)
        return True

    def _tell(self, live: Live, chosen: Chosen) -> None:
        """It went without asking: let the others see its work."""
        placement = chosen.placement
        worker, load_s, weighed = placement.prefill, placement.predicted_prefill_s, placement.weighed
        is_choice = worker is not None and weighed is not None and len(weighed.prefills) > 1
        if not self._reserving.is_on or not is_choice or live.ledger.attempt is None or worker is None:
            return
        self._reserving.tell(live, Candidate(worker=worker, base_s=0.0, queued_s=0.0, load_s=load_s))

    def answered(self, ticket: Ticket, answer: Answer, now_s: float) -> None:
        """A reservation was made, or none will be."""
        asked = self._reserving.answered(ticket, answer)
        if asked is not None:
            self._go_on(asked, answer, now_s)

    def no_answer(self, live: Live, now_s: float) -> None:
        """It is time to go on without an answer, if none has come."""
        asked = self._reserving.overdue(live.entry.request_id, now_s)
        if asked is not None:
            self._go_on(asked, Answer(missed=ReservationOutcome.NO_ANSWER), now_s)

    def ended(self, live: Live, now_s: float) -> None:
        """The request is over, wherever it was."""
        asked = self._reserving.give_up(live.entry.request_id)
        if asked is not None:
            self._note(asked, ReservationOutcome.ENDED, now_s)
            self.room_changed = True
        self._reserving.release(live.entry.request_id)

    def _go_on(self, asked: Asked, answer: Answer, now_s: float) -> None:
        live = asked.live
        late = self._admitting.error_if_late(live, now_s)
        if late is not None:
            self._queue.refund(asked.aside)
            self._reserving.give_back(asked.ticket, answer.worker)
            self._note(asked, ReservationOutcome.ENDED, now_s)
            self._give_up(live, late, now_s)
            self.place(now_s)
            return
        choice = self._agreed(asked, answer, now_s) or self._placer.choose(live, now_s, num_waiting=len(self._queue))
        if isinstance(choice, Chosen):
            self._dispatch(live, choice, now_s)
            if not answer.missed:
                self._tell(live, choice)
        else:
            self._queue.put_back(asked.aside)
        self.place(now_s)

    def _agreed(self, asked: Asked, answer: Answer, now_s: float) -> Chosen | None:
        """The choice with the worker that was reserved; None if there is none, or it does not fit any more."""
        worker, live = answer.worker, asked.live
        if worker is None:
            self._note(asked, answer.missed, now_s)
            return None
        choice = self._placer.choose(live, now_s, num_waiting=len(self._queue), reserved=worker)
        if not isinstance(choice, Chosen) or choice.placement.prefill != worker:
            self._reserving.give_back(asked.ticket, worker)
            self._note(asked, ReservationOutcome.UNFIT, now_s)
            return None
        self._reserving.hold(asked.ticket, worker)
        self._note(asked, ReservationOutcome.KEPT if worker == asked.own else ReservationOutcome.MOVED, now_s)
        placement, shared = choice.placement, Shared(own=asked.own, asked_s=now_s - asked.asked_s)
        why = "" if worker == asked.own else f"; {asked.own.worker_id} is reserved for more work of other requests"
        return replace(choice, placement=replace(placement, shared=shared, reason=placement.reason + why))

    def _note(self, asked: Asked, outcome: str, now_s: float) -> None:
        self._observer.reserved(asked.live.ledger.task, outcome=outcome, waited_s=now_s - asked.asked_s)
