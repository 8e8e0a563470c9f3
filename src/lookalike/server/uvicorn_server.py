"""Running the service with uvicorn."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from lookalike.errors import SettingError
from lookalike.server.connections import raise_file_limit
from lookalike.server.http_protocol import ABORT_SECONDS, limited_protocol
from lookalike.server.limits import Limits
from lookalike.server.service import Service

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15
"""Time after which an idle connection is closed."""

_BACKLOG = 2048
"""Connections that wait to be accepted."""

_ACCEPTED_AT_ONCE = 32
"""Connections that are accepted before those that are too many of them are closed."""

_SEND_BUFFER = 1 << 17
"""Bytes of a response that the system holds for a client that does not read."""

_STOP_SECONDS = 9.0
"""Time to finish accepted requests after a signal to stop; then they end with 503."""

_EXIT_SECONDS = 12.0
"""Time after which the process ends, whatever its threads do."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BLOCK, _ARENAS = 1 << 18, 2
"""Larger blocks of memory go back to the system when they are freed; see ``mallopt(3)``."""

_SWITCH_SECONDS = 0.001
"""How long a thread computes in Python while others wait, so that responses do not."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one.

    Raises:
        SettingError: the port is in use, or the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError(
                "{port} is already in use; port 0 picks a free one", port=port
            ) from error
        if error.errno == errno.EACCES:
            raise SettingError(
                "{port} needs the rights of root; use a port of 1024 or more, behind a reverse "
                "proxy for another one",
                port=port,
            ) from error
        raise SettingError(
            "{host} is no address of this machine; 127.0.0.1 is this machine only, 0.0.0.0 all of "
            f"its addresses ({_reason(error)})",
            host=host,
        ) from error
    # Accepted connections inherit it; asyncio sets it only on sockets made with IPPROTO_TCP.
    # Without it a body waits 40 ms for the client's delayed acknowledgment of the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return listening


def _reason(error: OSError) -> str:
    """Return why an address cannot be used; that of a name is no number of the system."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)


class _Server(uvicorn.Server):
    """A server that stops in a bounded time, whatever its clients and threads do."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen; asyncio's backlog is both what waits and what is accepted at once."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish accepted requests, and end those that take too long."""
        stop = self._service.running.stop
        timer = asyncio.get_running_loop().call_later(_STOP_SECONDS, stop)
        await super().shutdown(sockets)
        if self.force_exit:  # by Ctrl-C twice: uvicorn would leave the service as it is
            self._service.running.stop()
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await self.lifespan.shutdown()
        timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; called for the signals of :func:`run`."""
        if not self.should_exit:
            _exit_later(self._service)
        super().handle_exit(sig, frame)
        del self._captured_signals[1:]  # raised again in the end, and asyncio ends well only once


def create_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Return a uvicorn server for the application, not running yet."""
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(ABORT_SECONDS) + 1,
        proxy_headers=False,  # they tell clients apart, see admission.py
    )
    return _Server(config, app.state.service)


def run(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; accepted requests are answered before it returns.

    If that takes longer than 12 s, the process ends at once.
    """
    raise_file_limit(limits)
    codecs.lookup("unicode_escape")  # for log lines, also when no file can be opened any more
    sys.setswitchinterval(_SWITCH_SECONDS)
    _return_freed_memory()
    server = create_server(app, limits)
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        server.run(sockets=[listening])
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code not in (0, None):
            raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _return_freed_memory() -> None:
    """Keep the memory of images from staying with the process after they were freed."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def _exit_later(service: Service) -> None:
    """End the process after a time, without waiting for threads that cannot be ended."""

    def end() -> None:
        with contextlib.suppress(Exception):
            service.decoders.kill()
        log.error(
            "work did not end within %g s of the signal to stop, so it was cut off", _EXIT_SECONDS
        )
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)

    timer = threading.Timer(_EXIT_SECONDS, end)
    timer.daemon = True
    timer.start()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """Exit with success: uvicorn raises the signal again once all requests are answered."""
    raise SystemExit(0)
