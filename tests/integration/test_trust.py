"""Untrusted clients and files: only their own requests fail."""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import add_key, find_key, read_keys
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.processes import PROC, memory
from tests.serving import Serving, serving

SEARCH = "/v1/galleries/a/search/image"


def png(size: int = 32, tail: bytes = b"") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(size).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue() + tail


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trust")
    (root / "few").mkdir()
    for size in range(20, 40):
        (root / "few" / f"{size}.png").write_bytes(png(size))
    source = open_source(root / "few")
    gallery = Gallery.create(
        root / "a.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    return gallery.path


Start = Callable[..., Serving]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start services of the gallery with other limits."""
    with contextlib.ExitStack() as stack:

        def started(**limits: Any) -> Serving:
            settings = ServeSettings(allow_writes=True, hosts=LOOPBACK, limits=Limits(**limits))
            return stack.enter_context(serving({"a": Gallery.open(path)}, settings))

        yield started


def search(served: Serving, data: bytes) -> tuple[int, dict[str, Any]]:
    response, body = served.request("POST", SEARCH, data)
    return response.status, json.loads(body)


def test_large_images_are_refused_before_decoding(start: Start) -> None:
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    status, document = search(start(), file.getvalue())
    assert status == 422
    assert "pixels" in document["detail"]


# ---- overload -----------------------------------------------------------------


def test_excess_requests_get_429_and_the_others_succeed(start: Start) -> None:
    served = start(concurrent_requests=3)
    release = threading.Event()
    encoder = served.service.handle("a").gallery.encoder
    encode = encoder.encode

    def slow(images: Any) -> Any:
        release.wait(20)
        return encode(images)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(12) as pool:
        patch.setattr(type(encoder), "encode", lambda _, images: slow(images))
        accepted = [pool.submit(search, served, png()) for _ in range(3)]
        while served.service.quotas.searches.used < 3:
            time.sleep(0.01)
        for _ in range(5):
            response, body = served.request("POST", SEARCH, png())
            assert response.status == 429
            assert int(response.headers["retry-after"]) >= 1
            assert json.loads(body)["title"] == "Too many requests"
        assert served.request("GET", "/healthz")[0].status == 200
        patient = pool.submit(served.client().gallery("a").search, png())
        time.sleep(0.2)
        release.set()
        assert [each.result()[0] for each in accepted] == [200] * 3
        assert len(patient.result()) == 7  # the client retried


# ---- names, keys, texts --------------------------------------------------------------------------

WALKS = [
    "..",
    "../..",
    "%2e%2e%2f",
    "..%2f..%2fetc%2fpasswd",
    "%252e%252e%252f",
    "..\\..",
    "a%00",
    "/",
]


def raw_get(served: Serving, address: str) -> bytes:
    """Return the raw response to a path that a client library would normalize."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        lines = [f"GET {address} HTTP/1.1", "Host: localhost", "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize("walk", WALKS)
def test_path_traversal_is_refused(start: Start, walk: str) -> None:
    served = start()
    for address in (
        f"/static/{walk}",
        f"/g/{walk}",
        f"/v1/galleries/{walk}",
        f"/v1/galleries/{walk}/item?id=few:20.png",
        f"/v1/galleries/a/item/image?id={walk}",
        f"/v1/galleries/a/item/image?id={quote('few:../a.gallery/gallery.json')}",
        f"/v1/galleries/a/item/thumbnail?id=few:{walk}",
    ):
        raw = raw_get(served, address)
        assert raw[9:12] in (b"404", b"422", b"400", b"307", b"303"), (address, raw[:200])
        assert b"root:" not in raw


def test_all_keys_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    secrets = [add_key(file, f"k{i}", write=False) for i in range(5)]
    compared = []
    compare = hmac.compare_digest

    def noted(one: Any, other: Any) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for secret in (secrets[0], secrets[4], "la_wrong", ""):
        compared.clear()
        find_key(secret, read_keys(file))
        assert len(compared) == 5


WRITING_POSTS = [
    ("post", f"/v1/galleries/{{gallery}}/{name}")
    for name in ("items/batch", "items/update", "items/delete", "jobs")
]


def test_every_route_requires_a_key(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    reader = add_key(file, "reader", write=False)
    settings = ServeSettings(
        keys=read_keys(file), hosts=LOOPBACK, share_days=1, share_folder=tmp_path / "shared"
    )
    with serving({"a": Gallery.open(path)}, settings) as served:
        document = json.loads(served.request("GET", "/openapi.json")[1])
        seen = set()
        for route, methods in document["paths"].items():
            if route in ("/healthz", "/readyz"):
                continue
            for method in methods:
                address = route.replace("{gallery}", "a") + "?id=api:none"
                status = served.request(method.upper(), address, b"{}")[0].status
                assert status == 401, (method, route)
                response, body = served.request(
                    method.upper(), address, b"{}", {"authorization": f"Bearer {reader}"}
                )
                assert reader not in body.decode(errors="replace")
                if method in ("put", "patch", "delete") or (method, route) in WRITING_POSTS:
                    assert response.status == 403, (method, route)
                    seen.add(method)
                else:
                    assert response.status not in (401, 403), (method, route)
        assert seen == {"put", "patch", "delete", "post"}
        for address in ("/", "/g/a", "/g/a?id=few:20.png", "/g/a/judge", "/metrics"):
            response, body = served.request("GET", address, headers={"accept": "text/html"})
            assert response.status == 401
            own = re.sub(rb'(?s)<script[^>]*id="texts">.*?</script>', b"", body)  # those of all
            assert b"few" not in own


def test_texts_are_returned_unchanged_and_never_as_html(start: Start, tmp_path: Path) -> None:
    remote = start().client().gallery("a")
    odd = ["<script>alert(1)</script>", "\"'`&;", "a\nb\tc", "\u202egnp.exe", "ü✓😀", "{{7*7}}"]
    key = "odd <b> \u202e & 'x'".replace("\u202e", "")
    remote.add(png(), ids=key, metadata={f"c{i}": text for i, text in enumerate(odd)})
    try:
        assert list(remote[f"api:{key}"].metadata.values()) == odd
        served = remote.client
        import urllib.request

        for what in ("", "/image", "/thumbnail", "/neighbors"):
            address = f"{served.url}/v1/galleries/a/item{what}?id={quote('api:' + key)}"
            with urllib.request.urlopen(address) as response:
                assert response.headers["x-content-type-options"] == "nosniff"
                media_type = response.headers["content-type"]
                assert media_type == (
                    "image/png" if what in ("/image", "/thumbnail") else "application/json"
                )
    finally:
        remote.remove(f"api:{key}")


@pytest.mark.parametrize(
    "data", [b"<html><svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"%PDF-1"]
)
def test_file_that_is_no_longer_an_image_is_not_served(
    start: Start, path: Path, data: bytes
) -> None:
    file = path.parent / "few" / "39.png"
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        for what in ("image", "thumbnail"):
            response, body = start().request("GET", f"/v1/galleries/a/item/{what}?id=few:39.png")
            assert response.status == 422
            assert response.headers["content-type"] == "application/problem+json"
            assert str(path.parent) not in body.decode()
    finally:
        file.write_bytes(before)


def test_broken_and_hostile_images(start: Start, corpus: Path, require: Require) -> None:
    served = start()
    files = [each for each in sorted(corpus.rglob("*")) if each.is_file()]
    assert len(files) > 400

    def post(file: Path) -> tuple[Path, int]:
        """Search with a file; also put it if it is refused, and about every tenth other file."""
        data = file.read_bytes()
        status = served.request("POST", SEARCH, data)[0].status
        if status != 200 or len(data) % 10 == 0:
            put = f"/v1/galleries/a/item?id={quote(file.name)}"
            created = served.request("PUT", put, data)[0].status
            assert created == (201 if status == 200 else status)
        return file, status

    before = memory(os.getpid()) if PROC.exists() else 0
    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(post, files))
    if PROC.exists():
        assert memory(os.getpid()) < before + 500_000_000
    unexpected = [(file.name, status) for file, status in statuses if status not in (200, 413, 422)]
    assert unexpected == []
    assert sum(status == 200 for _, status in statuses) > 100
    assert search(served, png())[0] == 200
