"""The metrics page of one process: a meter provider of its own and, once started, plain HTTP with Prometheus' text."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from tandem.core.errors import EnvironmentProblem
from tandem.rpc.telemetry import SCOPE, meter


class MetricsEndpoint:
    """What is recorded with ``meter`` is shown from `start` to `stop`, and by nobody else in this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=self._registry)])
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def meter(self) -> Meter:
        """The meter whose instruments are shown."""
        return self._provider.get_meter(SCOPE)

    def start(self, host: str, port: int) -> int:
        """Serve the text format; returns the port. Raises EnvironmentProblem when it is taken."""
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise EnvironmentProblem(
                f"the metrics port {port} can't be opened: {error.strerror}",
                remedy="choose another router.metrics_port, workers.metrics_port or workers.metrics_base_port",
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


@contextmanager
def metrics_page(host: str, port: int | None) -> Iterator[Meter]:
    """Give a meter whose instruments are shown at ``host:port`` until the end of the block.

    Without a port it is the process's own meter, silent unless a composition root has set a provider.
    Raises EnvironmentProblem when the port is taken.
    """
    if port is None:
        yield meter()
        return
    endpoint = MetricsEndpoint()
    try:
        endpoint.start(host, port)
        yield endpoint.meter
    finally:
        endpoint.stop()
