"""Numbers about the control plane for Prometheus. Counted by the boundary, read at /metrics.

Labels are route templates and never paths, so their number is bounded and no id or name gets in.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset."""
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30, 300)


class _Tally(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Read it."""
        yield CounterMetricFamily(self._name, self._help, value=self._read())


class Metrics:
    """The registry of one control plane."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Gauge("nacre_build_info", "Version of the control plane.", ["version"], registry=self.registry).labels(
            version
        ).set(1)
        self.requests = Counter(
            "nacre_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "nacre_http_request_seconds",
            "Time until a request was answered in full.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._vms = Gauge("nacre_vms", "Machines by phase.", ["phase"], registry=self.registry)
        self.open = Gauge("nacre_http_open_requests", "Requests being answered now.", registry=self.registry)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read when it is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def tally(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a counter whose value is read when it is asked for."""
        self.registry.register(_Tally(name, help_text, read))

    def machines(self, phases: Mapping[str, int]) -> None:
        """Set how many machines are in each phase."""
        self._vms.clear()
        for phase, number in phases.items():
            self._vms.labels(phase).set(number)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record one answered request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
