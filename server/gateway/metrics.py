"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.gateway.journal import WatchStatus
from server.gateway.lineup import LineUp
from server.gateway.reloading import Reload

STAGE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("relay_requests", "Requests by path and status.", ["path", "status"])
        self._reloads = self._counter("relay_reloads", "Tries to bring a version into service.", ["outcome"])
        self._stages = Histogram(
            "relay_reload_stage_seconds", "Seconds per stage of a reload.", ["stage"],
            buckets=STAGE_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._downloaded = self._counter("relay_downloaded_bytes", "Bytes fetched from the store.", [])
        self._served = self._gauge(
            "relay_served_model_info", "1 for the version in service.", ["name", "version", "digest"]
        )
        self._in_flight = self._gauge("relay_requests_in_flight", "Requests being answered, by version.", ["version"])
        self._lag = self._gauge("relay_registry_lag_seconds", "How long the alias has named what is not served.", [])
        self._answers = self._gauge("relay_registry_up", "1 when the registry answered the last look.", [])
        self._ready = self._gauge("relay_ready", "1 when a model answers.", [])

    def _counter(self, name: str, text: str, labels: Iterable[str]) -> Counter:
        return Counter(name, text, tuple(labels), registry=self._registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str]) -> Gauge:
        return Gauge(name, text, tuple(labels), registry=self._registry)

    def count_request(self, path: str, status: int) -> None:
        """One more answer."""
        self._requests.labels(path, str(status)).inc()

    def count_reload(self, reload: Reload) -> None:
        """One more try to bring a version into service."""
        self._reloads.labels(reload.outcome).inc()
        self._downloaded.inc(reload.downloaded_bytes)
        for stage, seconds in reload.watch.seconds.items():
            self._stages.labels(stage).observe(seconds)

    def render(self, lineup: LineUp, status: WatchStatus) -> bytes:
        """The text that Prometheus reads; the gauges are taken now."""
        self._served.clear()
        self._in_flight.clear()
        slots = [slot for slot in (lineup.current, lineup.previous) if slot is not None]
        for slot in slots:
            self._in_flight.labels(str(slot.checkpoint.version.version)).set(slot.in_flight)
        if (current := lineup.current) is not None:
            version = current.checkpoint.version
            self._served.labels(version.name, str(version.version), current.checkpoint.digest[:12]).set(1)
        since = status.behind_since
        self._lag.set((datetime.now(UTC) - since).total_seconds() if since else 0.0)
        self._answers.set(status.registry_answers)
        self._ready.set(current is not None and current.is_alive())
        return generate_latest(self._registry)
