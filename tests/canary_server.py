"""A server on this machine that the service must not be tricked into fetching from."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote

TRICKLE_SECONDS = 20


@dataclass
class Canary:
    """``paths`` were requested over ``connections`` connections.

    ``responds`` is the path that it responds to instead of any other.
    """

    image: bytes
    port: int = 0
    connections: int = 0
    responds: str = ""
    paths: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/image", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    """The first part of a path is the name of the method that responds."""

    canary: ClassVar[Canary]

    def setup(self) -> None:
        self.canary.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.canary.paths.append(self.path)
        path = self.canary.responds or self.path[1:]
        behavior, _, argument = path.partition("/")
        with contextlib.suppress(ConnectionError):
            getattr(self, behavior.partition("?")[0])(unquote(argument))

    def begin(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            text = str(value).encode().decode("latin-1")  # unchanged bytes
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()

    def image(self, _: str) -> None:
        self.begin(Content_Length=len(self.canary.image))
        self.wfile.write(self.canary.image)

    def without_length(self, size: str) -> None:
        self.begin()
        for _ in range(int(size) // 1000):
            self.wfile.write(bytes(1000))

    def with_length(self, size: str) -> None:
        self.begin(Content_Length=size)
        self.wfile.write(b"x")

    def redirect(self, target: str) -> None:
        self.begin(302, Location=target)

    def redirect_nowhere(self, _: str) -> None:
        self.begin(302)

    def hops(self, count: str) -> None:
        self.redirect(f"/hops/{int(count) - 1}" if int(count) else "/image")

    def status(self, code: str) -> None:
        self.begin(int(code), Content_Length=0)

    def slow_body(self, _: str) -> None:
        self.begin(Content_Length=10_000)
        self.trickle(b"x")

    def endless_headers(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.trickle(b"a: b\r\n")

    def endless_continue(self, _: str) -> None:
        self.trickle(b"HTTP/1.1 100 Continue\r\n\r\n")

    def trickle(self, chunk: bytes) -> None:
        end = time.monotonic() + TRICKLE_SECONDS
        while time.monotonic() < end and not self.canary.stopped.wait(0.1):
            self.wfile.write(chunk)
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def canary_server(image: bytes) -> Iterator[Canary]:
    """Run a canary server in a thread."""
    canary = Canary(image)

    class Handler(_Handler):
        pass

    Handler.canary = canary
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        canary.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield canary
        finally:
            canary.stopped.set()
            server.shutdown()
            thread.join()
