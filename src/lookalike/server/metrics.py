"""What the service counts and times, as Prometheus reads it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """Counters and times of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lookalike_requests",
            "Requests answered, by route and status",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.failures = Counter(
            "lookalike_failures",
            "Requests refused or failed, by reason",
            ("reason",),
            registry=self.registry,
        )
        self.stages = Histogram(
            "lookalike_stage_seconds",
            "Time of searches by stage: wait, decode, encode, search, rerank",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "lookalike_waiting",
            "Requests at work or waiting for it",
            registry=self.registry,
        )
        self.held = Gauge(
            "lookalike_held_bytes", "Bodies of requests held in memory", registry=self.registry
        )
        self.restarts = Gauge(
            "lookalike_decoder_restarts",
            "Decoder processes that crashed or were killed",
            registry=self.registry,
        )
        self.rows = Gauge(
            "lookalike_gallery_rows", "Rows of a gallery", ("gallery",), registry=self.registry
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class Stages:
    """Times of the stages of one request, in seconds."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.seconds: dict[str, float] = {}
        self._telemetry = telemetry
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage, also one that fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + took
            self._telemetry.stages.labels(stage).observe(took)

    def header(self) -> str:
        """Return the times as the value of the header Server-Timing."""
        return ", ".join(f"{name};dur={took * 1000:.2f}" for name, took in self.seconds.items())
