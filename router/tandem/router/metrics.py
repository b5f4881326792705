"""The router's metrics, by OpenTelemetry; a Prometheus text endpoint when a port is given."""

import threading
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from tandem.core.errors import EnvironmentProblem
from tandem.core.types import GenerationTask
from tandem.router.actions import Ended
from tandem.router.placement import Placement
from tandem.router.tracing import Tracing


class RouterMetrics:
    """Observer of the dispatcher that counts. Names follow gen_ai.server.* where that has one; seconds throughout."""

    def __init__(self, meter: Meter, tracing: Tracing) -> None:
        self._tracing = tracing
        self._requests = meter.create_counter("tandem.router.requests", description="Ended requests by outcome")
        self._attempts = meter.create_counter("tandem.router.attempts", description="Attempts placed, by kind")
        self._retries = meter.create_counter("tandem.router.retries", description="Further attempts decided")
        self._tokens = meter.create_counter("tandem.router.output_tokens", description="Tokens forwarded")
        self._ttft = meter.create_histogram(
            "gen_ai.server.time_to_first_token", unit="s", description="From arrival to the first token"
        )
        self._tpot = meter.create_histogram(
            "gen_ai.server.time_per_output_token", unit="s", description="Mean time per token after the first"
        )
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration", unit="s", description="From arrival to the end"
        )
        self._queued = meter.create_gauge("tandem.router.queued", description="Requests that wait for a worker")
        self._live = meter.create_gauge("tandem.router.in_flight", description="Requests that have not ended")
        self._waits = meter.create_histogram(
            "tandem.router.queue_wait", unit="s", description="From arrival to the first dispatch"
        )

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """Count an attempt."""
        self._attempts.add(1, {"kind": "local" if placement.prefill is None else "pair"})
        if task.attempt == 0:
            self._waits.record(waited_s)

    def retried(self, task: GenerationTask) -> None:
        """Count a retry."""
        self._retries.add(1)

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """Count an ended request."""
        reason = "" if ended.error is None else ended.error.reason
        self._requests.add(1, {"outcome": ended.outcome.value, "reason": reason})
        self._tokens.add(ended.usage.output_tokens)
        timings = ended.timings
        if timings.total_ms is not None:
            self._duration.record(timings.total_ms / 1e3)
        if timings.ttft_ms is not None:
            self._ttft.record(timings.ttft_ms / 1e3)
            per_child = ended.usage.output_tokens / task.num_sequences
            if timings.total_ms is not None and per_child > 1.0:
                self._tpot.record((timings.total_ms - timings.ttft_ms) / 1e3 / (per_child - 1.0))
        self._tracing.end(task, ended)

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Set the gauges."""
        self._queued.set(num_queued)
        self._live.set(num_live)


class MetricsEndpoint:
    """A meter provider of this router's own and, with a port, the HTTP server that shows it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=self._registry)])
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def meter(self) -> Meter:
        """The meter of the router."""
        return self._provider.get_meter("tandem.router")

    def start(self, host: str, port: int) -> int:
        """Serve the text format; returns the port. Raises EnvironmentProblem when it is taken."""
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise EnvironmentProblem(
                f"the metrics port {port} can't be opened: {error.strerror}", remedy="choose another metrics_port"
            ) from error
        return int(self._server.server_port)

    def stop(self) -> None:
        """Close the server and the provider."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._provider.shutdown()
