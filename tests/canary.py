"""A server on this machine that strangers must not reach through the service."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

DRIBBLE_SECONDS = 20


@dataclass
class Canary:
    """``seen`` are the paths it was asked for; ``reached`` counts connections."""

    image: bytes
    port: int = 0
    reached: int = 0
    seen: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/image", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@contextlib.contextmanager
def canary(image: bytes) -> Iterator[Canary]:
    """Run one; what is asked for says how it answers."""
    told = Canary(image)

    class Handler(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            told.reached += 1
            super().setup()

        def do_GET(self) -> None:
            told.seen.append(self.path)
            kind, _, rest = self.path[1:].partition("/")
            with contextlib.suppress(ConnectionError):
                getattr(self, kind.partition("?")[0])(unquote(rest))

        def begin(self, status: int = 200, **headers: object) -> None:
            self.send_response(status)
            for name, value in headers.items():
                text = str(value).encode().decode("latin-1")  # as it is, whatever it is
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()

        def image(self, _: str) -> None:
            self.begin(Content_Length=len(told.image))
            self.wfile.write(told.image)

        def unsaid(self, size: str) -> None:
            self.begin()
            for _ in range(int(size) // 1000):
                self.wfile.write(bytes(1000))

        def said(self, size: str) -> None:
            self.begin(Content_Length=size)
            self.wfile.write(b"x")

        def to(self, where: str) -> None:
            self.begin(302, Location=where)

        def nowhere(self, _: str) -> None:
            self.begin(302)

        def hops(self, count: str) -> None:
            self.to(f"/hops/{int(count) - 1}" if int(count) else "/image")

        def status(self, code: str) -> None:
            self.begin(int(code), Content_Length=0)

        def dribble(self, _: str) -> None:
            self.begin(Content_Length=10_000)
            self.trickle(b"x")

        def headers_without_end(self, _: str) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.trickle(b"a: b\r\n")

        def continues(self, _: str) -> None:
            self.trickle(b"HTTP/1.1 100 Continue\r\n\r\n")

        def trickle(self, piece: bytes) -> None:
            end = time.monotonic() + DRIBBLE_SECONDS
            while time.monotonic() < end and not told.ended.wait(0.1):
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield told
        finally:
            told.ended.set()
            server.shutdown()
            thread.join()
