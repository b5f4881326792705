"""W3C trace context across processes: out of the current span into a string, and back.

The string travels as gRPC metadata on the public side and as a field of the task between router and workers.
"""

from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT: Final = "traceparent"

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def current_traceparent() -> str:
    """Return the current span as a W3C ``traceparent``; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def context_of(traceparent: str) -> Context:
    """Return the context in which to start a span below ``traceparent``; an empty or broken one starts a new trace."""
    return _PROPAGATOR.extract({TRACEPARENT: traceparent}, Context())


def traceparent_of(span: trace.Span) -> str:
    """Return a span of ours as ``traceparent``, for the next process."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get(TRACEPARENT, "")
