"""What crashes mean for the requests of this router: who is suspected, and who has to wait for its turn. Zero I/O."""

from collections.abc import Mapping, Sequence
from typing import Final

from tandem.core import reasons
from tandem.core.ids import RequestId
from tandem.core.messages import AttemptFailed, AttemptReleased, StepReport
from tandem.router.actions import WorkerKey
from tandem.router.attempt import Stage
from tandem.router.live import Live
from tandem.router.queue import CentralQueue
from tandem.router.suspects import Isolation, SuspicionPolicy, blame

_MISSED_S: Final = 2.0
"""How much later a dead worker's own stream may tell of its death than a peer of it."""


class CrashWatch:
    """Shares blame among live requests, and lets suspects back into the queue in turns.

    A broken stream is a death only when the worker's next life is listed, when its silence has become one, or when it
    has not come back within ``doubt_s``. Who would be condemned by it is held until that is known; so is, for a moment,
    who may have been in a second crash because a peer has lost sight of its worker.
    """

    def __init__(self, *, lives: Mapping[RequestId, Live], queue: CentralQueue, policy: SuspicionPolicy) -> None:
        self._lives = lives
        self._queue = queue
        self._isolation = Isolation(policy)
        self._policy = policy
        self._doubted_since_s: dict[WorkerKey, float] = {}  # streams that broke: deaths or cuts
        self._held: set[RequestId] = set()  # in doubt: neither run nor ended
        self._missed: dict[tuple[WorkerKey, RequestId], float] = {}  # who ran what when its peer lost sight of it
        self._listening: set[RequestId] = set()  # wait for word of a worker that a peer has lost sight of

    @property
    def num_isolated(self) -> int:
        """Suspects that wait for their turn, or for word of a worker."""
        return len(self._isolation) + len(self._held) + len(self._listening)

    def stream_broke(self, worker: WorkerKey, now_s: float) -> None:
        """One of what ran there may be the cause, if it was a death. Call it before the requests are told."""
        self._doubted_since_s.setdefault(worker, now_s)
        for live in self._blame(worker, now_s):
            live.ledger.suspicion.doubt(worker)
            if live.ledger.stage is Stage.ADMITTED and live.ledger.suspicion.is_in_doubt:
                self._hold(live)

    def worker_died(self, worker: WorkerKey, now_s: float) -> None:
        """That life is over, for sure. Call it before the requests are told."""
        self._doubted_since_s.pop(worker, None)
        self._blame(worker, now_s)
        for live in self._lives.values():
            live.ledger.suspicion.confirm(worker)

    def worker_survived(self, worker: WorkerKey, now_s: float) -> None:
        """That life is attached again: only the stream had broken, which is no death."""
        self._doubted_since_s.pop(worker, None)
        for live in self._lives.values():
            live.ledger.suspicion.withdraw(worker)
        for request_id in sorted(self._held):
            live = self._lives[request_id]
            if not live.ledger.suspicion.is_in_doubt:
                self._held.discard(request_id)
                self.queue_again(live, now_s)

    def overdue(self, now_s: float) -> Sequence[WorkerKey]:
        """Workers that did not come back in time: they are dead."""
        return [w for w, since_s in self._doubted_since_s.items() if now_s - since_s >= self._policy.doubt_s]

    def _blame(self, worker: WorkerKey, now_s: float) -> Sequence[Live]:
        running = [
            live
            for request_id, live in self._lives.items()
            if live.ledger.runs_on(worker) or self._was_missed(worker, request_id, now_s)
        ]
        new = [live for live in running if not live.ledger.suspicion.counts(worker)]  # one life ends once
        blame(worker, [live.ledger.suspicion for live in new])
        return new

    def _hold(self, live: Live) -> None:
        self._listening.discard(live.entry.request_id)
        self._held.add(live.entry.request_id)

    def report_came(self, worker: WorkerKey, report: StepReport, now_s: float) -> None:
        """A forward step that raised took several requests with it: one of them may be the cause.

        Of a death, the other end of a hand-over may tell before the dead worker's own stream does: what it ran then is
        remembered for a moment, although its attempt is over.
        """
        for event in report.events:
            if isinstance(event, AttemptFailed | AttemptReleased):
                self._missed.pop((worker, event.request_id), None)  # it answers, and runs that no more
            if isinstance(event, AttemptFailed) and event.reason == reasons.KV_PEER_LOST:
                self._note_missed(worker, event, now_s)
        failed = [e for e in report.events if isinstance(e, AttemptFailed) and e.reason == reasons.ENGINE]
        ledgers = [self._lives[e.request_id].ledger for e in failed if e.request_id in self._lives]
        blame((worker, report.sequence), [ledger.suspicion for ledger in ledgers if ledger.runs_on(worker)])

    def _was_missed(self, worker: WorkerKey, request_id: RequestId, now_s: float) -> bool:
        at_s = self._missed.get((worker, request_id))
        return at_s is not None and now_s - at_s < _MISSED_S

    def _may_be_condemned(self, live: Live, now_s: float) -> bool:
        """Whether it would have been in enough crashes if each worker that a peer has lost sight of had died."""
        name = live.entry.request_id
        missed = [w for w, request_id in self._missed if request_id == name and self._was_missed(w, name, now_s)]
        unheard = [w for w in missed if not live.ledger.suspicion.counts(w)]
        return bool(unheard) and live.ledger.suspicion.num_crashes + len(unheard) >= self._policy.min_crashes

    def _note_missed(self, source: WorkerKey, event: AttemptFailed, now_s: float) -> None:
        self._missed = {key: at_s for key, at_s in self._missed.items() if now_s - at_s < _MISSED_S}
        live = self._lives.get(event.request_id)
        attempt = None if live is None else live.ledger.attempt
        if live is None or attempt is None or attempt.number != event.attempt:
            return
        for peer in attempt.workers:
            if peer != source and live.ledger.runs_on(peer):
                self._missed[peer, event.request_id] = now_s

    def queue_again(self, live: Live, now_s: float) -> None:
        """Queue a further attempt: now, when its turn has come, or when it is known that it is not the culprit."""
        suspicion = live.ledger.suspicion
        if suspicion.is_in_doubt:
            self._hold(live)
        elif self._may_be_condemned(live, now_s):
            self._listening.add(live.entry.request_id)
        elif not suspicion.wants_isolation or self._isolation.admit(live.entry.request_id, now_s):
            self._queue.push_again(live.entry)

    def dispatched(self, request_id: RequestId, now_s: float) -> None:
        """An attempt went to its workers."""
        self._isolation.dispatched(request_id, now_s)

    def ended(self, request_id: RequestId) -> None:
        """The request is over."""
        self._isolation.discard(request_id)
        self._held.discard(request_id)
        self._listening.discard(request_id)

    def step(self, now_s: float) -> None:
        """Let the next suspects run once those whose turn it is are cleared, have ended, or take too long."""
        isolation, lives = self._isolation, self._lives
        for request_id in sorted(self._listening):
            if not self._may_be_condemned(lives[request_id], now_s):
                self._listening.discard(request_id)
                self.queue_again(lives[request_id], now_s)
        for request_id in isolation.turn:
            live = lives.get(request_id)
            suspected = live is not None and request_id not in self._held and not live.ledger.suspicion.check_cleared()
            isolation.end_if_over(request_id, still_suspected=suspected, now_s=now_s)
            if isolation.is_waiting(request_id):
                self._queue.discard(request_id)
        for request_id in isolation.next_turn(now_s):
            live = lives.get(request_id)
            if live is not None:
                self._queue.push_again(live.entry)
