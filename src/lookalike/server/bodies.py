"""Reading of request bodies, limited in size, time and memory."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from lookalike.server.admission import Quota, client_of
from lookalike.server.limits import Limits
from lookalike.server.problems import ProblemError
from lookalike.server.running import ClientDisconnected

TIMED_OUT = 408

_UPLOADS = ("/search/image", "/item", "/shared-queries")


class Body:
    """The body of one request, which counts as memory of its client until it is released."""

    def __init__(self, scope: Scope, limits: Limits, quota: Quota) -> None:
        self._scope = scope
        self._limits = limits
        self._quota = quota
        self._held = 0
        self._content = b""
        self.is_read = False

    async def read(self, receive: Receive) -> None:
        """Read the whole body.

        Raises:
            ProblemError: it is too large, or too slow, or the memory for bodies is full.
            ClientDisconnected: the client disconnected meanwhile.
        """
        headers = Headers(scope=self._scope)
        length = headers.get("content-length", "")
        if not length and "transfer-encoding" not in headers:
            self.is_read = True
            return
        max_bytes = self._max_bytes()
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        seconds = self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                self._content = await self._receive_all(receive, max_bytes)
        except TimeoutError:
            raise ProblemError(
                TIMED_OUT,
                "request-timeout",
                f"the request body must arrive within {seconds:g} s",
                {"connection": "close"},
            ) from None
        self.is_read = True

    def take(self) -> bytes:
        """Return the body, which is not held here any longer."""
        content, self._content = self._content, b""
        return content

    def release(self) -> None:
        """Count the body no longer."""
        self._quota.remove(client_of(self._scope), self._held)
        self._held = 0

    def _max_bytes(self) -> int:
        """Return the size limit of the body of a request to a path."""
        limits, path, method = self._limits, self._scope["path"], self._scope["method"]
        if path.endswith(("/search/batch", "/items/batch")):
            return limits.batch_bytes
        if path.endswith("/search"):
            return limits.upload_bytes * 4 // 3 + 100_000  # the image may be encoded as base64
        if path.endswith(_UPLOADS) and method != "PATCH":
            return limits.upload_bytes
        return min(limits.json_bytes, limits.upload_bytes)

    async def _receive_all(self, receive: Receive, max_bytes: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunk = message.get("body", b"")
            if self._held + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            self._quota.add(client_of(self._scope), len(chunk))
            self._held += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(413, "request-too-large", f"the limit is {max_bytes / 1e6:g} MB")


def drain_before_end(send: Send, receive: Receive, seconds: float) -> Send:
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
