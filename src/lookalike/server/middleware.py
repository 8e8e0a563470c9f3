"""What every request passes: who asks, how much is sent and how fast, and what answers carry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.server.api_keys import find_key
from lookalike.server.metrics import Telemetry
from lookalike.server.pages import is_page, problem_page
from lookalike.server.problems import MEDIA_TYPE, ProblemError, too_busy
from lookalike.server.settings import ServeSettings

_OPEN = ("/healthz", "/readyz", "/openapi.json")
_READING = ("GET", "HEAD", "OPTIONS")
_QUESTIONS = ("/search", "/search/image", "/search/batch", "/results", "/labeling/coverage")
_BATCH = "/search/batch"
_TOO_SLOW = 408
_SECURITY = (
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


class Gate:
    """ASGI middleware: host, key, body and headers.

    A body is read whole, counted as it comes and within a time, before the application sees the
    request; all bodies held at a time are bounded too.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, telemetry: Telemetry) -> None:
        self._app = app
        self._settings = settings
        self._telemetry = telemetry
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        out = _Answer(scope, send, self._telemetry)
        size = 0
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(scope, headers)
            body = await self._read(scope, headers, receive)
            size = len(body)
            await self._app(scope, _replayed(body, receive), out)
        except ProblemError as problem:
            seconds = 0 if problem.status == _TOO_SLOW else self._settings.limits.body_seconds
            await respond(problem, scope)(scope, receive, _lingering(out, receive, seconds))
        except _Gone:
            return
        finally:
            self._hold(-size)
            out.count()

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not ours: a page elsewhere may have one that means this machine."""
        hosts = self._settings.hosts
        name = headers.get("host", "")
        host = name if name.endswith("]") else name.rsplit(":", 1)[0]
        if hosts and host.lower() not in hosts:
            raise ProblemError(
                421,
                "wrong-host",
                "The service does not go by this name",
                f"it was asked as {host[:100]!r}; allow that with lookalike serve --allow-host",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        if path in _OPEN or method == "OPTIONS" or path.startswith("/static/"):
            return
        writes = method not in _READING and not path.endswith(_QUESTIONS)
        keys = self._settings.keys
        if not keys:
            if writes and not self._settings.write:
                raise ProblemError(
                    403,
                    "not-allowed",
                    "Writing is off",
                    "start the service with --write, or with --keys and use one that may write",
                )
            return
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            secret = headers.get("x-api-key", "")
        found = find_key(secret.strip(), keys) if secret else None
        if found is None:
            raise ProblemError(
                401,
                "no-key",
                "An API key is needed",
                "send it as Authorization: Bearer KEY, or as X-API-Key: KEY",
                {"www-authenticate": "Bearer"},
            )
        if writes and not found.write:
            raise ProblemError(
                403, "not-allowed", "The key may not write", f"the key {found.name!r} may only read"
            )

    async def _read(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        limits = self._settings.limits
        said = headers.get("content-length", "")
        if not said and "transfer-encoding" not in headers:
            return b""
        most = limits.batch_bytes if scope["path"].endswith(_BATCH) else limits.upload_bytes
        if scope["path"].endswith("/search"):
            most = most * 4 // 3 + 100_000  # an image may come as base64 text
        if said.isdigit() and int(said) > most:
            raise _too_large(most)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    piece = message.get("body", b"")
                    size += len(piece)
                    self._hold(len(piece))
                    if size > most:
                        raise _too_large(most)
                    if self._held > limits.held_bytes:
                        raise too_busy("it holds as many uploads as it may")
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except BaseException as error:
            self._hold(-size)
            if not isinstance(error, TimeoutError):
                raise
            raise ProblemError(
                _TOO_SLOW,
                "too-slow",
                "The request took too long to arrive",
                f"its body must be here within {limits.body_seconds:g} s",
                {"connection": "close"},
            ) from None

    def _hold(self, size: int) -> None:
        self._held += size
        self._telemetry.held.set(self._held)


class _Gone(Exception):  # noqa: N818 - no error: whoever asked has left
    """The client left while it was sending."""


class _Answer:
    """Sends an answer with the headers that all have, and counts it."""

    def __init__(self, scope: Scope, send: Send, telemetry: Telemetry) -> None:
        self._scope = scope
        self._send = send
        self._telemetry = telemetry
        self._status: int | None = None
        self._start = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            there = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in _SECURITY if pair[0] not in there]
            if b"cache-control" not in there:
                added.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    def count(self) -> None:
        """Count the request by its route, not by its address, of which there are many."""
        route = self._scope.get("route")
        path = getattr(route, "path", "other")
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        status = str(self._status or "gone")
        self._telemetry.requests.labels(path, method, status).inc()


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def respond(problem: ProblemError, scope: Scope) -> Response:
    """Return a problem as an answer: as a page where a page was asked for."""
    accept = Headers(scope=scope).get("accept", "")
    if is_page(scope["method"], scope["path"], accept):
        return problem_page(problem)
    return _ProblemResponse(
        problem.as_dict(),
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


class _ProblemResponse(JSONResponse):
    def render(self, content: Any) -> bytes:
        import json

        return json.dumps(content).encode()  # ASCII: a detail may quote what is no text


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        413,
        "too-large",
        "The request is too large",
        f"at most {most / 1e6:g} MB can be sent",
    )


def _lingering(send: Send, receive: Receive, seconds: float) -> Send:
    """Return a send that ends an answer when the body is here, or after some seconds.

    All bytes of the answer go out before. Who is still sending would not read them if the
    connection were closed at once.
    """

    async def linger(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body"})

    return linger


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives the body at once, and then waits for the client to leave."""
    pending: Sequence[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    given = iter(pending)

    async def replay() -> Message:
        message = next(given, None)
        return await receive() if message is None else message

    return replay
