"""A meter in memory: what was recorded, by name and labels."""

from collections.abc import Mapping

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

Labels = frozenset[tuple[str, str]]


def labels(**values: str) -> Labels:
    """Return labels under Tandem's names: ``role="decode"`` is ``tandem.role``."""
    return frozenset((f"tandem.{name}", value) for name, value in values.items())


class Measured:
    """A peer of `tandem.rpc.metrics_endpoint.MetricsEndpoint` for tests."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    @property
    def meter(self) -> Meter:
        """The meter to measure with."""
        return self._provider.get_meter("test")

    def sums(self, name: str) -> Mapping[Labels, float]:
        """Return the sum per set of labels; of a histogram, the sum of what was recorded."""
        return {key: value for key, value, _ in self._points(name)}

    def counts(self, name: str) -> Mapping[Labels, int]:
        """Return how many values a histogram took, per set of labels."""
        return {key: count for key, _, count in self._points(name)}

    def names(self) -> set[str]:
        """Return the names of everything recorded."""
        return {metric for metric, _ in self._all()}

    def _points(self, name: str) -> list[tuple[Labels, float, int]]:
        return [point for metric, point in self._all() if metric == name]

    def _all(self) -> list[tuple[str, tuple[Labels, float, int]]]:
        data = self._reader.get_metrics_data()
        found = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        key = frozenset((name, str(value)) for name, value in (point.attributes or {}).items())
                        if isinstance(point, HistogramDataPoint):
                            found.append((metric.name, (key, float(point.sum), int(point.count))))
                        elif not hasattr(point, "scale"):
                            found.append((metric.name, (key, float(point.value), 1)))
        return found
