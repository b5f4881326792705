"""Spans of a request in W3C trace context: request, queue, prefill, kv_transfer, decode.

The request's span opens when the request is accepted, because workers get its context with their task; the phases are
written when the request ends, from its timings, so that tracing costs the token path nothing.
"""

import time
from dataclasses import dataclass, replace

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem.core.ids import RequestId
from tandem.core.types import GenerationTask, Outcome
from tandem.router.actions import Ended

_PROPAGATOR = TraceContextTextMapPropagator()
_HEADER = "traceparent"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """A task that carries the context of its request's span."""

    task: GenerationTask


class Tracing:
    """Open spans of requests that have not ended. Without a configured tracer provider it only passes contexts on."""

    def __init__(self, tracer: trace.Tracer | None = None) -> None:
        self._tracer = tracer or trace.get_tracer("tandem.router")
        self._open: dict[RequestId, trace.Span] = {}

    def begin(self, task: GenerationTask, *, parent: str, label: str) -> RequestTrace:
        """Open the request's span under the caller's context and return the task that carries it."""
        context = _PROPAGATOR.extract({_HEADER: parent}) if parent else None
        span = self._tracer.start_span("request", context=context, kind=trace.SpanKind.SERVER)
        if not span.is_recording():
            return RequestTrace(task=replace(task, traceparent=parent) if parent else task)
        span.set_attribute("tandem.request_id", task.request_id)
        span.set_attribute("tandem.label", label)
        span.set_attribute("gen_ai.usage.input_tokens", len(task.prompt_token_ids))
        self._open[task.request_id] = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, context=trace.set_span_in_context(span))
        return RequestTrace(task=replace(task, traceparent=carrier.get(_HEADER, "")))

    def abandon(self, request_id: RequestId) -> None:
        """The request was refused before the dispatcher took it."""
        span = self._open.pop(request_id, None)
        if span is not None:
            span.set_attribute("tandem.outcome", "refused")
            span.end()

    def end(self, task: GenerationTask, ended: Ended) -> None:
        """Write the phases and close the request's span."""
        span = self._open.pop(task.request_id, None)
        if span is None:
            return
        timings = ended.timings
        end_ns = time.time_ns()
        begin_ns = end_ns - _ns(timings.total_ms)
        dispatched_ns = begin_ns + _ns(timings.tokenize_ms) + _ns(timings.queue_ms)
        prefilled_ns = dispatched_ns + _ns(timings.prefill_ms)
        context = trace.set_span_in_context(span)
        phases = [("queue", begin_ns + _ns(timings.tokenize_ms), dispatched_ns)]
        if timings.prefill_ms is not None:
            phases.append(("prefill", dispatched_ns, prefilled_ns))
        if timings.handover_ms is not None:
            handed_ns = dispatched_ns + _ns(timings.handover_ms)
            phases.append(("kv_transfer", dispatched_ns, max(handed_ns, prefilled_ns)))
        if timings.ttft_ms is not None:
            phases.append(("decode", begin_ns + _ns(timings.ttft_ms), end_ns))
        for name, start_ns, stop_ns in phases:
            phase = self._tracer.start_span(name, context=context, start_time=start_ns)
            phase.end(end_time=max(start_ns, stop_ns))
        span.set_attribute("tandem.outcome", ended.outcome.value)
        span.set_attribute("gen_ai.usage.output_tokens", ended.usage.output_tokens)
        if ended.outcome is not Outcome.OK:
            span.set_status(trace.StatusCode.ERROR, ended.error.reason if ended.error is not None else "")
        span.end(end_time=end_ns)


def _ns(milliseconds: float | None) -> int:
    return 0 if milliseconds is None else round(milliseconds * 1e6)
