"""Sending of responses: common headers, a budget of memory, and files piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lookalike.cancellation import Cancellation, cancellable
from lookalike.server.admission import Quota, client_of
from lookalike.server.metrics import Metrics
from lookalike.server.problems import ProblemError

PIECE = 1 << 16
"""Bytes that are sent before the client must have read what came before."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)

ProblemResponse = Callable[[ProblemError, Scope], Response]
"""Returns the response that reports a problem."""


def get_instead_of_head(scope: Scope) -> Scope:
    """Return the scope of a GET for that of a HEAD, to which the server sends no body."""
    if scope["method"] != "HEAD":
        return scope
    scope.setdefault("state", {})["is_head"] = True
    return {**scope, "method": "GET"}


def is_head(scope: Scope) -> bool:
    """Return whether a request is a HEAD request."""
    return bool(scope.get("state", {}).get("is_head"))


class ResponseSender:
    """Sends one response with the common headers.

    A response that is in memory as a whole is sent in pieces, and counts as memory of the client
    until it is sent. Beyond the quota a problem is sent instead.
    """

    def __init__(
        self,
        scope: Scope,
        send: Send,
        quota: Quota,
        metrics: Metrics,
        problem_response: ProblemResponse,
    ) -> None:
        self._scope = scope
        self._send = send
        self._quota = quota
        self._metrics = metrics
        self._problem_response = problem_response
        self._start: Message | None = None
        self.is_embeddable = False
        """Whether pages of other origins may show what is sent, as they may call the API."""
        self.status: int | None = None
        self.is_complete = False
        """Whether the end of the response is being sent."""
        self.on_start: Callable[[], None] = lambda: None
        """Called when the response starts, after the work for it."""

    @property
    def started(self) -> bool:
        """Whether a part of the response may have been sent."""
        return self.status is not None

    async def __call__(self, message: Message) -> None:
        """Send a message of the application."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = len(message.get("body", b"")) <= PIECE
        if message["type"] == "http.response.start":
            self._start = message  # waits for the body, which may be too much
            return
        if self._start is None:
            await self._send(message)
            return
        start, self._start = self._start, None
        body = message.get("body", b"")
        if message.get("more_body", False) or len(body) <= PIECE:
            await self._begin(start)
            await self._send(message)
            return
        await self._send_whole(start, body)

    async def _send_whole(self, start: Message, body: bytes) -> None:
        """Send a response whose body is in memory."""
        client, size = client_of(self._scope), len(body)
        try:
            self._quota.add(client, size)
        except ProblemError as problem:
            self._metrics.failures.labels(problem.kind).inc()
            response = self._problem_response(problem, self._scope)
            await response(self._scope, _nothing, self)
            return
        try:
            await self._begin(start)
            view = memoryview(body)
            for place in range(0, size, PIECE):
                piece = bytes(view[place : place + PIECE])
                more = place + PIECE < size
                self.is_complete = not more
                await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self._quota.remove(client, size)

    async def _begin(self, start: Message) -> None:
        self.status = start["status"]
        self.on_start()
        names = {name.lower() for name, _ in start["headers"]}
        added = [pair for pair in _HEADERS if pair[0] not in names]
        policy = b"cross-origin" if self.is_embeddable else b"same-origin"
        added.append((b"cross-origin-resource-policy", policy))
        if b"cache-control" not in names:
            added.append((b"cache-control", b"no-store"))
        await self._send({**start, "headers": [*start["headers"], *added]})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


class FileResponse(Response):
    """An open file, of which one piece at a time is in memory; it is closed in the end.

    Args:
        file: to send from its beginning, as long as it is now.
        size: of it, in bytes.
        quota: of files that are sent at a time.
        in_thread: runs blocking work in a thread.
        media_type: of the file.
        headers: more headers of the response.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        *,
        quota: Quota,
        in_thread: Callable[..., Awaitable[Any]],
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, 200, {**headers, "content-length": str(size)}, media_type)
        self._file = file
        self._size = size
        self._quota = quota
        self._in_thread = in_thread

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the file; to a HEAD request, only its headers.

        Raises:
            OSError: it became shorter; the connection is closed then.
        """
        unlimited = Cancellation()  # the time for the request ends where its response begins
        with contextlib.closing(self._file), self._quota.take(), cancellable(unlimited):
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            left = 0 if is_head(scope) else self._size
            while left:
                piece = await self._in_thread(self._file.read, min(PIECE, left))
                if not piece:
                    raise OSError("a file that is being sent has become shorter")
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
