"""What the service sends of items' images, and what it reads to do so."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import ExifTags, Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import ImageError, SourceError
from lookalike.gallery.gallery import Gallery
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import SourceOptions, open_items, open_source
from tests.canary_server import Canary, canary_server
from tests.conftest import Require
from tests.integration.test_cli import lookalike, run
from tests.serving import Serving, serving
from tests.unit.test_metadata_stripping import PIXELS, SECRET, picture

JSON = {"Content-Type": "application/json"}


def new_gallery(folder: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]] = PIXELS) -> Gallery:
    return Gallery.create(folder / "g.gallery", encoder=open_encoder("color", [pixels]))


def gallery_of(folder: Path, files: dict[str, bytes]) -> Gallery:
    """Return a gallery of files in the folder ``photos``."""
    (folder / "photos").mkdir()
    for name, data in files.items():
        (folder / "photos" / name).write_bytes(data)
    gallery = new_gallery(folder)
    assert gallery.sync(folder / "photos").added == len(files)
    return gallery


def item(row_id: str, kind: str = "image") -> str:
    return f"/v1/galleries/g/item/{kind}?id={quote(row_id, safe='')}"


def search(served: Serving, **body: Any) -> tuple[int, dict[str, Any]]:
    data = json.dumps(body).encode()
    response, answer = served.request("POST", "/v1/galleries/g/search", data, JSON)
    return response.status, json.loads(answer)


FILES = {f"photo.{kind.lower()}": picture(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")}


def test_images_are_sent_without_position_and_comments(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, FILES)
    with serving({"g": gallery}) as served:
        for name, data in FILES.items():
            response, body = served.request("GET", item(f"photos:{name}"))
            assert response.status == 200
            assert response.headers["Content-Length"] == str(len(body))
            sent, original = Image.open(io.BytesIO(body)), Image.open(io.BytesIO(data))
            assert response.headers["Content-Type"] == Image.MIME[original.format or ""]
            assert np.array_equal(np.asarray(sent), np.asarray(original))
            assert SECRET in data
            assert SECRET not in body
            exif = sent.getexif()
            assert not exif.get_ifd(ExifTags.IFD.GPSInfo)
            assert exif.get(ExifTags.Base.Orientation) == original.getexif().get(
                ExifTags.Base.Orientation
            )
            tag = {"If-None-Match": response.headers["ETag"]}
            response, body = served.request("GET", item(f"photos:{name}"), None, tag)
            assert (response.status, body) == (304, b"")
            response, body = served.request("GET", item(f"photos:{name}", "thumbnail"))
            assert SECRET not in body
            assert not Image.open(io.BytesIO(body)).getexif()


def test_originals_are_sent_if_that_is_allowed(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, FILES)
    tags = set()
    for originals in (False, True):
        settings = ServeSettings(originals=originals, hosts=LOOPBACK)
        with serving({"g": gallery}, settings) as served:
            for name, data in FILES.items():
                response, body = served.request("GET", item(f"photos:{name}"))
                assert (body == data) == originals
                tags.add(response.headers["ETag"])
    assert len(tags) == 2 * len(FILES)


def test_a_file_that_cannot_be_stripped_is_encoded_anew(tmp_path: Path) -> None:
    jpeg = picture("JPEG").removesuffix(SECRET)
    gallery = gallery_of(tmp_path, {"cut.jpg": jpeg[: len(jpeg) - 200], "a.png": picture("PNG")})
    with serving({"g": gallery}) as served:
        response, body = served.request("GET", item("photos:cut.jpg"))
        assert response.status == 200
        sent = Image.open(io.BytesIO(body))
        assert sent.size == PIXELS.shape[:2]  # upright
        assert not sent.getexif()
        assert SECRET not in body


def test_pixels_that_are_no_file_are_sent_as_png(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    header = b"\0\0\x08\x03" + np.array(values.shape, ">u4").tobytes()
    (tmp_path / "images-idx3-ubyte").write_bytes(header + values.tobytes())
    gallery = new_gallery(tmp_path, values[0])
    gallery.sync(tmp_path / "images-idx3-ubyte")
    with serving({"g": gallery}) as served:
        for number, row_id in enumerate(gallery.store.ids()):
            response, body = served.request("GET", item(row_id))
            assert response.headers["Content-Type"] == "image/png"
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), values[number])
            assert search(served, id=row_id, box=[0, 0, 20, 20])[0] == 200


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        short = Path(os.path.relpath(path))
        listening.bind(str(min((path, short), key=lambda each: len(str(each)))))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(FILES["photo.jpeg"])
        file.truncate(1 << 40)


def _folder(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("put", [_fifo, _device, _socket, _sparse, _folder, _link])
def test_a_file_that_became_something_else_is_not_read(tmp_path: Path, put: Any) -> None:
    gallery = gallery_of(tmp_path, FILES)
    changed = tmp_path / "photos" / "photo.jpeg"
    changed.unlink()
    try:
        put(changed)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    row_id = "photos:photo.jpeg"
    with serving({"g": gallery}) as served:
        for path in (item(row_id), item(row_id, "thumbnail")):
            response, body = served.request("GET", path)
            assert response.status == 422
            assert b"invalid-image" in body
            assert str(tmp_path).encode() not in body
        status, answer = search(served, id=row_id, box=[0, 0, 9, 9])
        assert status == 422
        assert str(tmp_path) not in answer["detail"]
        assert served.request("GET", item("photos:photo.png"))[0].status == 200


def textured(seed: int, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image with many corners."""
    blocks = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.slow
