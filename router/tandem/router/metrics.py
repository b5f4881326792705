"""The router's metrics: an observer of the dispatcher that fills the instruments."""

from opentelemetry.metrics import Meter

from tandem.core.cluster import PairState
from tandem.core.types import GenerationTask
from tandem.router.actions import Ended, Pair, Requeue
from tandem.router.admission.terms import AdmissionDecision
from tandem.router.cache.usage import CacheUsage
from tandem.router.placement import NoCapacity, Placement
from tandem.router.tracing import Tracing
from tandem.rpc.telemetry import ATTRIBUTE_CAUSE, ATTRIBUTE_CLASS, ATTRIBUTE_OUTCOME, ATTRIBUTE_REASON, router_metrics


class MeasuringObserver:
    """Observer of the dispatcher that fills the instruments and closes the traces."""

    def __init__(self, meter: Meter, tracing: Tracing, usage: CacheUsage | None = None) -> None:
        self._tracing = tracing
        self._metrics = router_metrics(meter)
        self._usage = usage or CacheUsage()
        self._num_queued = 0
        self._num_running = 0

    def admission(self, decision: AdmissionDecision) -> None:
        """Count decisions by class and cause."""
        about = {ATTRIBUTE_CAUSE: decision.cause.value, ATTRIBUTE_CLASS: decision.priority.value}
        self._metrics.admissions.add(1, about)

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """Record the wait of a first attempt, and why it is computed where it is."""
        self._metrics.placements.add(1, {ATTRIBUTE_CAUSE: placement.cause.value})
        if task.attempt == 0:
            self._metrics.queue_wait_s.record(waited_s)

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """Not counted: it is told at each look."""

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """Count what came of the shared reservations, and how long requests waited for them."""
        self._metrics.reservations.add(1, {ATTRIBUTE_OUTCOME: outcome})
        self._metrics.reservation_wait_s.record(waited_s)

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Count a further attempt."""
        self._metrics.attempts.add(1, {ATTRIBUTE_REASON: reason})

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """Count a failed hand-over."""
        self._metrics.failed_handovers.add(1, {ATTRIBUTE_REASON: reason})

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """Record an ended request."""
        metrics, timings, usage = self._metrics, ended.timings, ended.usage
        reason = "" if ended.error is None else ended.error.reason
        metrics.requests.add(1, {ATTRIBUTE_OUTCOME: ended.outcome.value, ATTRIBUTE_REASON: reason})
        metrics.prompt_tokens.record(usage.prompt_tokens)
        metrics.output_tokens.record(usage.output_tokens)
        if usage.prompt_computed:  # whatever came after: a caller that left has cost its prompt all the same
            metrics.cached_tokens.add(usage.cached_tokens)
            metrics.uncached_tokens.add(usage.uncached_tokens)
            self._usage.note(task.tenant, usage)
        if timings.total_ms is not None:
            metrics.request_duration_s.record(timings.total_ms / 1e3)
        if timings.ttft_ms is not None:
            metrics.time_to_first_token_s.record(timings.ttft_ms / 1e3)
            num_further = usage.output_tokens / task.num_sequences - 1.0
            if timings.total_ms is not None and num_further > 0.0:
                metrics.time_per_output_token_s.record((timings.total_ms - timings.ttft_ms) / 1e3 / num_further)
        self._tracing.end(task, ended)

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Move the gauges to the present state."""
        num_running = num_live - num_queued
        self._metrics.queued_requests.add(num_queued - self._num_queued)
        self._metrics.running_requests.add(num_running - self._num_running)
        self._num_queued, self._num_running = num_queued, num_running
