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
_BACKLOG = 2048

log = logging.getLogger(__name__)


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with a time and a size for a request's line and headers.

    uvicorn by itself keeps a connection whose headers never end.
    """

    class Timed(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _unfinished = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)
            if self._timer is not None:
                self._unfinished += len(data)
            super().data_received(data)
            if self._timer is not None and self._unfinished > limits.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")

        def on_headers_complete(self) -> None:
            self._disarm()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._unfinished = None, 0

        def _too_slow(self) -> None:
            self._refuse(b"408 Request Timeout")

        def _refuse(self, status: bytes) -> None:
            self._disarm()
            if not self.transport.is_closing():
                self.transport.write(
                    b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()

    return Timed


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
