"""Prometheus metrics of the server, in a registry per app."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters, gauges and histograms of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: Any = {"namespace": "latentbridge", "registry": self.registry}
        self.responses = Counter("responses", "Responses by path and status", ["path", "status"], **options)
        self.rejected = Counter("requests_rejected", "Requests rejected because the server was full", **options)
        self.in_flight = Gauge("requests_in_flight", "Requests queued or running", **options)
        self.workers = Gauge("workers", "Workers ready to run jobs", **options)
        self.lost = Counter("workers_lost", "Worker processes that died", **options)
        self.tokens = Counter("generated_tokens", "Tokens generated", **options)
        self.batch_sizes = Histogram("batch_size", "Items computed in one pass", ["kind"], buckets=_SIZES, **options)
        self.seconds = Histogram(
            "job_duration_seconds", "From submission to the last result", ["kind"], buckets=_SECONDS, **options
        )

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
