"""uvicorn's HTTP protocol with limits on slow, large and stalled requests.

uvicorn keeps a connection whose headers never end, or whose response is never read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.server.limits import Limits

SHUTDOWN_SECONDS = 15
"""Time to finish accepted requests after a signal to stop."""

_ABORT_SECONDS = SHUTDOWN_SECONDS - 1
_LINGER_SECONDS = 2
_MAX_PIPELINED = 64
"""Requests of one connection that may arrive before the first of them is answered."""


class _LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with time limits for headers and responses, and a size limit for headers.

    ``limits`` is set by :func:`limited_protocol`, since uvicorn creates the instances.
    """

    limits: Limits
    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _refused = False
    _in_body = False
    _header_bytes = 0
    """Bytes since the request started or the last body chunk: request line, headers, trailers."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that "paused" means: not everything is sent
        self._start_timer(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._timer is None and not self._in_body and self._is_idle():
            self._start_timer(self.limits.header_seconds)
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > self.limits.header_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes or len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError  # the parser reports it as its own error
        self._stop_timer()
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self._is_idle():
            self.transport.close()

    def send_400_response(self, _: str) -> None:
        too_large = self._header_bytes > self.limits.header_bytes
        self._refuse(b"431 Request Header Fields Too Large" if too_large else b"400 Bad Request")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()  # abort before uvicorn cancels its tasks, which it logs as errors
        self.loop.call_later(_ABORT_SECONDS, self.transport.abort)

    def _is_idle(self) -> bool:
        """Return whether the last request is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._header_bytes = None, 0

    def _time_out(self) -> None:
        if self._refused:
            self.transport.abort()
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Respond, then discard what still arrives: closing at once would lose the response."""
        self._stop_timer()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        self.transport.write_eof()
        self._start_timer(_LINGER_SECONDS)


def limited_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol class for some limits."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})
