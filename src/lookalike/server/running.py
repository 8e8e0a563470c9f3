"""The service as a process: uvicorn with limits on how slowly a request may come."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.errors import SettingError
from lookalike.server.limits import Limits

KEEP_ALIVE_SECONDS = 15
STOP_SECONDS = 15
_LAST_ANSWERS_SECONDS = STOP_SECONDS - 1
_LINGER_SECONDS = 2
_PIPELINED = 64
"""Requests of one connection that may be here before the first of them is answered."""
_BACKLOG = 2048

log = logging.getLogger(__name__)


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with bounds on who sends slowly, or much, or does not read.

    uvicorn by itself keeps a connection whose headers never end, or whose answer is never read.
    """

    class Bounded(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None
        _refused = False
        _in_body = False
        _unfinished = 0
        """Bytes since a request began or last went on: those of its line, headers or trailers."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # paused is then: not all is sent
            self._within(limits.header_seconds)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._timer is None and not self._in_body and self._answered():
                self._within(limits.header_seconds)
            self._unfinished += len(data)
            super().data_received(data)
            if self._unfinished > limits.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")

        def on_headers_complete(self) -> None:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.header_bytes or len(self.pipeline) >= _PIPELINED:
                raise ValueError  # the parser passes it on as its own error
            self._went_on()
            self._in_body = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unfinished = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._went_on()
            self._in_body = False
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._in_body and self._answered():
                self.transport.close()

        def send_400_response(self, _: str) -> None:
            large = self._unfinished > limits.header_bytes
            self._refuse(b"431 Request Header Fields Too Large" if large else b"400 Bad Request")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending = self.loop.call_later(limits.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._sending is not None:
                self._sending.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self._went_on()
            self.resume_writing()
            super().connection_lost(exc)

        def shutdown(self) -> None:
            super().shutdown()  # and before uvicorn ends its tasks, which it logs as errors:
            self.loop.call_later(_LAST_ANSWERS_SECONDS, self.transport.abort)

        def _answered(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _within(self, seconds: float) -> None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

        def _went_on(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._unfinished = None, 0

        def _too_slow(self) -> None:
            if self._refused:
                self.transport.abort()
            else:
                self._refuse(b"408 Request Timeout")

        def _refuse(self, status: bytes) -> None:
            """Answer, and pass over what still comes: closing at once would lose the answer."""
            self._went_on()
            if self._refused or self.transport.is_closing():
                return
            self._refused = True
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.write_eof()
            self._within(_LINGER_SECONDS)

    return Bounded


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingError: the address or port cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingError(
            f"--host {host} --port {port}: cannot be had ({error.strerror or error}); is another "
            "service there? --port 0 takes any that is free"
        ) from error


def server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return the server of an application, not yet running."""
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=limits.connections,
    )
    return uvicorn.Server(config)


def run(app: ASGIApp, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted are answered before it returns."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        server(app, limits).run(sockets=[listening])
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code not in (0, None):
            raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(_signal: int, _frame: FrameType | None) -> None:
    """End well: uvicorn has answered what it accepted when it raises the signal again."""
    raise SystemExit(0)
