"""The access log: one line for each request, with its duration by stage; counts of requests."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.server.admission import peer_of
from lookalike.server.log_fields import log_fields
from lookalike.server.metrics import Metrics, Stages, collect_stages
from lookalike.server.request_ids import HEADER, request_id

ACCESS_LOG = "lookalike.access"
"""The logger; its messages are fields, at the level INFO."""

_log = logging.getLogger(ACCESS_LOG)

_SHOWN = frozenset(
    (
        *("id", "k", "limit", "size", "format", "offset", "page", "seed", "sort", "order"),
        *("fields", "metric", "rerank", "exact", "multi_crop", "max_distance", "box"),
    )
)
"""Parameters of URLs whose values are logged. Others may be signatures, cursors, metadata or the
words of a search."""

_HIDDEN = "***"
_MAX_QUERY = 2_000
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class AccessLog:
    """ASGI middleware around everything else, so that each response has a line, also of a bug.

    It names requests (:mod:`lookalike.server.request_ids`) and counts them.

    Args:
        app: to call.
        metrics: of the service.
        proxies: addresses of reverse proxies, whose ``X-Forwarded-For`` is believed.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, proxies: Iterable[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._proxies = frozenset(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it once it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        sent = _Response(send, request_id(scope))
        stages = collect_stages()
        try:
            await self._app(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - start
            route, method = _route(scope), _method(scope)
            status = str(sent.status or "disconnected")
            self._metrics.requests.labels(route, method, status).inc()
            self._metrics.durations.labels(route).observe(seconds)
            if _log.isEnabledFor(logging.INFO):
                self._write(scope, sent, seconds, stages)

    def _write(
        self, scope: Scope, sent: _Response, seconds: float, stages: Iterable[Stages]
    ) -> None:
        log_fields(
            _log,
            {
                "method": scope["method"],
                "path": _path(scope),
                "route": _route(scope),
                "status": sent.status,
                "bytes": 0 if scope["method"] == "HEAD" else sent.size,
                "complete": sent.is_complete,
                "duration_ms": _milliseconds(seconds),
                "stages_ms": _sum(stages),
                "key": scope.get("state", {}).get("key"),
                "address": peer_of(scope, self._proxies),
                "request_id": request_id(scope),
            },
        )


class _Response:
    """Sends a response with the ID of its request, and notes what was sent."""

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self._header = (HEADER, identity.encode())
        self.status: int | None = None
        self.size = 0
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], self._header]}
        await self._send(message)
        if message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)


def log_refused(address: str, status: int) -> None:
    """Log a request that was refused before it was complete; of a flood, 20 lines a minute."""
    if _log.isEnabledFor(logging.INFO):
        log_fields(_log, {"status": status, "complete": True, "address": address}, each=False)


def _route(scope: Scope) -> str:
    """Return the route of a request, since paths are unbounded."""
    return getattr(scope.get("route"), "path", "other")


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _path(scope: Scope) -> str:
    """Return path and query as they were sent, without values that may be secret."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.split(b"?", 1)[0].decode("latin-1")
    query = scope["query_string"][:_MAX_QUERY].decode("latin-1")
    if not query:
        return path
    pairs = parse_qsl(query, keep_blank_values=True, encoding="latin-1")
    return path + "?" + "&".join(_parameter(name, value) for name, value in pairs)


def _parameter(name: str, value: str) -> str:
    shown = quote(value, safe="/:,", encoding="latin-1") if name in _SHOWN else _HIDDEN
    return f"{quote(name, encoding='latin-1')}={shown}"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _sum(stages: Iterable[Stages]) -> dict[str, float]:
    """Return milliseconds by stage; a request that searches two galleries has each stage twice."""
    total: Counter[str] = Counter()
    for each in stages:
        total.update(each.seconds)
    return {stage: _milliseconds(seconds) for stage, seconds in total.items()}
