"""What the router tells the event log: the life of its requests, and what each caller was really given. No policy."""

from tandem.core.cluster import PairState
from tandem.core.event_log import EventSink
from tandem.core.event_log.events import (
    Dispatched,
    RequestAccepted,
    RequestEnded,
    Requeued,
    TokensForwarded,
    UsageRecorded,
    WorkerJudged,
)
from tandem.core.types import GenerationTask, TokenDelta
from tandem.router.actions import Ended, Pair, Requeue, Started, WorkerKey
from tandem.router.admission.terms import AdmissionDecision
from tandem.router.client_stream import Sink
from tandem.router.health import Health
from tandem.router.observer import Observer
from tandem.router.placement import NoCapacity, Placement


class RecordingSink:
    """Passes on what the dispatcher puts, and records what the caller's side took."""

    __slots__ = ("_event_log", "_inner", "_request")

    def __init__(self, inner: Sink, task: GenerationTask, event_log: EventSink) -> None:
        self._inner = inner
        self._request = task.request_id
        self._event_log = event_log
        event_log.record(
            RequestAccepted(request=task.request_id, num_sequences=task.num_sequences, traceparent=task.traceparent)
        )

    def put_started(self, started: Started) -> None:
        """Pass on."""
        self._inner.put_started(started)

    def put_delta(self, delta: TokenDelta) -> None:
        """Record and pass on; a sink that raises Overflow has taken the delta all the same."""
        self._event_log.record(
            TokensForwarded(
                request=self._request, child=delta.child, position=delta.position, count=len(delta.token_ids)
            )
        )
        self._inner.put_delta(delta)

    def put_ended(self, ended: Ended) -> None:
        """Pass on."""
        self._inner.put_ended(ended)
        reason = "" if ended.error is None else ended.error.reason
        self._event_log.record(
            RequestEnded(
                request=self._request,
                outcome=ended.outcome.value,
                reason=reason,
                num_output_tokens=ended.usage.output_tokens,
            )
        )

    def put_keep_alive(self) -> None:
        """Pass on."""
        self._inner.put_keep_alive()


class RecordingObserver:
    """Passes on what the dispatcher lets watch, and records it."""

    def __init__(self, inner: Observer, event_log: EventSink) -> None:
        self._inner = inner
        self._event_log = event_log

    def admission(self, decision: AdmissionDecision) -> None:
        """Pass on: whether a request came in is recorded by its sink."""
        self._inner.admission(decision)

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """Record a dispatch."""
        prefill, decode = placement.prefill, placement.decode
        self._event_log.record(
            Dispatched(
                request=task.request_id,
                attempt=task.attempt,
                prefill="" if prefill is None else prefill.worker_id,
                prefill_epoch=0 if prefill is None else prefill.epoch,
                decode=decode.worker_id,
                decode_epoch=decode.epoch,
            )
        )
        self._inner.placed(task, placement, waited_s=waited_s)

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """Pass on."""
        self._inner.waits(task, choice, num_waiting=num_waiting)

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """Pass on."""
        self._inner.reserved(task, outcome=outcome, waited_s=waited_s)

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Record a requeue."""
        self._event_log.record(Requeued(request=task.request_id, attempt=task.attempt, reason=reason))
        self._inner.retried(task, reason=reason, again=again)

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """Pass on: the requeue says what came of it."""
        self._inner.handover_failed(pair, reason=reason, state=state)

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """Record the usage, as the one who counts it is told."""
        self._inner.ended(task, ended)
        self._event_log.record(
            UsageRecorded(
                request=task.request_id,
                num_prompt_tokens=ended.usage.prompt_tokens,
                num_output_tokens=ended.usage.output_tokens,
            )
        )

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Pass on."""
        self._inner.depth(num_queued=num_queued, num_live=num_live)


def record_health(event_log: EventSink, worker: WorkerKey, health: Health) -> None:
    """Record what the router believes of a worker from now on."""
    event_log.record(WorkerJudged(worker=worker.worker_id, worker_epoch=worker.epoch, health=health.value))
