"""Clients that send slowly, too much or garbage, or stop reading, harm only themselves."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.errors import ServiceError
from lookalike.gallery.gallery import Gallery
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.server.uvicorn_server import listen
from lookalike.sources import Source
from tests.raw_http import (
    PATIENCE,
    connect,
    eventually,
    exchange,
    parse_responses,
    receive_all,
    receive_one,
    send_slowly,
)
from tests.serving import Serving, serving

LIMITS = Limits(
    upload_bytes=3_000_000,
    batch_bytes=3_000_000,
    buffered_bytes=8_000_000,
    header_bytes=8_192,
    header_seconds=1.0,
    body_seconds=1.5,
    send_seconds=1.0,
)
HEAD = b"host: localhost\r\ncontent-type: image/png\r\n"
ITEM = "/v1/galleries/digits/item"
SEARCH = b"POST /v1/galleries/digits/search/image HTTP/1.1\r\n" + HEAD
PUT = b"PUT /v1/galleries/digits/item?id=a HTTP/1.1\r\n" + HEAD
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
LISTS = b"GET /v1/galleries HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3
LAST = HEALTH + b"connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, digits: Source, pixels: Encoder
) -> Iterator[Serving]:
    gallery = Gallery.create(tmp_path_factory.mktemp("g") / "digits.gallery", encoder=pixels)
    gallery.sync(digits)
    with serving({"digits": gallery}, settings(LIMITS)) as running:
        yield running


def settings(limits: Limits) -> ServeSettings:
    return ServeSettings(allow_writes=True, hosts=LOOPBACK, limits=limits)


@pytest.fixture(autouse=True)
def unharmed(served: Serving) -> Iterator[None]:
    """Whatever a client did, the service still responds and has released its memory."""
    yield
    assert served.request("GET", "/healthz")[0].status == 200
    assert served.request("GET", "/readyz")[0].status == 200
    assert eventually(lambda: b"\nlookalike_buffered_bytes 0.0" in metrics(served))


def metrics(served: Serving) -> bytes:
    return served.request("GET", "/metrics")[1]


def problem(data: bytes) -> dict[str, object]:
    (response,) = parse_responses(data)
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = json.loads(response.body)
    assert document["status"] == response.status
    return document


@pytest.mark.parametrize(
    ("start", "chunk"),
    [
        (b"", b"\r\n"),
        (b"GE", b""),
        (b"GET /", b"a"),
        (HEALTH, b"a: b\r\n"),
        (HEALTH + b"x-long: ", b"a"),
        (SEARCH, b"content-encoding: x\r\n"),
    ],
)
def test_slow_headers_time_out(served: Serving, start: bytes, chunk: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(start)
        start_time = time.monotonic()
        received = send_slowly(connection, chunk)
    assert time.monotonic() - start_time >= LIMITS.header_seconds / 2
    assert received.startswith(b"HTTP/1.1 408 ")


def test_silent_clients_time_out(served: Serving) -> None:
    with connect(served.port) as connection:
        assert receive_all(connection).startswith(b"HTTP/1.1 408 ")


def test_slow_headers_of_a_later_request_time_out(served: Serving) -> None:
    with connect(served.port) as connection:
        connection.sendall(HEALTH + b"\r\n")
        first = receive_one(connection)
        assert first.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert b"HTTP/1.1 408 " in send_slowly(connection, b"a: b\r\n")


@pytest.mark.parametrize(
    ("start", "chunk"),
    [
        (SEARCH + b"content-length: 10000\r\n\r\n", b"a"),
        (SEARCH + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (PUT + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a: b\r\n"),
        (PUT + b"content-length: 5\r\n\r\n", b""),
    ],
)
def test_slow_bodies_time_out(served: Serving, start: bytes, chunk: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(start)
        received = send_slowly(connection, chunk)
    assert problem(received)["type"] == "urn:lookalike:problem:request-timeout"


@pytest.mark.parametrize("length", [LIMITS.upload_bytes + 1, 10**12, 10**18])
def test_too_large_content_length_is_refused_at_once(served: Serving, length: int) -> None:
    with connect(served.port) as connection:
        connection.sendall(SEARCH + f"content-length: {length}\r\n\r\n".encode())
        assert problem(receive_one(connection))["status"] == 413
        receive_all(connection)  # it is not waited for longer than any body


def test_client_that_sends_a_too_large_body_gets_the_reason(served: Serving) -> None:
    remote = served.client().gallery("digits")
    with pytest.raises(ServiceError, match="the limit is 3 MB") as refused:
        remote.client.send("PUT", f"{ITEM}?id=large", bytes(2 * LIMITS.upload_bytes))
    assert refused.value.status == 413


def test_chunked_body_is_refused_once_too_large(served: Serving) -> None:
    chunk = b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n"
    sent = 0
    with connect(served.port) as connection:
        connection.sendall(SEARCH + b"transfer-encoding: chunked\r\n\r\n")
        connection.settimeout(0.001)
        received = b""
        while not received and sent < 1_000:
            with contextlib.suppress(TimeoutError):
                received = connection.recv(1 << 16)
            if not received:
                connection.settimeout(PATIENCE)
                connection.sendall(chunk)
                connection.settimeout(0.001)
                sent += 1
        connection.settimeout(PATIENCE)
        assert problem(receive_one(connection, received))["status"] == 413
    assert sent >= LIMITS.upload_bytes // 100_000


def test_refused_body_is_not_read_forever(served: Serving) -> None:
    with connect(served.port) as connection:
        connection.sendall(SEARCH + b"content-length: 1000000000000\r\n\r\n")
        assert problem(receive_one(connection))["status"] == 413
        assert send_slowly(connection, bytes(10_000)) == b""


LARGE = b"a" * 6_000


@pytest.mark.parametrize(
    "sent",
    [
        HEALTH + b"x: " + LARGE * 2 + b"\r\n\r\n",
        HEALTH + b"x: " + LARGE + b"\r\ny: " + LARGE + b"\r\n\r\n",
        HEALTH + LARGE * 2 + b": x\r\n\r\n",
        HEALTH + b"".join(b"x%d: y\r\n" % i for i in range(5_000)) + b"\r\n",
        HEALTH + b"x:\r\n" * 250 + b"\r\n",
        PUT + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x:\r\n" * 250 + b"\r\n",
        b"GET /" + LARGE * 2 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /" + b"a" * 2_000_000,
        HEALTH + b"x: " + b"a" * 2_000_000,
        HEALTH + b"x: " + b"a" * 200_000 + b"\r\n\r\n",
        PUT + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 2_000_000,
        PUT + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 500_000,
        PUT + b"transfer-encoding: chunked\r\n\r\n1;x=" + b"a" * 2_000_000,
    ],
)
def test_too_large_headers_are_refused(served: Serving, sent: bytes) -> None:
    with connect(served.port) as connection:
        sending = threading.Thread(target=_send_all, args=(connection, sent))
        sending.start()
        received = receive_all(connection)
        sending.join(PATIENCE)
        assert not sending.is_alive()
    assert parse_responses(received)[0].status == 431


def _send_all(connection: socket.socket, sent: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(sent)


def test_a_body_in_many_chunks_is_accepted(served: Serving) -> None:
    chunks = b"1\r\na\r\n" * 900 + b"80\r\n%b\r\n" % (b"a" * 128) * 2_000 + b"0\r\n\r\n"
    sent = SEARCH + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    (response,) = parse_responses(exchange(served.port, sent))
    assert json.loads(response.body)["type"].endswith("invalid-image")


def test_headers_within_the_limit_are_accepted(served: Serving) -> None:
    sent = HEALTH + b"connection: close\r\nx: " + LARGE + b"\r\n\r\n"
    assert parse_responses(exchange(served.port, sent))[0].status == 200


def test_a_malformed_request_is_no_response_to_the_one_before(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """What is refused ends the requests before it, if they are not answered yet."""
    for garbage in (b"nonsense", HEALTH + b"x:\r\n" * 250 + b"\r\n"):
        received = exchange(served.port, LISTS + garbage + b"\r\n\r\n")
        statuses = [each.status for each in parse_responses(received)]
        assert statuses[-1] in (400, 431)
        assert statuses[:-1] == [200] * (len(statuses) - 1)
    assert served.request("GET", "/healthz")[0].status == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_pipelined_requests(served: Serving) -> None:
    request = "GET /v1/galleries/digits/item?id={} HTTP/1.1\r\nhost: localhost\r\n\r\n"
    ids = served.service.handle("digits").gallery.store.ids()[:20]
    sent = "".join(request.format(quote(row_id, safe="")) for row_id in ids)
    responses = parse_responses(exchange(served.port, sent.encode() + LAST))
    assert [json.loads(each.body).get("id") for each in responses] == [*ids, None]


@pytest.mark.parametrize("sent", [0, 1, 70_000])
def test_disconnect_during_the_body(served: Serving, sent: int) -> None:
    for _ in range(20):
        with connect(served.port) as connection:
            connection.sendall(PUT + b"content-length: 100000\r\n\r\n" + bytes(sent))
    assert eventually(lambda: b"\nlookalike_requests_in_progress 0.0" in metrics(served))


def test_disconnect_before_the_response(served: Serving, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for _ in range(20):
        with connect(served.port) as connection:
            connection.sendall(SEARCH + b"content-length: %d\r\n\r\n" % len(data) + data)
    assert eventually(lambda: b"\nlookalike_requests_in_progress 0.0" in metrics(served))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file larger than the buffers of a connection."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0).integers(0, 256, (1_800, 2_500, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png", compress_level=0)
    return folder


def test_connection_with_unread_response_is_closed(
    large: Path, tmp_path: Path, pixels: Encoder
) -> None:
    from lookalike.encoders.registry import open_encoder
    from lookalike.sources import open_source
    from lookalike.sources.sampling import sample_images

    encoder = open_encoder("color", sample_images(open_source(large)))
    gallery = Gallery.create(tmp_path / "large.gallery", encoder=encoder)
    gallery.sync(large)
    path = f"/v1/galleries/large/item/image?id={gallery.store.ids()[0].replace(':', '%3A')}"
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n".encode()
    size = (large / "noise.png").stat().st_size
    with serving({"large": gallery}, settings(LIMITS)) as running:
        assert len(running.request("GET", path)[1]) == size
        for last in (b"\r\n", b"connection: close\r\n\r\n"):
            assert eventually(lambda: running.count_connections() == 0)
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.settimeout(PATIENCE)
                connection.connect(("127.0.0.1", running.port))
                connection.sendall(request + last)
                assert eventually(lambda: running.count_connections() == 1)
                assert eventually(lambda: running.count_connections() == 0)
                assert len(receive_all(connection)) < size


def test_bodies_do_not_wait_for_delayed_acknowledgments() -> None:
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_flood_of_pipelined_requests_is_cut_off(served: Serving) -> None:
    """All of them would be in memory until the first is answered."""
    with connect(served.port) as connection:
        sending = threading.Thread(target=_send_all, args=(connection, (HEALTH + b"\r\n") * 20_000))
        sending.start()
        received = receive_all(connection)
        sending.join(PATIENCE)
        assert not sending.is_alive()
    assert received.count(b"HTTP/1.1 200 ") < 20_000


def test_stalled_connections_do_not_delay_others(served: Serving) -> None:
    starts = (b"", b"GET /", SEARCH, SEARCH + b"content-length: 1000\r\n\r\nabc")
    limits = Limits(header_seconds=PATIENCE, body_seconds=PATIENCE)
    gallery = served.service.handle("digits").gallery
    with serving({"digits": gallery}, settings(limits)) as running, contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(connect(running.port))
            connection.sendall(starts[number % len(starts)])
        start_time = time.monotonic()
        row_id = gallery.store.ids()[0]
        for _ in range(20):
            assert len(running.client().gallery("digits").search(id=row_id)) == 7
        assert time.monotonic() - start_time < PATIENCE / 2


def test_unfinished_uploads_count_as_buffered(served: Serving) -> None:
    """Three unfinished uploads of 2.9 MB exceed the limit of 8 MB."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(served.port)) for _ in range(3)]
        for connection in connections:
            connection.sendall(SEARCH + b"content-length: 2900000\r\n\r\n")
            connection.sendall(bytes(2_890_000))
        statuses = sorted(
            parse_responses(receive_all(connection))[0].status for connection in connections
        )
    assert statuses == [408, 408, 429]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n: empty\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx : a\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        SEARCH + b"content-length: -1\r\n\r\n",
        SEARCH + b"content-length: 1e3\r\n\r\n",
        SEARCH + b"content-length: \xb2\r\n\r\n",
        SEARCH + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        SEARCH + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        SEARCH + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        SEARCH + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1_100,
        SEARCH + b"transfer-encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        SEARCH + b"transfer-encoding: chunked, identity\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.0\r\n",
    ],
)
def test_malformed_requests_are_refused(
    served: Serving, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    responses = parse_responses(exchange(served.port, sent))
    assert responses[-1].status == 400
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n", 421),
        (b"GET http://localhost/healthz HTTP/1.0\r\nhost: localhost\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404),
        (b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", None),
        (b"TRACE /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405),
        (b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 200),
        (HEALTH + b"upgrade: h2c\r\nconnection: upgrade, close\r\n\r\n", 200),
        (HEALTH + b"upgrade: websocket\r\nconnection: upgrade, close\r\n\r\n", 200),
        (b"\r\n\r\n" + LAST, 200),
        (SEARCH + b"connection: close\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 422),
        (
            SEARCH
            + b"connection: close\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n",
            413,
        ),
    ],
)
def test_unusual_requests_get_a_response(
    served: Serving, sent: bytes, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    status_line = exchange(served.port, sent).split(b"\r\n")[0]
    assert status_line.startswith(b"HTTP/1.1 ")
    code = int(status_line.split()[1])
    assert code < 500
    assert status in (None, code)
    assert not [record for record in caplog.records if record.exc_info]


def test_random_bytes_do_not_crash_the_service(served: Serving) -> None:
    rng = np.random.default_rng(0)
    seed = bytearray(SEARCH + b"content-length: 20\r\n\r\n" + bytes(20))

    def one(number: int) -> bool:
        sent = bytearray(seed)
        for place in rng.integers(0, len(sent), 1 + number % 8):
            sent[place] = rng.integers(0, 256)
        with connect(served.port) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = receive_all(connection)
        return not received or 200 <= int(received[9:12]) < 500

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(400)))