def test_geometric_reranking_decodes_outside_of_the_service_and_ranks_like_the_library(
    tmp_path: Path, require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    files = {}
    for number in range(6):
        image = Image.fromarray(textured(number % 3, (1000, 800) if number < 3 else (640, 500)))
        image = image.rotate(7 * number, fillcolor="gray")
        file = io.BytesIO()
        image.save(file, "JPEG" if number % 2 else "PNG")
        files[f"{number}.{'jpg' if number % 2 else 'png'}"] = file.getvalue()
    gallery = gallery_of(tmp_path, files)
    ids = ("photos:0.png", "photos:4.png")
    by_library = {
        row_id: [hit.id for hit in gallery.search(id=row_id, rerank="geometric")] for row_id in ids
    }
    plain = {row_id: [hit.id for hit in gallery.search(id=row_id)] for row_id in ids}
    assert by_library != plain

    decoded: list[object] = []
    module = sys.modules["lookalike.images.decode"]  # the package has a function of this name

    with serving({"g": gallery}) as served:
        monkeypatch.setattr(module, "read_raster", decoded.append)
        for row_id, expected in by_library.items():
            status, answer = search(served, id=row_id, rerank="geometric")
            assert status == 200
            assert [hit["id"] for hit in answer["hits"]] == expected
            matching = [hit["id"] for hit in answer["hits"] if hit["matches"]]
            assert matching == expected[: len(matching)]
            assert len(matching) == 1  # the other image of the same texture
        (tmp_path / "photos" / "1.jpg").unlink()
        status, answer = search(served, id="photos:2.png", rerank="geometric")
        assert status == 200
        assert len(answer["hits"]) == len(expected)
        assert not decoded
        assert gallery.read_image(next(iter(gallery.store.records()))) is None
        assert decoded  # as it would have been


@pytest.fixture
def canary() -> Iterator[Canary]:
    with canary_server(picture("PNG")) as running:
        yield running


def manifest_of(folder: Path, *urls: str) -> Path:
    manifest = folder / "urls.csv"
    manifest.write_text("\n".join(["url", *urls]))
    return manifest


def test_private_addresses_are_indexed_only_if_that_is_allowed(
    tmp_path: Path, canary: Canary
) -> None:
    manifest = manifest_of(tmp_path, canary.url())
    gallery = new_gallery(tmp_path)
    with pytest.raises(SourceError, match=r"not on the public internet; .*allow_private_urls"):
        gallery.sync(manifest)
    assert canary.connections == 0
    options = SourceOptions(allow_private_urls=True)
    assert gallery.sync(open_source(manifest, options=options)).added == 1
    again = Gallery.open(gallery.path)
    assert again.source_options["urls"] == {"allow_private_urls": True}
    assert again.read_images(list(again.store.records()))[0] is not None
    assert again.sync(again.open_source(manifest)).unchanged == 1
    with pytest.raises(ImageError, match="not on the public internet"):
        open_items([canary.url()])[0].image()


def test_the_command_names_its_option_for_private_addresses(tmp_path: Path, canary: Canary) -> None:
    manifest, gallery = manifest_of(tmp_path, canary.url()), tmp_path / "g.gallery"
    index = ("index", gallery, manifest, "--encoder", "color")
    refused = lookalike(*index)
    assert refused.returncode == 2
    assert "not on the public internet" in refused.stderr
    assert "index with --allow-private-urls" in refused.stderr
    assert canary.connections == 0
    assert "1 added" in run(*index, "--allow-private-urls")
    assert "1 unchanged" in run(*index)
    (tmp_path / "picture.png").write_bytes(canary.image)
    assert canary.url() in run("search", gallery, tmp_path / "picture.png", "--json")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_of_rows_stay_on_the_web(tmp_path: Path, canary: Canary, target: str) -> None:
    manifest = manifest_of(
        tmp_path, canary.url(f"/redirect/{quote(target, safe='')}"), canary.url()
    )
    options = SourceOptions(allow_private_urls=True)
    report = new_gallery(tmp_path).sync(open_source(manifest, options=options))
    assert report.added == 1
    assert "must start with http" in report.failed[0].reason


OWN_NETWORK = ServeSettings(allow_private_urls=True, hosts=LOOPBACK)


def indexed_urls(folder: Path, canary: Canary, count: int) -> tuple[Gallery, list[str]]:
    """Return a gallery of rows with URLs, whose host sends them slowly from then on."""
    manifest = manifest_of(folder, *(canary.url(f"/image?{number}") for number in range(count)))
    gallery = new_gallery(folder)
    gallery.sync(open_source(manifest, options=SourceOptions(allow_private_urls=True)))
    assert len(gallery) == count
    return gallery, list(gallery.store.ids())


def test_rows_with_urls_are_fetched_for_thumbnails(tmp_path: Path, canary: Canary) -> None:
    gallery, ids = indexed_urls(tmp_path, canary, 1)
    with serving({"g": gallery}, OWN_NETWORK) as served:
        for kind in ("image", "thumbnail"):
            response, body = served.request("GET", item(ids[0], kind))
            assert response.status == 200
            assert SECRET not in body
        canary.responds = "status/404"
        assert served.request("GET", item(ids[0], "thumbnail"))[0].status == 200  # cached
        response, body = served.request("GET", item(ids[0]))
        assert response.status == 502
        assert b"127.0.0.1" not in body.replace(ids[0].encode(), b"")


def test_a_gallery_alone_cannot_make_a_service_fetch_from_its_network(
    tmp_path: Path, canary: Canary
) -> None:
    gallery, ids = indexed_urls(tmp_path, canary, 1)
    before = canary.connections
    with serving({"g": gallery}) as served:
        for kind in ("image", "thumbnail"):
            response, body = served.request("GET", item(ids[0], kind))
            assert response.status in (422, 502)
            assert b"127.0.0.1" not in body.replace(ids[0].encode(), b"")
    assert canary.connections == before


def test_a_slow_image_host_does_not_hold_up_searches(tmp_path: Path, canary: Canary) -> None:
    gallery, ids = indexed_urls(tmp_path, canary, 12)
    limits = Limits(fetch_seconds=25.0)
    statuses: list[int] = []
    with serving({"g": gallery}, replace(OWN_NETWORK, limits=limits)) as served:
        canary.responds = "slow_body"

        def show(row_id: str) -> None:
            statuses.append(served.request("GET", item(row_id, "thumbnail"))[0].status)

        seen = canary.connections
        threads = [threading.Thread(target=show, args=(row_id,)) for row_id in ids]
        for thread in threads:
            thread.start()
        while canary.connections == seen:
            pass
        for _ in range(5):
            assert search(served, id=ids[0])[0] == 200
        assert not statuses
        canary.stopped.set()
        for thread in threads:
            thread.join(30)
        assert statuses == [502] * len(ids)


def test_a_slow_image_host_has_a_limit_of_time(tmp_path: Path, canary: Canary) -> None:
    gallery, ids = indexed_urls(tmp_path, canary, 1)
    canary.responds = "slow_body"
    limits = Limits(fetch_seconds=0.3)
    with serving({"g": gallery}, replace(OWN_NETWORK, limits=limits)) as served:
        response, body = served.request("GET", item(ids[0], "thumbnail"))
        assert response.status == 502
        assert b"took longer than 0.3 s" in body
        status, answer = search(served, id=ids[0], box=[0, 0, 9, 9])
        assert status == 502
        assert "took longer than 0.3 s" in answer["detail"]


@pytest.mark.slow
def test_the_service_ends_while_an_image_host_is_slow(tmp_path: Path, canary: Canary) -> None:
    gallery, ids = indexed_urls(tmp_path, canary, 3)
    canary.responds = "slow_body"
    command = [sys.executable, "-m", "lookalike", "serve", str(gallery.path), "--port", "0"]
    with subprocess.Popen(
        [*command, "--allow-private-urls"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = next(line for line in iter(process.stderr.readline, "") if "serving at" in line)
        port = int(line.split(":")[2].split("/")[0])
        seen = canary.connections
        clients = []
        for row_id in ids:
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"GET {item(row_id)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            clients.append(client)
        while canary.connections < seen + len(ids):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) in (0, -signal.SIGTERM)
        for client in clients:
            client.close()
    shutil.rmtree(gallery.path)


def test_a_file_that_nobody_sends_is_closed(tmp_path: Path) -> None:
    """Its client may have left while it was opened."""
    gallery = gallery_of(tmp_path, {"0.png": picture("PNG")})
    with serving({"g": gallery}) as served:
        [file] = open_items([str(tmp_path / "photos" / "0.png")])
        image = served.service.item_images._file_to_send(file)
        assert image is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del image  # an unclosed file would be an error of this test
            gc.collect()
