"""The service in operation: shutdown under load, concurrent writes, logs, memory."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ServiceError
from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.settings import ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.integration.test_cli import process
from tests.processes import PROC, alive, children, memory
from tests.raw_http import eventually
from tests.serving import serving


@pytest.fixture
def shop(folder: Path, tmp_path: Path) -> Gallery:
    """A gallery of twelve color images, one of them with a large file."""
    noise = np.random.default_rng(0).integers(0, 256, (1_800, 2_500, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png", compress_level=0)
    encoder = open_encoder("color", sample_images(open_source(folder)))
    gallery = Gallery.create(tmp_path / "shop.gallery", encoder=encoder)
    gallery.sync(folder)
    return gallery


@contextlib.contextmanager
def started(gallery: Gallery, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield ``lookalike serve`` as a process, and its port."""
    command = [sys.executable, "-m", "lookalike", "serve", str(gallery.path), "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            line = next(line for line in iter(running.stderr.readline, "") if "serving" in line)
            port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert port is not None
            yield running, int(port[1])
        finally:
            if running.poll() is None:
                running.kill()


def png(gray: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (200, 200), (gray, 255 - gray, 90)).save(file, "PNG")
    return file.getvalue()


def in_progress(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    match = re.search(r"^lookalike_requests_in_progress (\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match[1])


class Caller(threading.Thread):
    """Searches over one connection until the service ends; ``failures`` must stay empty."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.successes = 0
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        path = "/v1/galleries/shop/search/image"
        with contextlib.closing(connection):
            while True:
                try:
                    connection.request("POST", path, png())
                    response = connection.getresponse()
                except (ConnectionError, http.client.CannotSendRequest):
                    return  # closed before any byte of a response
                try:
                    json.loads(response.read())
                except (ValueError, OSError, http.client.HTTPException) as error:
                    self.failures.append(f"cut off: {error!r}")
                    return
                if response.status not in (200, 429):
                    self.failures.append(f"status {response.status}")
                self.successes += response.status == 200


def test_ctrl_c_twice_ends_at_once_and_in_order(shop: Gallery) -> None:
    """Without waiting for clients, but with the decoders, and without a traceback."""
    with started(shop) as (running, port), contextlib.ExitStack() as stack:
        upload, unread = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)
        )
        head = b"POST /v1/galleries/shop/search/image HTTP/1.1\r\nhost: localhost\r\n"
        upload.sendall(head + b"content-length: 1000\r\n\r\nabc")
        unread.sendall(
            b"GET /v1/galleries/shop/item/image?id=shapes:noise.png HTTP/1.1\r\n"
            b"host: localhost\r\n\r\n"
        )
        assert unread.recv(1)
        decoders = children(running.pid)
        assert decoders
        running.send_signal(signal.SIGINT)
        assert eventually(lambda: _is_refused(port))
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""
        assert eventually(lambda: not any(alive(pid) for pid in decoders))


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def test_sigterm_under_load_completes_accepted_requests(shop: Gallery) -> None:
    """Clients that neither send nor read cannot keep the service from stopping."""
    image = base64.b64encode(png()).decode()
    body = json.dumps({"queries": [{"image": image}] * 24, "multi_crop": True}).encode()
    statuses: list[int] = []

    def batch(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(
                "POST",
                "/v1/galleries/shop/search/batch",
                body,
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            results = json.loads(response.read())["results"]
            assert all(each["problem"] is None for each in results)
            statuses.append(response.status)

    with started(shop) as (running, port), contextlib.ExitStack() as stack:
        idle, upload, unread = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)
        )
        upload.sendall(
            b"POST /v1/galleries/shop/search/image HTTP/1.1\r\nhost: localhost\r\n"
            b"content-length: 1000\r\n\r\nabc"
        )
        unread.sendall(
            b"GET /v1/galleries/shop/item/image?id=shapes:noise.png HTTP/1.1\r\n"
            b"host: localhost\r\n\r\n"
        )
        callers = [Caller(port) for _ in range(4)]
        slow = [threading.Thread(target=batch, args=(port,)) for _ in range(4)]
        for each in slow:
            each.start()
        assert eventually(lambda: len(slow) in (in_progress(port), len(statuses)))
        for each in callers:
            each.start()
        assert eventually(lambda: all(caller.successes for caller in callers))
        running.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert running.wait(20) == 0
        took = time.monotonic() - begun
        for each in (*callers, *slow):
            each.join(30)
        assert running.stderr is not None
        log = running.stderr.read()
        assert idle.recv(100) == b""
    assert statuses == [200] * len(slow)
    assert [caller.failures for caller in callers] == [[]] * len(callers)
    assert log == ""
    assert took < 20


def test_writes_of_another_process_are_served(shop: Gallery, folder: Path, tmp_path: Path) -> None:
    """Another process adds, changes and removes rows during searches; no request fails."""
    with started(shop) as (_running, port):
        remote = la.Client(f"http://127.0.0.1:{port}").gallery("shop")
        stop, errors, searches = threading.Event(), [], [0]

        def search(number: int) -> None:
            while not stop.is_set():
                try:
                    if number % 2:
                        remote.search(png(number), k=5)
                    else:
                        remote.search(id="shapes:red/0.png", k=5, where="label != 'none'")
                    remote.info()
                    searches[0] += 1
                except Exception as error:  # noqa: BLE001 - none may happen
                    errors.append(error)

        def index() -> None:
            done = process("index", shop.path, folder, cwd=tmp_path)
            assert done.returncode == 0, done.stderr

        def nearest() -> str:
            return remote.search(folder / "new.png", k=1)[0].id

        with ThreadPoolExecutor(4) as pool:
            searching = [pool.submit(search, number) for number in range(4)]
            try:
                assert eventually(lambda: searches[0] >= 8)
                Image.new("RGB", (50, 40), (250, 240, 10)).save(folder / "new.png")
                assert nearest() != "shapes:new.png"
                index()
                assert nearest() == "shapes:new.png"
                assert len(remote) == 14
                for path in folder.glob("green/*.png"):
                    path.unlink()
                Image.new("RGB", (50, 40), (10, 240, 250)).save(folder / "red" / "1.png")
                index()
                assert len(remote) == 10
                assert not [hit for hit in remote.search(png(), k=100) if "green" in hit.id]
                before = searches[0]
                assert eventually(lambda: searches[0] >= before + 8)
            finally:
                stop.set()
            for each in searching:
                each.result(60)
        assert errors == []


def test_keys_appear_in_no_log_and_no_response(
    shop: Gallery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    secrets = [add_key(file, "reader", write=False), add_key(file, "writer", write=True)]
    secrets.append("la_wrong-" + "x" * 30)
    hashes = [key.sha256 for key in read_keys(file)]
    caplog.set_level(logging.DEBUG)
    output = ""
    with serving({"shop": shop}, ServeSettings(keys=read_keys(file))) as served:
        for secret in secrets:
            for headers in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
                for method, path, body in (
                    ("GET", "/v1/galleries", None),
                    ("GET", "/metrics", None),
                    ("GET", "/g/shop", None),
                    ("GET", "/nosuch", None),
                    ("POST", "/v1/galleries/shop/search", b"{}"),
                    ("POST", "/v1/galleries/shop/search/image", b"no image"),
                    ("PUT", "/v1/galleries/shop/item?id=a", b"no image"),
                    ("TRACE", "/healthz", None),
                ):
                    request_headers = {
                        **headers,
                        "accept": "text/html",
                        "content-type": "application/json",
                    }
                    response, response_body = served.request(method, path, body, request_headers)
                    output += f"{response.headers}{response_body.decode()}"
        with pytest.raises(ServiceError) as refused:
            served.client(secrets[-1]).galleries()
        output += f"{refused.value!r}{served.client(secrets[-1])!r}"
    assert "reader" in output  # names of keys may appear
    assert not [each for each in (*secrets, *hashes) if each in output + caplog.text]


def test_memory_does_not_grow(shop: Gallery, require: Require) -> None:
    """Many uploads of 13 MB, valid and broken: a leak would show."""
    require(PROC.exists(), "memory is read from /proc only")
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (1_800, 2_500, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    good = file.getvalue()
    with started(shop, "--write") as (running, port):
        address = f"http://127.0.0.1:{port}"

        def ask(number: int) -> None:
            data = good if number % 3 else good[: len(good) // 2]
            remote = la.Client(address).gallery("shop")
            with contextlib.suppress(la.errors.ImageError):
                remote.search(data, k=1)

        def rounds(count: int) -> int:
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(ask, range(count)))
            return memory(running.pid)

        before = rounds(12)
        assert rounds(36) < before + 10 * len(good)
