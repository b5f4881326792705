"""Spans of a request: request, queue, prefill, kv_transfer, decode.

The request's span opens when the request is accepted, because workers get its context with their task; the phases are
written when the request ends, from its timings, so that tracing costs the token path nothing.
"""

import time
from dataclasses import replace

from opentelemetry import trace

from tandem.core.ids import RequestId
from tandem.core.types import GenerationTask, Outcome
from tandem.router.actions import Ended
from tandem.rpc import telemetry
from tandem.rpc.trace import context_of, traceparent_of


class Tracing:
    """Open spans of requests that have not ended. Without a configured tracer provider it only passes contexts on."""

    def __init__(self, tracer: trace.Tracer | None = None) -> None:
        self._tracer = tracer or telemetry.tracer()
        self._open: dict[RequestId, trace.Span] = {}

    @property
    def num_open(self) -> int:
        """Spans of requests that have not ended."""
        return len(self._open)

    def begin(self, task: GenerationTask, *, parent: str, label: str) -> GenerationTask:
        """Open the request's span under the caller's context; return the task that carries it."""
        span = self._tracer.start_span(telemetry.SPAN_REQUEST, context=context_of(parent), kind=trace.SpanKind.SERVER)
        if not span.is_recording():
            return replace(task, traceparent=parent) if parent else task
        span.set_attribute(telemetry.ATTRIBUTE_REQUEST_ID, task.request_id)
        span.set_attribute("tandem.label", label)
        span.set_attribute("gen_ai.usage.input_tokens", len(task.prompt_token_ids))
        self._open[task.request_id] = span
        return replace(task, traceparent=traceparent_of(span))

    def refuse(self, request_id: RequestId, reason: str) -> None:
        """The dispatcher did not take the request."""
        span = self._open.pop(request_id, None)
        if span is not None:
            span.set_attribute(telemetry.ATTRIBUTE_OUTCOME, Outcome.SHED.value)
            span.set_status(trace.StatusCode.ERROR, reason)
            span.end()

    def end(self, task: GenerationTask, ended: Ended) -> None:
        """Write the phases and close the request's span."""
        span = self._open.pop(task.request_id, None)
        if span is None:
            return
        timings = ended.timings
        end_ns = time.time_ns()
        begin_ns = end_ns - _ns(timings.total_ms)
        queued_ns = begin_ns + _ns(timings.tokenize_ms)
        dispatched_ns = queued_ns + _ns(timings.queue_ms)
        prefilled_ns = dispatched_ns + _ns(timings.prefill_ms)
        self._phase(span, telemetry.SPAN_QUEUE, queued_ns, dispatched_ns)
        if timings.prefill_ms is not None:
            self._phase(span, telemetry.SPAN_PREFILL, dispatched_ns, prefilled_ns)
        if timings.handover_ms is not None:
            handed_ns = prefilled_ns + _ns(timings.handover_ms)
            self._phase(span, telemetry.SPAN_KV_TRANSFER, dispatched_ns, handed_ns)
        if timings.ttft_ms is not None:
            self._phase(span, telemetry.SPAN_DECODE, begin_ns + _ns(timings.ttft_ms), end_ns)
        span.set_attribute(telemetry.ATTRIBUTE_OUTCOME, ended.outcome.value)
        span.set_attribute(telemetry.ATTRIBUTE_ATTEMPT, task.attempt)
        span.set_attribute("gen_ai.usage.output_tokens", ended.usage.output_tokens)
        if ended.error is not None:
            span.set_attribute(telemetry.ATTRIBUTE_REASON, ended.error.reason)
            span.set_status(trace.StatusCode.ERROR, ended.error.reason)
        span.end(end_time=end_ns)

    def _phase(self, parent: trace.Span, name: str, start_ns: int, end_ns: int) -> None:
        context = trace.set_span_in_context(parent)
        span = self._tracer.start_span(name, context=context, start_time=start_ns)
        span.end(end_time=max(start_ns, end_ns))


def _ns(milliseconds: float | None) -> int:
    return 0 if milliseconds is None else round(milliseconds * 1e6)
