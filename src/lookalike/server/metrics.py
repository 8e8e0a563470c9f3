"""Prometheus metrics of the service, and stage timings of single requests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters, gauges and histograms of one service; memory and CPU of its process on Linux."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "lookalike_requests",
            "Requests by route, method and status",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.durations = Histogram(
            "lookalike_request_seconds",
            "Duration of requests by route, until their responses are sent",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.failures = Counter(
            "lookalike_failures",
            "Failed requests by reason (the problem type)",
            ("reason",),
            registry=self.registry,
        )
        self.stages = Histogram(
            "lookalike_stage_seconds",
            "Duration of search stages: fetch, decode, encode, search, rerank, keywords",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.requests_in_progress = Gauge(
            "lookalike_requests_in_progress",
            "Searches and writes being processed or queued",
            registry=self.registry,
        )
        self.buffered_bytes = Gauge(
            "lookalike_buffered_bytes", "Request bodies held in memory", registry=self.registry
        )
        self.unsent_bytes = Gauge(
            "lookalike_unsent_response_bytes", "Responses held in memory", registry=self.registry
        )
        self.cancelled = Counter(
            "lookalike_cancelled_requests",
            "Requests ended before their response: disconnected, time-limit, stopping",
            ("reason",),
            registry=self.registry,
        )
        self.ready = Gauge(
            "lookalike_gallery_ready",
            "Whether the last readiness check could search a gallery",
            ("gallery",),
            registry=self.registry,
        )
        self.restarts = Gauge(
            "lookalike_decoder_restarts", "Decoder processes replaced", registry=self.registry
        )
        self.rows = Gauge(
            "lookalike_gallery_rows", "Images in a gallery", ("gallery",), registry=self.registry
        )

        self.key_file_valid = Gauge(
            "lookalike_key_file_valid",
            "Whether the key file could be read when it changed last; 1 without one",
            registry=self.registry,
        )
        self.key_file_valid.set(1)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


_collected: ContextVar[list[Stages] | None] = ContextVar("lookalike-stages", default=None)


def collect_stages() -> list[Stages]:
    """Return a list that gets the stages of all searches of the current request."""
    collected: list[Stages] = []
    _collected.set(collected)
    return collected


class Stages:
    """Durations of the stages of one search, in seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self.seconds: dict[str, float] = {}
        self._metrics = metrics
        self._lock = threading.Lock()
        collected = _collected.get()
        if collected is not None:
            collected.append(self)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage, even one that fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            duration = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + duration
            self._metrics.stages.labels(stage).observe(duration)

    def header(self) -> str:
        """Return the value of a ``Server-Timing`` header, in milliseconds."""
        return ", ".join(
            f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in self.seconds.items()
        )
