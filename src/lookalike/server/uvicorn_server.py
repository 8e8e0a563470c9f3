"""Running the service with uvicorn."""

from __future__ import annotations

import errno
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from lookalike.errors import SettingError
from lookalike.server.http_protocol import SHUTDOWN_SECONDS, limited_protocol
from lookalike.server.limits import Limits

KEEP_ALIVE_SECONDS = 15
"""Time after which an idle connection is closed."""

_BACKLOG = 2048


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
        reason = error.strerror or error
        raise SettingError(
            f"{{host}}, {{port}}: cannot listen there ({reason})", host=host, port=port
        ) from error
    # Accepted connections inherit it; asyncio sets it only on sockets made with IPPROTO_TCP.
    # Without it a body waits 40 ms for the client's delayed acknowledgment of the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def create_server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return a uvicorn server for the application, not running yet."""
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=limits.connections,
    )
    return uvicorn.Server(config)


def run(app: ASGIApp, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; accepted requests are answered before it returns."""
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        create_server(app, limits).run(sockets=[listening])
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code not in (0, None):
            raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """Exit with success: uvicorn raises the signal again once all requests are answered."""
    raise SystemExit(0)
