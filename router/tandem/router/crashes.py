"""What crashes mean for the requests of this router: who is suspected, and who has to wait for its turn. Zero I/O."""

from collections.abc import Mapping
from typing import Final

from tandem.core import reasons
from tandem.core.ids import RequestId
from tandem.core.messages import AttemptFailed, StepReport
from tandem.router.actions import WorkerKey
from tandem.router.live import Live
from tandem.router.queue import CentralQueue
from tandem.router.suspects import Isolation, SuspicionPolicy, blame

_MISSED_S: Final = 2.0
"""How much later a dead worker's own stream may tell of its death than a peer of it."""


class CrashWatch:
    """Shares blame among live requests, and lets suspects back into the queue in turns."""

    def __init__(self, *, lives: Mapping[RequestId, Live], queue: CentralQueue, policy: SuspicionPolicy) -> None:
        self._lives = lives
        self._queue = queue
        self._isolation = Isolation(policy)
        self._missed: dict[tuple[WorkerKey, RequestId], float] = {}  # who ran what when its peer lost sight of it

    @property
    def num_isolated(self) -> int:
        """Suspects that wait for their turn."""
        return len(self._isolation)

    def worker_died(self, worker: WorkerKey, now_s: float) -> None:
        """One of what ran there may be the cause. Call it before the requests are told."""
        running = [
            request_id
            for request_id, live in self._lives.items()
            if live.ledger.runs_on(worker) or self._was_missed(worker, request_id, now_s)
        ]
        blame(worker, [self._lives[request_id].ledger.suspicion for request_id in running])

    def report_came(self, worker: WorkerKey, report: StepReport, now_s: float) -> None:
        """A forward step that raised took several requests with it: one of them may be the cause.

        Of a death, the other end of a hand-over may tell before the dead worker's own stream does: what it ran then is
        remembered for a moment, although its attempt is over.
        """
        missed = [e for e in report.events if isinstance(e, AttemptFailed) and e.reason == reasons.KV_PEER_LOST]
        for event in missed:
            self._note_missed(worker, event, now_s)
        failed = [e for e in report.events if isinstance(e, AttemptFailed) and e.reason == reasons.ENGINE]
        ledgers = [self._lives[e.request_id].ledger for e in failed if e.request_id in self._lives]
        blame((worker, report.sequence), [ledger.suspicion for ledger in ledgers if ledger.runs_on(worker)])

    def _was_missed(self, worker: WorkerKey, request_id: RequestId, now_s: float) -> bool:
        at_s = self._missed.get((worker, request_id))
        return at_s is not None and now_s - at_s < _MISSED_S

    def _note_missed(self, source: WorkerKey, event: AttemptFailed, now_s: float) -> None:
        self._missed = {key: at_s for key, at_s in self._missed.items() if now_s - at_s < _MISSED_S}
        live = self._lives.get(event.request_id)
        attempt = None if live is None else live.ledger.attempt
        if live is None or attempt is None or attempt.number != event.attempt:
            return
        for peer in attempt.workers:
            if peer != source and live.ledger.runs_on(peer):
                self._missed[peer, event.request_id] = now_s

    def queue_again(self, live: Live) -> None:
        """Queue a further attempt, now or when its turn has come."""
        if not live.ledger.suspicion.wants_isolation or self._isolation.admit(live.entry.request_id):
            self._queue.push_again(live.entry)

    def dispatched(self, request_id: RequestId, now_s: float) -> None:
        """An attempt went to its workers."""
        self._isolation.dispatched(request_id, now_s)

    def ended(self, request_id: RequestId) -> None:
        """The request is over."""
        self._isolation.discard(request_id)

    def step(self, now_s: float) -> None:
        """Let the next suspects run once those whose turn it is are cleared, have ended, or take too long."""
        isolation, lives = self._isolation, self._lives
        for request_id in isolation.turn:
            live = lives.get(request_id)
            suspected = live is not None and not live.ledger.suspicion.check_cleared()
            isolation.end_if_over(request_id, still_suspected=suspected, now_s=now_s)
        for request_id in isolation.next_turn():
            live = lives.get(request_id)
            if live is not None:
                self._queue.push_again(live.entry)
