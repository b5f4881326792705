"""Trace context there and back, and the names of what is measured."""

import re

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tandem.core.ids import WorkerId
from tandem.core.types import WorkerLoad
from tandem.rpc import telemetry
from tandem.rpc.trace import context_of, current_traceparent, traceparent_of


def _measured(provider: MeterProvider, reader: InMemoryMetricReader) -> dict[str, tuple[str, str]]:
    data = reader.get_metrics_data()
    provider.shutdown()
    if data is None:
        return {}
    metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
    return {metric.name: (metric.unit or "", metric.description or "") for metric in metrics}


def test_instruments_have_standard_names_units_and_words() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    router = telemetry.router_metrics(provider.get_meter("t"))
    worker = telemetry.worker_metrics(provider.get_meter("t"))
    telemetry.show_worker_load(provider.get_meter("t"), WorkerId("decode-0"), WorkerLoad)
    for histogram in (
        router.request_duration_s,
        router.time_to_first_token_s,
        router.time_per_output_token_s,
        router.queue_wait_s,
        router.prompt_tokens,
        router.output_tokens,
        worker.step_duration_s,
        worker.handover_duration_s,
    ):
        histogram.record(1)
    for counter in (
        router.requests,
        router.attempts,
        router.queued_requests,
        router.running_requests,
        worker.prefill_tokens,
        worker.cached_tokens,
        worker.decode_tokens,
        worker.handover_bytes,
        worker.handover_skipped_bytes,
        worker.handover_failures,
        worker.attempt_failures,
        worker.preemptions,
    ):
        counter.add(1)
    measured = _measured(provider, reader)
    assert len(measured) == 25
    for name, (unit, words) in measured.items():
        assert re.fullmatch(r"(gen_ai\.server|tandem)\.[a-z_.]+", name)
        assert unit in {"s", "By"} or re.fullmatch(r"\{[a-z]+\}", unit)
        assert words.endswith(".")
    assert {name for name in measured if name.startswith("gen_ai.")} == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }


def test_without_a_set_up_everything_does_nothing() -> None:
    telemetry.router_metrics(telemetry.meter()).requests.add(1)
    with telemetry.tracer().start_as_current_span(telemetry.SPAN_REQUEST):
        assert current_traceparent() == ""


def test_a_span_below_another_process() -> None:
    tracer = TracerProvider().get_tracer("t")
    parent = tracer.start_span("router")
    text = traceparent_of(parent)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", text)
    child = tracer.start_span("worker", context=context_of(text))
    assert isinstance(child, ReadableSpan)
    assert child.get_span_context().trace_id == parent.get_span_context().trace_id
    assert child.parent is not None
    assert child.parent.span_id == parent.get_span_context().span_id


def test_the_current_span_goes_along() -> None:
    span = TracerProvider().get_tracer("t").start_span("s")
    with trace.use_span(span):
        assert current_traceparent() == traceparent_of(span)
    assert current_traceparent() == ""


@pytest.mark.parametrize("text", ["", "00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000, "é"])
def test_a_broken_parent_starts_a_new_trace(text: str) -> None:
    span = TracerProvider().get_tracer("t").start_span("s", context=context_of(text))
    assert isinstance(span, ReadableSpan)
    assert span.parent is None
