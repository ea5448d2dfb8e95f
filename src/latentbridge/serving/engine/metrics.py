"""What the server counts, for Prometheus; a registry of its own for every app, so that tests do not add up."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Requests and work, by kind."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "latentbridge_{}".format
        self.answers = Counter(name("answers"), "Answers by path and status", ["path", "status"], registry=registry)
        self.refused = Counter(name("refused"), "Requests refused because the server was full", registry=registry)
        self.inside = Gauge(name("requests_inside"), "Requests waiting or at work", registry=registry)
        self.workers = Gauge(name("workers"), "Workers that can work", registry=registry)
        self.lost = Counter(name("workers_lost"), "Worker processes that died", registry=registry)
        self.tokens = Counter(name("tokens"), "Tokens written", registry=registry)
        self.batch_sizes = Histogram(
            name("batch_size"), "Items computed in one pass", ["kind"], buckets=_SIZES, registry=registry
        )
        self.seconds = Histogram(
            name("work_seconds"),
            "Seconds from coming in to the last result",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
