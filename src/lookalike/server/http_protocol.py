"""uvicorn's HTTP protocol with limits on slow, large and stalled requests.

uvicorn keeps a connection whose headers never end, or whose response is never read; and does not
notice that a client left which has sent several requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.server.access_log import log_refused
from lookalike.server.admission import network_of
from lookalike.server.connections import ConnectionTable, connection_limit, has_hung_up
from lookalike.server.limits import Limits

ABORT_SECONDS = 10.0
"""Time from a signal to stop until connections are closed."""

_HANG_UP_SECONDS = 0.5
"""How often a connection with queued requests is checked."""

_LINGER_SECONDS = 2
_MAX_PIPELINED = 64
"""Requests of one connection that may arrive before the first of them is answered."""

_READ_BYTES = 1 << 16
"""Bytes of one connection that are parsed before it is the turn of others."""

_MAX_HEADERS = 200
"""Headers and trailers of one request."""

_FREE_CHUNKS, _MIN_CHUNK = 1_000, 64
"""Chunks of a body beyond so many have at least so many bytes, on average: parsing a chunk takes as
long as some kilobytes do."""


class _ResponseTransport:
    """The transport of one response, whose headers are sent together with the begin of its body.

    Each sending is a system call, after which other threads compute before the next one.
    """

    def __init__(self, cycle: Any) -> None:
        self._cycle = weakref.proxy(cycle)  # which has this, and the body of the request
        self._transport = cycle.transport
        self._headers: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send a part of the response; its headers wait."""
        if self._headers is None and self._cycle.response_started:
            self._headers = data
            return
        self._transport.write((self._headers or b"") + data)
        self._headers = b"" if self._headers is not None else None

    def flush(self) -> None:
        """Send headers without a body."""
        if self._headers:
            self.write(b"")

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._transport.close()


class _LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with time limits for headers and responses, and a size limit for headers.

    ``limits`` and ``table`` are set by :func:`limited_protocol`, since uvicorn creates the
    instances.
    """

    limits: Limits
    table: ConnectionTable
    _running: Any = None
    """The cycle of the request that is processed."""
    _hang_up_timer: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _refused = False
    _in_body = False
    _chunks = _chunk_bytes = 0
    _too_many_headers = False
    _header_bytes = 0
    """Bytes since the request started or the last body chunk: request line, headers, trailers."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not self.table.admit(self):
            self._refused = True
            transport.abort()
            return
        transport.set_write_buffer_limits(0)  # so that "paused" means: not everything is sent
        transport.max_size = _READ_BYTES
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

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._too_many_headers = True
            raise ValueError

    def on_headers_complete(self) -> None:
        self._chunks = self._chunk_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes or len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError  # the parser reports it as its own error
        self._stop_timer()
        self._in_body = True
        super().on_headers_complete()
        if self.pipeline and self._hang_up_timer is None:
            self._watch_hang_up()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        cycle.transport = _ResponseTransport(cycle)
        super()._start_asgi_task(cycle, app)

    def _watch_hang_up(self) -> None:
        """End the requests of a client that left; while requests are queued, nothing is read."""
        self._hang_up_timer = None
        if self.transport.is_closing() or not self.pipeline:
            return
        if has_hung_up(self.transport):
            self.transport.abort()
        else:
            self._hang_up_timer = self.loop.call_later(_HANG_UP_SECONDS, self._watch_hang_up)

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        self._chunks += 1
        self._chunk_bytes += len(body)
        if self._chunk_bytes < (self._chunks - _FREE_CHUNKS) * _MIN_CHUNK:
            raise ValueError
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_body = False
        self.table.work(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._running.transport.flush()
        super().on_response_complete()
        if self._is_idle():
            self.table.wait(self)
        if self._in_body and self._is_idle():
            self.transport.close()

    def send_400_response(self, _: str) -> None:
        too_large = self._too_many_headers or self._header_bytes > self.limits.header_bytes
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
        self.table.remove(self)
        self.resume_writing()
        self._end_requests()
        super().connection_lost(exc)

    def _end_requests(self) -> bool:
        """End the requests that are not answered; return whether a part of a response was sent."""
        self.pipeline.clear()
        running = self._running
        if running is None or running.response_complete:
            return False
        running.disconnected = True  # perhaps it is not the last request
        running.message_event.set()
        return bool(running.response_started)

    def drop(self) -> None:
        """Close the connection at once, for one that has a request."""
        self.transport.abort()

    def shutdown(self) -> None:
        super().shutdown()  # abort before uvicorn cancels its tasks, which it logs as errors
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

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
        log_refused(network_of(self.client[0] if self.client else "unknown"), int(status[:3]))
        if self._end_requests():
            self.transport.abort()
            return
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # the client may be gone
            self.transport.write_eof()
        self._start_timer(_LINGER_SECONDS)


def limited_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol class of one service, for some limits."""
    table = ConnectionTable(connection_limit(limits))
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits, "table": table})
