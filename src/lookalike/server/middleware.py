"""ASGI middleware for all requests: host, API key, body size and time, response headers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.server.api_keys import find_key
from lookalike.server.metrics import Metrics
from lookalike.server.pages import is_page_request, problem_page
from lookalike.server.problems import MEDIA_TYPE, ProblemError, too_many_requests
from lookalike.server.settings import ServeSettings

_PUBLIC = ("/healthz", "/readyz", "/openapi.json")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_READ_ONLY_POSTS = ("/search", "/search/image", "/search/batch", "/results", "/labeling/coverage")
_BATCH = "/search/batch"
_REQUEST_TIMEOUT = 408
_RESPONSE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Middleware:
    """Checks requests and reads their bodies before the application sees them.

    Bodies are counted while they arrive, limited in time, and limited together in memory.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _ResponseSender(scope, send, self._metrics)
        size = 0
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(scope, headers)
            body = await self._read_body(scope, headers, receive)
            size = len(body)
            await self._app(scope, _replay(body, receive), sender)
        except ProblemError as problem:
            timed_out = problem.status == _REQUEST_TIMEOUT
            seconds = 0 if timed_out else self._settings.limits.body_seconds
            response = problem_response(problem, scope)
            await response(scope, receive, _drain_before_end(sender, receive, seconds))
        except _ClientDisconnected:
            return
        finally:
            self._count_buffered(-size)
            sender.count()

    def _check_host(self, headers: Headers) -> None:
        """Refuse unknown host names, which protects against DNS rebinding."""
        hosts = self._settings.hosts
        name = headers.get("host", "")
        host = name if name.endswith("]") else name.rsplit(":", 1)[0]
        if hosts and host.lower() not in hosts:
            raise ProblemError(
                421,
                "host-not-allowed",
                "Host not allowed",
                f"the request is for the host {host[:100]!r}; to allow it, start the service with: "
                "lookalike serve --allow-host HOST",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        if path in _PUBLIC or method == "OPTIONS" or path.startswith("/static/"):
            return
        writes = method not in _SAFE_METHODS and not path.endswith(_READ_ONLY_POSTS)
        keys = self._settings.keys
        if not keys:
            if writes and not self._settings.allow_writes:
                raise ProblemError(
                    403,
                    "forbidden",
                    "Writing is disabled",
                    "start the service with lookalike serve --write, or with --keys and send a key "
                    "that has write permission",
                )
            return
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            secret = headers.get("x-api-key", "")
        key = find_key(secret.strip(), keys) if secret else None
        if key is None:
            raise ProblemError(
                401,
                "api-key-required",
                "API key required",
                "send a valid key as Authorization: Bearer KEY or X-API-Key: KEY",
                {"www-authenticate": "Bearer"},
            )
        if writes and not key.write:
            raise ProblemError(
                403, "forbidden", "Write permission required", f"the key {key.name!r} is read-only"
            )

    async def _read_body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        length = headers.get("content-length", "")
        if not length and "transfer-encoding" not in headers:
            return b""
        max_bytes = self._max_bytes(scope["path"])
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        seconds = self._settings.limits.body_seconds
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(seconds):
                return await self._receive_all(receive, chunks, max_bytes)
        except BaseException as error:
            self._count_buffered(-sum(map(len, chunks)))
            if not isinstance(error, TimeoutError):
                raise
            raise ProblemError(
                _REQUEST_TIMEOUT,
                "request-timeout",
                "Request timed out",
                f"the request body must arrive within {seconds:g} s",
                {"connection": "close"},
            ) from None

    def _max_bytes(self, path: str) -> int:
        """Return the size limit of the body of a request to a path."""
        limits = self._settings.limits
        max_bytes = limits.batch_bytes if path.endswith(_BATCH) else limits.upload_bytes
        if path.endswith("/search"):
            return max_bytes * 4 // 3 + 100_000  # the image may be encoded as base64
        return max_bytes

    async def _receive_all(self, receive: Receive, chunks: list[bytes], max_bytes: int) -> bytes:
        """Receive a body; ``chunks`` collects what is held in memory."""
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientDisconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            chunks.append(chunk)
            self._count_buffered(len(chunk))
            if size > max_bytes:
                raise _too_large(max_bytes)
            if self._buffered_bytes > self._settings.limits.buffered_bytes:
                raise too_many_requests("the memory for uploads is full")
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _count_buffered(self, size: int) -> None:
        self._buffered_bytes += size
        self._metrics.buffered_bytes.set(self._buffered_bytes)


class _ClientDisconnected(Exception):  # noqa: N818 - not an error
    """The client disconnected while sending."""


class _ResponseSender:
    """Sends a response with the common headers, and counts the request."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            names = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in _RESPONSE_HEADERS if pair[0] not in names]
            if b"cache-control" not in names:
                added.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    def count(self) -> None:
        """Count the request by its route, since paths are unbounded."""
        route = self._scope.get("route")
        path = getattr(route, "path", "other")
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        status = str(self._status or "disconnected")
        self._metrics.requests.labels(path, method, status).inc()


def problem_response(problem: ProblemError, scope: Scope) -> Response:
    """Return a problem as a page where a page was requested, else as a problem document."""
    accept = Headers(scope=scope).get("accept", "")
    if is_page_request(scope["method"], scope["path"], accept):
        return problem_page(problem)
    return _ProblemResponse(
        problem.as_dict(),
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


class _ProblemResponse(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()  # ASCII: a detail may quote invalid Unicode


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(
        413, "request-too-large", "Request too large", f"the limit is {max_bytes / 1e6:g} MB"
    )


def _drain_before_end(send: Send, receive: Receive, seconds: float) -> Send:
    """Return a send that ends the response once the request body was received, or after a time.

    All of the response is sent before. A client that is still sending would not read it if the
    connection were closed at once.
    """

    async def drain(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body"})

    return drain


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive that yields a body that was read before, then waits for a disconnect."""
    messages: Sequence[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    pending = iter(messages)

    async def replay() -> Message:
        message = next(pending, None)
        return await receive() if message is None else message

    return replay
