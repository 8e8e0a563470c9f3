"""Requests as bytes on a socket, well-formed or not."""

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
"""Seconds that a test waits for what should come much sooner."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield connection


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and return all that comes until the service closes."""
    with connected(port) as connection:
        connection.sendall(sent)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Return what still comes; a reset is an end too, but never a time-out."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def one(connection: socket.socket, start: bytes = b"") -> bytes:
    """Receive one whole answer, which may come in pieces, of a connection that stays open."""
    found = start
    while True:
        head, separator, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
        if separator and length and len(body) >= int(length[1]):
            return found
        piece = connection.recv(1 << 16)
        if not piece:
            raise AssertionError(f"closed in the middle of {found!r}")
        found += piece


def dribble(connection: socket.socket, piece: bytes, every: float = 0.05) -> bytes:
    """Send a piece again and again until the service answers or closes; return what it said."""
    connection.settimeout(every)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            first = connection.recv(1 << 16)
            connection.settimeout(PATIENCE)
            return first + (rest(connection) if first else b"")
        with contextlib.suppress(ConnectionError):
            connection.sendall(piece)
    raise AssertionError("the service neither answered nor closed")


def answers(data: bytes) -> list[Answer]:
    """Read answers one after another."""
    file, found = io.BytesIO(data), []
    while file.tell() < len(data):
        answer = http.client.HTTPResponse(_Fixed(file))  # type: ignore[arg-type]
        answer.begin()
        found.append(Answer(answer.status, answer.headers, answer.read()))
    return found


class _Fixed:
    """What HTTPResponse takes for a socket; it reads one answer and leaves the file open."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def makefile(self, *_: object) -> io.BufferedReader:
        return _Kept(self._file)  # type: ignore[return-value]


class _Kept:
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def close(self) -> None:
        """Leave it open for the next answer."""

    def flush(self) -> None:
        """Nothing is written."""


def soon(done: Callable[[], object]) -> bool:
    """Tell whether something comes true within a generous time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False
