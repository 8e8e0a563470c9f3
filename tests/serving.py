"""A service that runs in a thread of the tests, on a free port."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lookalike.client import Client
from lookalike.gallery.gallery import Gallery
from lookalike.server.app import create_app
from lookalike.server.service import Service
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.server.uvicorn_server import create_server, listen


@dataclass(frozen=True)
class Serving:
    """A running service."""

    port: int
    service: Service
    app: Any
    count_connections: Callable[[], int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None) -> Client:
        return Client(self.url, key=key)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response, response.read()


@contextlib.contextmanager
def serving(
    galleries: Mapping[str, Gallery], settings: ServeSettings | None = None
) -> Iterator[Serving]:
    settings = settings or ServeSettings(allow_writes=True, hosts=LOOPBACK)
    app = create_app(galleries, settings)
    listening = listen("127.0.0.1", 0)
    server = create_server(app, settings.limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port, connections = listening.getsockname()[1], server.server_state.connections
        yield Serving(port, app.state.service, app, lambda: len(connections))
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
