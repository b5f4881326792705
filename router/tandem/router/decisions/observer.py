"""Writes the dispatcher's decisions into the log, and passes everything on. No policy, no I/O."""

from tandem.core import reasons
from tandem.core.cluster import PairState
from tandem.core.decisions import Detail, HandoverFailed, Placed, WorkerJudged
from tandem.core.types import GenerationTask
from tandem.router.actions import Ended, Pair, Requeue, WorkerKey
from tandem.router.admission.terms import AdmissionDecision
from tandem.router.decisions.log import DecisionLog
from tandem.router.decisions.records import (
    admission_record,
    admission_words,
    end_record,
    placement_record,
    recovery_record,
    recovery_words,
    waiting_record,
)
from tandem.router.health import Health
from tandem.router.observer import Observer
from tandem.router.placement import NoCapacity, Placement


class DecisionObserver:
    """An observer of the dispatcher, between it and ``inner``."""

    def __init__(self, inner: Observer, log: DecisionLog) -> None:
        self._inner = inner
        self._log = log
        self._first: dict[str, Placed] = {}  # of each request that runs
        self._waits = ("", 0, "")  # what was last said of the head of the queue

    def admission(self, decision: AdmissionDecision) -> None:
        """A request was taken, refused, or shed while it waited."""
        self._inner.admission(decision)
        self._log.note(
            admission_record(decision),
            admission_words(decision),
            request_id=decision.request_id,
            tenant=decision.tenant,
            priority=decision.priority.value,
        )

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """The head of the queue can't be placed: told once for each reason."""
        self._inner.waits(task, choice, num_waiting=num_waiting)
        why = (task.request_id, task.attempt, choice.reason)
        if why != self._waits:
            self._waits = why
            self._note(waiting_record(task, choice, num_waiting=num_waiting), choice.reason, task)

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """Pass on."""
        self._inner.reserved(task, outcome=outcome, waited_s=waited_s)

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """An attempt goes to its workers."""
        self._inner.placed(task, placement, waited_s=waited_s)
        record = placement_record(task, placement, waited_s=waited_s)
        self._first.setdefault(task.request_id, record)
        self._note(record, placement.reason, task)

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Another attempt was decided."""
        self._inner.retried(task, reason=reason, again=again)
        record = recovery_record(task, reason, again)
        self._note(record, recovery_words(record, yielded=reason == reasons.YIELDED), task)

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """A hand-over between two workers failed."""
        self._inner.handover_failed(pair, reason=reason, state=state)
        record = HandoverFailed(
            prefill=pair.prefill.worker_id, decode=pair.decode.worker_id, cause=reason, state=state.value
        )
        is_left = state is PairState.OPEN
        self._log.note(record, "the pair is left alone for a while" if is_left else "the pair goes on being used")

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """A request is over."""
        self._inner.ended(task, ended)
        words = "the answer is whole" if ended.error is None else ended.error.message
        self._note(end_record(ended, self._first.pop(task.request_id, None)), words, task)

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Pass on."""
        self._inner.depth(num_queued=num_queued, num_live=num_live)

    def judged(self, worker: WorkerKey, health: Health) -> None:
        """What is believed of a worker from now on; the fleet tells."""
        self._log.note(
            WorkerJudged(worker=worker.worker_id, worker_epoch=worker.epoch, health=health.value), _HEALTH[health]
        )

    def _note(self, detail: Detail, words: str, task: GenerationTask) -> None:
        self._log.note(detail, words, request_id=task.request_id, tenant=task.tenant, priority=task.priority.value)


_HEALTH = {
    Health.CONNECTING: "it is registered, and its stream does not stand yet",
    Health.ALIVE: "it is heard of, and gets work",
    Health.SUSPECT: "it is silent, or its stream broke: it gets no new work",
    Health.DEAD: "it is silent for so long that its requests are taken away",
}
