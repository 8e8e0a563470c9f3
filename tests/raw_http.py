"""Requests as raw bytes on a socket, well-formed or not."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PATIENCE = 30.0
"""Seconds to wait for what should happen much sooner."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@contextlib.contextmanager
def connect(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield connection


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return everything until the service closes the connection."""
    with connect(port) as connection:
        connection.sendall(request)
        return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    """Return everything until the connection ends; a reset ends it too, a timeout fails."""
    chunks = []
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


def receive_one(connection: socket.socket, received: bytes = b"") -> bytes:
    """Receive one complete response on a connection that stays open."""
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
        if separator and length and len(body) >= int(length[1]):
            return received
        chunk = connection.recv(1 << 16)
        if not chunk:
            raise AssertionError(f"closed in the middle of {received!r}")
        received += chunk


def send_slowly(connection: socket.socket, chunk: bytes, interval: float = 0.05) -> bytes:
    """Send a chunk repeatedly until the service responds or closes; return the response."""
    connection.settimeout(interval)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            first = connection.recv(1 << 16)
            connection.settimeout(PATIENCE)
            return first + (receive_all(connection) if first else b"")
        with contextlib.suppress(ConnectionError):
            connection.sendall(chunk)
    raise AssertionError("the service neither responded nor closed the connection")


def parse_responses(data: bytes) -> list[Response]:
    """Parse consecutive responses."""
    file, responses = io.BytesIO(data), []
    while file.tell() < len(data):
        response = http.client.HTTPResponse(_FakeSocket(file))  # type: ignore[arg-type]
        response.begin()
        responses.append(Response(response.status, response.headers, response.read()))
    return responses


class _FakeSocket:
    """A socket for HTTPResponse that leaves the file open after one response."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def makefile(self, *_: object) -> io.BufferedReader:
        return _UnclosedFile(self._file)  # type: ignore[return-value]


class _UnclosedFile:
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def close(self) -> None:
        """Stay open for the next response."""

    def flush(self) -> None:
        """Do nothing: the file is only read."""


def eventually(condition: Callable[[], object]) -> bool:
    """Return whether a condition becomes true within a generous time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
