"""Prometheus metrics of the server, in a registry per app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters, gauges and histograms of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "latentbridge_{}".format
        self.responses = Counter(
            name("responses"), "Responses by path and status", ["path", "status"], registry=registry
        )
        self.rejected = Counter(
            name("requests_rejected"), "Requests rejected because the server was full", registry=registry
        )
        self.in_flight = Gauge(name("requests_in_flight"), "Requests queued or running", registry=registry)
        self.workers = Gauge(name("workers"), "Workers ready to run jobs", registry=registry)
        self.lost = Counter(name("workers_lost"), "Worker processes that died", registry=registry)
        self.tokens = Counter(name("generated_tokens"), "Tokens generated", registry=registry)
        self.batch_sizes = Histogram(
            name("batch_size"), "Items computed in one pass", ["kind"], buckets=_SIZES, registry=registry
        )
        self.seconds = Histogram(
            name("job_duration_seconds"),
            "Seconds from submission to the last result",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
