"""Metrics and spans of a request."""

import urllib.request
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tandem.core.errors import Unavailable
from tandem.core.types import Outcome, PhaseTimings, Usage
from tandem.router.actions import Ended
from tandem.router.cache.usage import CacheUsage
from tandem.router.metrics import MeasuringObserver
from tandem.router.placement import Placement, PlacementCause
from tandem.router.tracing import Tracing
from tandem.rpc.metrics_endpoint import MetricsEndpoint
from tests.unit.router.builders import D, P, make_task

TIMINGS = PhaseTimings(tokenize_ms=1.0, queue_ms=10.0, prefill_ms=20.0, handover_ms=5.0, ttft_ms=31.0, total_ms=131.0)


def ended(error: Unavailable | None = None) -> Ended:
    return Ended(
        outcome=Outcome.OK if error is None else Outcome.FAILED,
        error=error,
        usage=Usage(prompt_tokens=10, cached_tokens=0, output_tokens=11),
        timings=TIMINGS,
        prefill_worker_id="p",
        decode_worker_id="d",
        num_attempts=1,
    )


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
        text: str = answer.read().decode()
        return text


def recorded() -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider.get_tracer("test")), exporter


def test_metrics_are_shown_as_prometheus_text() -> None:
    endpoint = MetricsEndpoint()
    observer = MeasuringObserver(endpoint.meter, Tracing())
    port = endpoint.start("127.0.0.1", 0)
    try:
        placement = Placement(
            cause=PlacementCause.PAIR,
            prefill=P,
            decode=D,
            reason="x",
            predicted_ttft_s=0.1,
            predicted_prefill_s=0.1,
            num_blocks=1,
        )
        observer.placed(make_task(), placement, waited_s=0.5)
        observer.retried(make_task(), reason="ENGINE_FAILED")
        observer.ended(make_task(), ended())
        observer.ended(make_task(), ended(Unavailable("lost", reason="WORKER_LOST")))
        observer.depth(num_queued=3, num_live=5)
        observer.depth(num_queued=1, num_live=5)
        text = scrape(port)
    finally:
        endpoint.stop()
    assert "tandem_requests_total{" in text
    assert 'tandem_outcome="failed",tandem_reason="WORKER_LOST"' in text
    assert 'tandem_reason="ENGINE_FAILED"' in text
    queued = [line for line in text.splitlines() if line.startswith("tandem_queue_requests{")]
    running = [line for line in text.splitlines() if line.startswith("tandem_running_requests{")]
    assert [float(line.split()[-1]) for line in queued + running] == [1.0, 4.0]
    ttft_sum = next(
        line for line in text.splitlines() if line.startswith("gen_ai_server_time_to_first_token_seconds_sum")
    )
    assert float(ttft_sum.split()[-1]) == pytest.approx(0.062)
    tpot_sum = next(
        line for line in text.splitlines() if line.startswith("gen_ai_server_time_per_output_token_seconds_sum")
    )
    assert float(tpot_sum.split()[-1]) == pytest.approx(0.02)  # (131 - 31) ms over 10 further tokens, twice


def test_a_prompt_counts_once_it_was_computed_however_its_request_ended() -> None:
    endpoint, usage = MetricsEndpoint(), CacheUsage()
    observer = MeasuringObserver(endpoint.meter, Tracing(), usage)
    port = endpoint.start("127.0.0.1", 0)
    shed = replace(
        ended(Unavailable("full")),
        usage=Usage(prompt_tokens=10, cached_tokens=0, output_tokens=0, prompt_computed=False),
    )
    left = replace(ended(Unavailable("gone")), usage=Usage(prompt_tokens=10, cached_tokens=4, output_tokens=1))
    try:
        for each in (shed, left, ended()):
            observer.ended(make_task(), each)
        text = scrape(port)
    finally:
        endpoint.stop()
    for name, expected in (("cached", 4.0), ("uncached", 16.0)):
        (line,) = [ln for ln in text.splitlines() if ln.startswith(f"tandem_request_{name}_tokens_total{{")]
        assert float(line.split()[-1]) == expected
    (tenant,) = usage.tenants()
    assert (tenant.num_requests, tenant.cached_tokens, tenant.uncached_tokens) == (2, 4, 16)


def test_spans_of_a_request_lie_below_the_callers_and_cover_its_phases() -> None:
    tracing, exporter = recorded()
    parent = "00-11111111111111111111111111111111-2222222222222222-01"
    task = tracing.begin(make_task(), parent=parent, label="mine")
    assert task.traceparent.startswith("00-11111111111111111111111111111111-")
    assert task.traceparent != parent
    tracing.end(task, ended())
    spans = {span.name.removeprefix("tandem."): span for span in exporter.get_finished_spans()}
    assert set(spans) == {"request", "queue", "prefill", "kv_transfer", "decode"}
    request = spans["request"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "2222222222222222"
    assert request.context is not None
    for name, span in spans.items():
        if name != "request":
            assert span.parent is not None
            assert span.parent.span_id == request.context.span_id
            assert span.start_time is not None
            assert span.end_time is not None
            assert span.start_time <= span.end_time
    assert (spans["queue"].end_time or 0) - (spans["queue"].start_time or 0) == 10_000_000
    assert (spans["prefill"].end_time or 0) - (spans["prefill"].start_time or 0) == 20_000_000
    assert tracing.num_open == 0


def test_a_refused_request_leaves_no_open_span() -> None:
    tracing, exporter = recorded()
    task = tracing.begin(make_task(), parent="", label="")
    tracing.refuse(task.request_id, "QUEUE_FULL")
    tracing.refuse(task.request_id, "QUEUE_FULL")
    tracing.end(task, ended())
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["tandem.outcome"] == "shed"
    assert tracing.num_open == 0


def test_without_a_provider_the_callers_context_is_passed_on() -> None:
    parent = "00-11111111111111111111111111111111-2222222222222222-01"
    tracing = Tracing()
    task = tracing.begin(make_task(), parent=parent, label="")
    assert task.traceparent.startswith("00-11111111111111111111111111111111-")
    tracing.end(task, ended())
    assert tracing.num_open == 0
