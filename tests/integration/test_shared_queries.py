"""Query images that are stored for some days: requests, limits, expiry, restarts and strangers."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import lookalike as la
from lookalike.encoders.base import Encoder
from lookalike.errors import SettingError, StorageError
from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import KeyFile, add_key
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.server.shared_queries import (
    SharedQueries,
    StoredQuery,
    UnknownQueryError,
)
from tests.integration.test_audit import serve
from tests.serving import Serving, serving

SHARED = "/v1/galleries/a/shared-queries"
SEARCH = "/v1/galleries/a/search"
DAY_S = 86_400
HEIC = Path(__file__).parents[1] / "data" / "sample.heic"


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 48, 3), np.uint8)


def encoded(number: int, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory, pixel_encoder: Encoder) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("galleries")
    opened = {}
    for name in ("a", "b"):
        gallery = Gallery.create(folder / f"{name}.gallery", encoder=pixel_encoder)
        gallery.add([encoded(i) for i in range(5)], ids=[f"{i}" for i in range(5)])
        opened[name] = gallery
    return opened


@pytest.fixture(scope="module")
def pixel_encoder(pixels: Encoder) -> Encoder:
    return pixels


def settings(folder: Path, **options: Any) -> ServeSettings:
    options = {"share_days": 7, **options}
    return ServeSettings(hosts=LOOPBACK, share_folder=folder, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def served(galleries: dict[str, Gallery], folder: Path) -> Iterator[Serving]:
    with serving(galleries, settings(folder)) as running:
        yield running


def share(
    served: Serving,
    image: bytes,
    status: int = 201,
    path: str = SHARED,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    response, body = served.request("POST", path, image, headers)
    assert response.status == status, body
    answer: dict[str, Any] = json.loads(body)
    if status == 201:
        assert response.getheader("location") == answer["image_url"]
    return answer


def search(served: Serving, body: object, status: int = 200, path: str = SEARCH) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    response, answer = served.request("POST", path, json.dumps(body).encode(), headers)
    assert response.status == status, answer
    result: dict[str, Any] = json.loads(answer)
    return result


def ranked(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["id"], hit["distance"]) for hit in answer["hits"]]


def kind_of(problem: dict[str, Any]) -> str:
    return str(problem["type"]).rpartition(":")[2]


# ---- requests ------------------------------------------------------------------------------------


def test_a_shared_query_is_an_example_like_its_image(served: Serving) -> None:
    image = encoded(3, "PNG")
    shared = share(served, image)
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{32}", shared["id"])
    assert shared["page_url"] == f"/g/a?shared={shared['id']}"
    response, body = served.request("POST", f"{SEARCH}/image?k=5", image)
    assert response.status == 200
    expected = ranked(json.loads(body))
    assert ranked(search(served, {"shared": shared["id"], "k": 5})) == expected
    several = {"like": [{"shared": shared["id"]}, {"id": "api:1"}], "unlike": [{"id": "api:2"}]}
    assert "api:3" in [row_id for row_id, _ in ranked(search(served, several))]
    first = search(served, {"shared": shared["id"], "k": 2})
    body_of_next = {"shared": shared["id"], "k": 2, "cursor": first["next"]}
    assert ranked(first) + ranked(search(served, body_of_next)) == expected[:4]
    other = share(served, encoded(4, "PNG"))["id"]
    assert kind_of(search(served, {**body_of_next, "shared": other}, 422)) == "invalid-request"
    form = f'--x\r\nContent-Disposition: form-data; name="shared"\r\n\r\n{shared["id"]}\r\n--x--'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    response, body = served.request("POST", SEARCH, form.encode(), kind)
    assert ranked(json.loads(body)) == expected
    batch = {"queries": [{"shared": shared["id"]}, {"shared": "x"}]}
    one, two = search(served, batch, path=f"{SEARCH}/batch")["results"]
    assert ranked(one["result"]) == expected
    assert kind_of(two["problem"]) == "shared-query-not-found"


def test_the_image_of_a_shared_query(served: Serving) -> None:
    image = encoded(3, "PNG")
    shared = share(served, image)
    response, body = served.request("GET", shared["image_url"])
    assert (response.status, response.getheader("content-type")) == (200, "image/png")
    assert response.getheader("cache-control") == "private, max-age=3600"
    with Image.open(io.BytesIO(body)) as sent:
        assert np.array_equal(np.asarray(sent), pixels(3))
    response, body = served.request("HEAD", shared["image_url"])
    assert (response.status, body) == (200, b"")


def test_metadata_is_not_stored(served: Serving, folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SECRET camera"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "SECRET north"
    for image in (
        encoded(1, "JPEG", exif=exif, comment=b"SECRET comment") + b"SECRET end",
        encoded(1, "PNG", exif=exif) + b"SECRET end",
        encoded(1, "WEBP", exif=exif, lossless=True),
    ):
        assert b"SECRET" in image
        shared = share(served, image)
        [file] = folder.iterdir()
        assert b"SECRET" not in file.read_bytes()
        _, body = served.request("GET", shared["image_url"])
        with Image.open(io.BytesIO(body)) as sent:
            assert sent.getexif().get(ExifTags.Base.Orientation) == 6
        _, body = served.request("POST", f"{SEARCH}/image", image)
        assert ranked(search(served, {"shared": shared["id"]})) == ranked(json.loads(body))
        file.unlink()


def test_an_image_that_browsers_do_not_show_is_stored_as_png(served: Serving) -> None:
    image = HEIC.read_bytes()
    shared = share(served, image)
    response, _ = served.request("GET", shared["image_url"])
    assert response.getheader("content-type") == "image/png"
    response, body = served.request("POST", f"{SEARCH}/image", image)
    assert response.status == 200
    assert ranked(search(served, {"shared": shared["id"]})) == ranked(json.loads(body))


def test_a_form_with_the_image(served: Serving) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = head + encoded(1) + b"\r\n--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert share(served, body, headers=kind)["id"]


def test_what_is_no_image_is_not_stored(served: Serving, folder: Path) -> None:
    for image in (b"", b"no image", encoded(1)[:100], b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        assert kind_of(share(served, image, 422)) == "invalid-image"
    assert kind_of(share(served, encoded(1), 404, SHARED.replace("/a/", "/z/"))) == (
        "gallery-not-found"
    )
    assert list(folder.iterdir()) == []


def test_a_large_image_is_refused(galleries: dict[str, Gallery], folder: Path) -> None:
    limits = Limits(upload_bytes=500)
    with serving(galleries, settings(folder, limits=limits)) as served:
        assert kind_of(share(served, encoded(1), 413)) == "request-too-large"
        assert list(folder.iterdir()) == []


ODD = (
    *("", "x", ".", "..", "../a.gallery/gallery.json", "/etc/passwd", "a\0b", "%2e%2e"),
    *("00000000-" + "0" * 31, "0" * 41, "ffffffff-" + "0" * 33, "ffffffff-" + "A" * 32),
    *("ffffffff-" + "0" * 32 + "/../x", "ffffffff-" + "0" * 32 + "\n", "x" * 100),
)


def test_ids_that_lead_nowhere(served: Serving, folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(encoded(1, "PNG"))
    shared = share(served, encoded(1))["id"]
    [file] = folder.iterdir()
    assert file.stem == shared
    link = folder / ("ffffffff-" + "1" * 32 + file.suffix)
    link.symlink_to(folder.parent / "secret.png")
    for query_id in (*ODD, "../secret.png", link.name, "ffffffff-" + "1" * 32):
        problem = search(served, {"shared": query_id}, 404)
        assert kind_of(problem) == "shared-query-not-found"
        assert str(folder) not in json.dumps(problem)
        if query_id:
            assert problem["errors"][0]["location"] == "body/shared"
    for path in ("..%2fsecret.png", "%2e%2e", "ffffffff-" + "1" * 32, "a%00b", "%ff"):
        response, _ = served.request("GET", f"{SHARED}/{path}/image")
        assert response.status == 404, path
    assert kind_of(search(served, {"shared": "x" * 101}, 422)) == "invalid-request"
    problem = search(served, {"like": [{"id": "api:1"}, {"shared": "x"}]}, 404)
    assert problem["errors"][0]["location"] == "body/like/1/shared"
    problem = search(served, {"shared": "x", "id": "api:1"}, 422)
    assert "shared excludes id" in problem["detail"]


def test_a_shared_query_is_of_one_gallery(served: Serving) -> None:
    shared = share(served, encoded(1))
    path = SEARCH.replace("/a/", "/b/")
    assert kind_of(search(served, {"shared": shared["id"]}, 404, path)) == "shared-query-not-found"
    response, _ = served.request("GET", shared["image_url"].replace("/a/", "/b/"))
    assert response.status == 404


def test_the_time_of_a_link(served: Serving, folder: Path) -> None:
    before = time.time()
    shared = share(served, encoded(1))
    expires = int(shared["id"][:8], 16)
    assert before + 7 * DAY_S - 1 <= expires <= time.time() + 7 * DAY_S
    assert shared["expires_at"] == StoredQuery(shared["id"], expires).expires_at
    assert shared["expires_at"].endswith("+00:00")
    [file] = folder.iterdir()
    over = f"{int(time.time()) - 1:08x}{shared['id'][8:]}"
    file.rename(folder / f"{over}{file.suffix}")
    problem = search(served, {"shared": over}, 410)
    assert kind_of(problem) == "shared-query-expired"
    assert "7 days" in problem["detail"]
    response, _ = served.request("GET", f"{SHARED}/{over}/image")
    assert response.status == 410
    assert kind_of(search(served, {"shared": shared["id"]}, 404)) == "shared-query-not-found"
    share(served, encoded(2))
    assert [each.name[:41] for each in folder.iterdir()] != [over]
    assert len(list(folder.iterdir())) == 1


def test_links_survive_a_restart_and_work_in_other_processes(
    galleries: dict[str, Gallery], folder: Path
) -> None:
    with serving(galleries, settings(folder)) as first, serving(galleries, settings(folder)) as two:
        shared = share(first, encoded(3))["id"]
        expected = ranked(search(first, {"shared": shared}))
        assert ranked(search(two, {"shared": shared})) == expected
    with serving(galleries, settings(folder)) as again:
        assert ranked(search(again, {"shared": shared})) == expected


def test_sharing_is_off_by_default(
    galleries: dict[str, Gallery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    with serving(galleries) as served:
        for problem in (
            share(served, encoded(1), 403),
            search(served, {"shared": "ffffffff-" + "0" * 32}, 403),
        ):
            assert kind_of(problem) == "forbidden"
            assert "--share-queries 30" in problem["detail"]
        response, _ = served.request("GET", f"{SHARED}/x/image")
        assert response.status == 403
    assert not (tmp_path / "cache").exists()
    with serving(galleries, ServeSettings(hosts=LOOPBACK, share_days=1)) as served:
        share(served, encoded(1))
    assert len(list((tmp_path / "cache" / "shared-queries").iterdir())) == 1


def test_whoever_may_search_may_share(
    galleries: dict[str, Gallery],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "lookalike.audit")
    keys = tmp_path / "keys.json"
    reader = add_key(keys, "reader", write=False)
    with serving(galleries, settings(folder, keys=KeyFile(keys))) as served:
        share(served, encoded(1), 401)
        shared = share(served, encoded(1), headers={"x-api-key": reader})
        assert served.request("GET", shared["image_url"])[0].status == 401
        response, _ = served.request("GET", shared["image_url"], None, {"x-api-key": reader})
        assert response.status == 200
    lines = [each.getMessage() for each in caplog.records if each.name == "lookalike.audit"]
    assert [f"path={SHARED}" in line for line in lines] == [True, True]
    assert "status=401" in lines[0]
    assert "client=reader" in lines[1]
    assert "status=201" in lines[1]
    assert shared["id"] not in "\n".join(lines)


def test_the_command_line_sets_days_and_folder(
    galleries: dict[str, Gallery], folder: Path, tmp_path: Path
) -> None:
    gallery = tmp_path / "a.gallery"
    galleries["a"].copy_to(gallery)
    with serve(gallery, "--share-queries", 3, "--share-folder", folder) as (port, printed):
        client = la.Client(f"http://127.0.0.1:{port}")
        body = client.send("POST", SHARED, encoded(1), "application/octet-stream")
        expires = int(json.loads(body)["id"][:8], 16)
        assert abs(expires - time.time() - 3 * DAY_S) < 60
    assert len(list(folder.iterdir())) == 1
    assert any("lookalike.audit" in line and f"path={SHARED}" in line for line in printed)


def test_other_sites_cannot_store_images(served: Serving, folder: Path) -> None:
    problem = share(served, encoded(1), 403, headers={"sec-fetch-site": "cross-site"})
    assert kind_of(problem) == "cross-site"
    assert list(folder.iterdir()) == []


# ---- the folder ----------------------------------------------------------------------------------


def test_the_oldest_make_room(folder: Path) -> None:
    shared = SharedQueries(folder, 1, max_images=3, max_bytes=100)
    ids = []
    for number in range(5):
        ids.append(shared.add("a", bytes([number]) * 10).id)
        for place, path in enumerate(sorted(folder.iterdir(), key=lambda p: p.read_bytes())):
            os.utime(path, (place, place))  # each is older than the next
    assert len(list(folder.iterdir())) == 3
    for gone in ids[:2]:
        with pytest.raises(UnknownQueryError):
            shared.open("a", gone)
    for number, kept in enumerate(ids[2:], 2):
        with shared.open("a", kept) as file:
            assert file.read() == bytes([number]) * 10
    large = shared.add("a", b"x" * 95).id
    assert [path.name[:41] for path in folder.iterdir()] == [large]
    with pytest.raises(StorageError, match="larger than"):
        shared.add("a", b"x" * 101)
    assert len(list(folder.iterdir())) == 1


def test_files_of_others_stay(folder: Path) -> None:
    folder.mkdir()
    others = ["photo.jpg", "00000000-x", "0" * 8 + "-" + "0" * 32, ".new", "note.new"]
    for name in others:
        (folder / name).write_bytes(b"x" * 1_000)
        os.utime(folder / name, (0, 0))
    (folder / "sub").mkdir()
    abandoned = folder / ("00000000-" + "0" * 32 + "." + "0" * 16 + ".new")
    for when in (0, time.time()):
        abandoned.write_bytes(b"x")
        os.utime(abandoned, (when, when))
        shared = SharedQueries(folder, 1, max_images=1, max_bytes=10)
        assert abandoned.exists() == bool(when)
    shared.add("a", b"1")
    last = shared.add("a", b"2").id
    left = {path.name for path in folder.iterdir()} - {abandoned.name}
    assert left - {*others, "sub"} == {name for name in left if name.startswith(last)}
    assert left >= {*others, "sub"}


def test_expired_images_are_removed_when_nobody_asks(folder: Path) -> None:
    shared = SharedQueries(folder, 1, max_images=9, max_bytes=100)
    kept, over = shared.add("a", b"1").id, shared.add("a", b"2").id
    [file] = [path for path in folder.iterdir() if path.stem == over]
    file.rename(file.with_name(f"{int(time.time()) - 1:08x}{file.name[8:]}"))
    shared.remove_expired()
    assert [path.stem for path in folder.iterdir()] == [kept]
    SharedQueries(folder, 1, max_images=9, max_bytes=100)
    assert [path.stem for path in folder.iterdir()] == [kept]


def test_files_are_those_of_the_owner_only(folder: Path) -> None:
    shared = SharedQueries(folder, 1, max_images=9, max_bytes=100)
    shared.add("a", b"1")
    [file] = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"share_folder=.*file cannot be written"):
        SharedQueries(tmp_path / "file", 1, max_images=9, max_bytes=100)
