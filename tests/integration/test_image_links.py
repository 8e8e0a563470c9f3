"""Links to images: sizes, formats, caching, and signed URLs where API keys are needed."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.server import signatures
from lookalike.server.api_keys import KeyFile, add_key, remove_key
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.server.signatures import THUMBNAIL_SIZES, expiry, read_secret
from tests.integration.test_item_images import JSON, gallery_of, item, new_gallery
from tests.serving import Serving, serving

SECRET = b"one secret of at least 32 bytes for all replicas"


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    """Return a file of an image with fine stripes."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, ::8] = 255
    pixels[::8, :, 0] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


FILES = {
    "large.jpg": picture(2400, 1800),
    "wide.png": picture(300, 100, "PNG"),
    "digit.png": picture(28, 28, "PNG"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return gallery_of(tmp_path_factory.mktemp("links"), FILES)


@pytest.fixture(scope="module")
def served(photos: Gallery) -> Iterator[Serving]:
    with serving({"g": photos}) as running:
        yield running


def thumbnail(served: Serving, name: str, query: str = "", accept: str = "*/*") -> Image.Image:
    response, body = served.request(
        "GET", item(f"photos:{name}", "thumbnail") + query, None, {"Accept": accept}
    )
    assert response.status == 200, body
    image = Image.open(io.BytesIO(body))
    assert response.headers["Content-Type"] == Image.MIME[image.format or ""]
    return image


@pytest.mark.parametrize("size", THUMBNAIL_SIZES)
def test_thumbnails_have_the_size_of_the_list_and_are_never_enlarged(
    served: Serving, size: int
) -> None:
    for form in ("jpeg", "webp"):
        query = f"&size={size}&format={form}"
        assert thumbnail(served, "large.jpg", query).size == (size, size * 3 // 4)
        wide = (300, 100) if size >= 300 else (size, round(size / 3))
        assert thumbnail(served, "wide.png", query).size == wide
        assert thumbnail(served, "digit.png", query).size == (28, 28)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_tiny_images_are_sent_as_they_are(served: Serving, form: str) -> None:
    original = np.asarray(Image.open(io.BytesIO(FILES["digit.png"])))
    sent = thumbnail(served, "digit.png", f"&format={form}")
    assert sent.format == {"jpeg": "PNG", "webp": "WEBP"}[form]
    np.testing.assert_array_equal(np.asarray(sent.convert("RGB")), original)


@pytest.mark.parametrize("size", ["", "0", "200", "2048", "256.0", "+256", "large", "256&size=3"])
def test_another_size_is_an_error_that_names_field_and_sizes(served: Serving, size: str) -> None:
    path = item("photos:wide.png", "thumbnail") + f"&size={size}"
    response, body = served.request("GET", path)
    problem = json.loads(body)
    assert response.status == 422
    for expected in ("size", *map(str, THUMBNAIL_SIZES)):
        assert expected in problem["detail"]
    response, body = served.request("GET", path.partition("&")[0] + "&format=gif")
    assert response.status == 422
    assert "format" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "JPEG"),
        ("", "JPEG"),
        ("image/*", "JPEG"),
        ("image/avif,image/webp,image/png,*/*;q=0.8", "WEBP"),
        ("image/png, Image/WebP;q=0.5", "WEBP"),
        ("image/webp;q=0, image/jpeg", "JPEG"),
        ("image/webpx", "JPEG"),
    ],
)
def test_the_format_follows_the_accept_header(served: Serving, accept: str, expected: str) -> None:
    assert thumbnail(served, "wide.png", accept=accept).format == expected


def test_answers_that_depend_on_accept_say_so_and_have_their_own_tags(served: Serving) -> None:
    path, tags = item("photos:wide.png", "thumbnail"), set()
    for query, accept, varies in (
        ("", "*/*", True),
        ("", "image/webp", True),
        ("&format=webp", "*/*", False),
        ("&size=64", "*/*", True),
    ):
        response, _ = served.request("GET", path + query, None, {"Accept": accept})
        assert ("accept" in response.headers.get("Vary", "").lower()) == varies
        tags.add(response.headers["ETag"])
    assert len(tags) == 3  # WebP is the same by header and by parameter


def test_thumbnails_are_sharper_than_by_a_bilinear_filter(served: Serving) -> None:
    sharp = np.asarray(thumbnail(served, "large.jpg", "&size=1024&format=webp").convert("L"), float)
    original = Image.open(io.BytesIO(FILES["large.jpg"])).convert("L")
    smooth = np.asarray(original.resize((1024, 768), Image.Resampling.BILINEAR), float)
    assert np.std(np.diff(sharp, axis=1)) > 1.05 * np.std(np.diff(smooth, axis=1))


def links_of(served: Serving, name: str, key: str | None = None) -> dict[str, str]:
    """Return the links of an item, which are those of a hit too."""
    headers = JSON if key is None else {**JSON, "X-API-Key": key}
    row_id = f"photos:{name}"
    response, body = served.request("GET", item(row_id).replace("/image", ""), None, headers)
    assert response.status == 200, body
    dim = served.service.handle("g").facts.dim
    data = json.dumps({"vector": [1.0] * dim, "k": 10}).encode()
    _, answer = served.request("POST", "/v1/galleries/g/search", data, headers)
    fields = ("image_url", "thumbnail_url", "thumbnail_url_template")
    links = {field: json.loads(body)[field] for field in fields}
    [hit] = [each for each in json.loads(answer)["hits"] if each["id"] == row_id]
    assert {field: hit[field] for field in fields} == links
    return links


def test_links_are_cached_until_the_gallery_changes(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, {"a.png": picture(300, 200, "PNG")})
    with serving({"g": gallery}) as served:
        links = links_of(served, "a.png")
        sources = [links["thumbnail_url_template"].replace("{size}", "64"), links["thumbnail_url"]]
        for url in sources:
            response, body = served.request("GET", url)
            assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
            tag = response.headers["ETag"]
            for header in (tag, f'"other", W/{tag}', "*"):
                again, empty = served.request("GET", url, None, {"If-None-Match": header})
                assert (again.status, empty) == (304, b"")
                assert again.headers["ETag"] == tag
                assert again.headers["Cache-Control"] == response.headers["Cache-Control"]
                assert again.headers["Vary"] == response.headers["Vary"]
            assert served.request("GET", url, None, {"If-None-Match": tag[:-2]})[0].status == 200
        response, _ = served.request("GET", links["image_url"])
        assert response.headers["Cache-Control"] == "private, max-age=3600"
        plain, _ = served.request("GET", item("photos:a.png", "thumbnail"))
        assert plain.headers["Cache-Control"] == "private, no-cache"
        (tmp_path / "photos" / "b.png").write_bytes(picture(30, 20, "PNG"))
        gallery.sync(tmp_path / "photos")
        response, old = served.request("GET", sources[1])
        assert (response.status, old) == (200, body)
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert links_of(served, "a.png") != links


def test_head_has_the_headers_of_get(served: Serving) -> None:
    links = links_of(served, "large.jpg")
    for path in (*links.values(), "/", "/g/g", "/healthz", "/v1/galleries/g", "/static/http.js"):
        url = path.replace("{size}", "128")
        full, body = served.request("GET", url)
        head, nothing = served.request("HEAD", url)
        assert (head.status, nothing) == (full.status, b"")
        for name in ("Content-Type", "ETag", "Cache-Control", "Vary", "Location"):
            assert head.headers.get(name) == full.headers.get(name)
        assert head.headers["Content-Length"] == str(len(body))
    assert served.request("HEAD", "/v1/galleries/g/search")[0].status == 405
    assert served.request("HEAD", "/v1/galleries/nosuch")[0].status == 404


def test_pages_of_allowed_origins_may_show_images(photos: Gallery) -> None:
    url, site = item("photos:wide.png", "thumbnail"), "https://shop.example"
    with serving({"g": photos}) as served:
        response, _ = served.request("GET", url)
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in response.headers
    with serving({"g": photos}, ServeSettings(origins=(site,), hosts=LOOPBACK)) as served:
        headers = {"Origin": site, "Sec-Fetch-Site": "cross-site"}
        for path, status in ((url, 200), (item("photos:nosuch"), 404)):
            response, _ = served.request("GET", path, None, headers)
            assert response.status == status
            assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert response.headers["Access-Control-Allow-Origin"] == site
            assert "origin" in response.headers["Vary"].lower()
        exposed = response.headers["Access-Control-Expose-Headers"].lower()
        for name in ("etag", "retry-after", "server-timing", "x-request-id", "link"):
            assert name in exposed
        image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image", "Referer": f"{site}/a"}
        assert served.request("GET", url, None, image)[0].status == 200
        for other in ("https://other.example", f"{site}.other.example/", "null", ""):
            for name in ("Origin", "Referer"):
                refused = {"Sec-Fetch-Site": "cross-site", name: other}
                assert served.request("GET", url, None, refused)[0].status == 403
    with serving({"g": photos}, ServeSettings(origins=("*",), hosts=LOOPBACK)) as served:
        anywhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
        response, _ = served.request("GET", url, None, anywhere)
        assert response.status == 200
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


# ---- signed URLs -----------------------------------------------------------------------------


class Keyed(NamedTuple):
    """A service that needs keys, two of them, and the file they are in."""

    served: Serving
    web: str
    other: str
    file: Path


def settings_of(keys: Path) -> ServeSettings:
    return ServeSettings(
        keys=KeyFile(keys), hosts=LOOPBACK, url_secret=SECRET, url_seconds=10_000_000.0
    )


@pytest.fixture
def keyed(photos: Gallery, tmp_path: Path) -> Iterator[Keyed]:
    file = tmp_path / "keys.json"
    web, other = (add_key(file, name, write=False) for name in ("web", "other"))
    galleries = {"g": photos, "h": photos}
    with serving(galleries, settings_of(file)) as served:
        yield Keyed(served, web, other, file)


def test_signed_links_need_no_key(keyed: Keyed) -> None:
    served = keyed.served
    for name, data in FILES.items():
        links = links_of(served, name, keyed.web)
        response, body = served.request("GET", links["image_url"])
        assert response.status == 200
        assert Image.open(io.BytesIO(body)).size == Image.open(io.BytesIO(data)).size
        for size in THUMBNAIL_SIZES:
            url = links["thumbnail_url_template"].replace("{size}", str(size))
            assert served.request("GET", url)[0].status == 200
            assert served.request("HEAD", f"{url}&format=webp")[0].status == 200
        assert served.request("GET", links["thumbnail_url"])[0].status == 200
        assert keyed.web not in str(links)
        assert "web" not in str(links)
    plain = item("photos:wide.png", "thumbnail")
    assert served.request("GET", plain)[0].status == 401
    assert served.request("GET", plain, None, {"X-API-Key": keyed.web})[0].status == 200


def changed(url: str, **parameters: str) -> str:
    """Return a URL with other values of parameters."""
    path, _, query = url.partition("?")
    return f"{path}?{urlencode(dict(parse_qsl(query)) | parameters)}"


def test_signed_links_cannot_be_forged_or_widened(keyed: Keyed) -> None:
    served = keyed.served
    links, others = (links_of(served, "large.jpg", key) for key in (keyed.web, keyed.other))
    small, full = links["thumbnail_url"], links["image_url"]
    largest = links["thumbnail_url_template"].replace("{size}", "1024")
    signature = dict(parse_qsl(small.partition("?")[2]))["signature"]
    expires = int(dict(parse_qsl(small))["expires"])
    theirs = dict(parse_qsl(others["thumbnail_url"]))
    forged = [
        changed(small, id="photos:wide.png"),
        changed(small, size="512"),
        changed(small, size="1024"),
        changed(small, size="nonsense"),
        changed(small, expires=str(expires + 1)),
        changed(small, expires=str(expires + 3600)),
        changed(small, expires=f"{expires}.0"),
        changed(small, expires="9" * 30),
        changed(small, expires=""),
        changed(small, expires="²"),
        changed(small, key=theirs["key"]),
        changed(small, signature=theirs["signature"]),
        changed(small, key="", signature=""),
        changed(small, signature=signature[:-1]),
        changed(small, signature=f"{signature}="),
        changed(small, signature="ü€" + signature),
        small.replace("/g/", "/h/"),
        small.replace("/thumbnail?", "/image?"),
        largest.replace("/thumbnail?", "/image?"),
        full.replace("/image?", "/thumbnail?"),
        full.replace("/image?", "/thumbnail?") + "&size=64",
    ]
    for url in forged:
        response, body = served.request("GET", url)
        assert response.status == 403, (url, body)
        problem = json.loads(body)
        assert problem["type"].endswith(":invalid-signature")
        assert "request the item again" in problem["detail"]
        assert response.headers["Cache-Control"] == "no-store"
    assert served.request("GET", f"{small}&id=photos%3Awide.png")[0].status == 422
    assert served.request("GET", f"{small}&size=1024")[0].status == 422
    assert served.request("GET", changed(largest, size="64"))[0].status == 200  # narrower
    assert served.request("GET", changed(small, size="128"))[0].status == 200
    for method, path in (
        ("GET", small.replace("/item/thumbnail", "/item")),
        ("GET", small.replace("/item/thumbnail", "/item/neighbors")),
        ("GET", small.replace("/item/thumbnail", "/item/embedding")),
        ("GET", "/v1/galleries?" + small.partition("?")[2]),
        ("POST", "/v1/galleries/g/search?" + small.partition("?")[2]),
        ("DELETE", small),
        ("PUT", full.replace("/item/image", "/item")),
    ):
        assert served.request(method, path, b"{}", JSON)[0].status == 401, path


def test_a_bad_key_is_not_mended_by_a_signature(keyed: Keyed) -> None:
    url = links_of(keyed.served, "wide.png", keyed.web)["image_url"]
    assert keyed.served.request("GET", url, None, {"X-API-Key": "wrong"})[0].status == 401
    wrong = changed(url, signature="x")
    assert keyed.served.request("GET", wrong, None, {"X-API-Key": keyed.web})[0].status == 200


def test_links_of_a_removed_key_end_with_it(keyed: Keyed) -> None:
    served = keyed.served
    links, others = (links_of(served, "wide.png", key) for key in (keyed.web, keyed.other))
    remove_key(keyed.file, "web")
    end = time.monotonic() + 10
    while (response := served.request("GET", links["image_url"]))[0].status == 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert response[0].status == 403
    assert "was removed" in json.loads(response[1])["detail"]
    assert served.request("GET", others["image_url"])[0].status == 200


def test_expired_links_say_where_to_get_others(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = keyed.served
    url = links_of(served, "wide.png", keyed.web)["thumbnail_url"]
    expires = int(dict(parse_qsl(url))["expires"])
    for now, status in ((expires - 1.0, 200), (expires + 1.0, 410)):
        monkeypatch.setattr(signatures, "time", SimpleNamespace(time=lambda now=now: now))
        response, body = served.request("GET", url)
        assert response.status == status
    problem = json.loads(body)
    assert problem["type"].endswith(":url-expired")
    assert "again with an API key" in problem["detail"]
    assert response.headers["Cache-Control"] == "no-store"
    renewed = url.replace(f"expires={expires}", f"expires={expires + 3600}")
    assert served.request("GET", renewed)[0].status == 403
    fresh = links_of(served, "wide.png", keyed.web)["image_url"]
    assert served.request("GET", fresh)[0].status == 200


def test_replicas_with_the_same_secret_accept_each_other_s_links(
    photos: Gallery, keyed: Keyed
) -> None:
    url = links_of(keyed.served, "wide.png", keyed.web)["image_url"]
    same = settings_of(keyed.file)
    for settings, status in ((same, 200), (replace(same, url_secret=SECRET + b"!"), 403)):
        with serving({"g": photos}, settings) as served:
            assert served.request("GET", url)[0].status == status
    assert SECRET.decode() not in repr(same)
    first, second = (ServeSettings().url_secret for _ in range(2))
    assert first != second
    assert len(first) >= 32


def test_links_are_the_same_for_a_while_and_valid_for_at_least_as_long() -> None:
    times = [expiry(now, 3600) for now in np.linspace(1e9, 1e9 + 7200, 97)]
    for now, expires in zip(np.linspace(1e9, 1e9 + 7200, 97), times, strict=True):
        assert 3600 < expires - now <= 7200
    assert len(set(times)) == 3


def test_ids_of_all_kinds_can_be_signed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 9, 9), dtype=np.uint8)
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=open_encoder("color", [values[0]]))
    names = ["ü €.png", "a&size=1024&b=c.png", "100%.png", "5:a.png", "{size}.png"]
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.fromarray(values[0]).save(tmp_path / "photos" / name)
    gallery.sync(tmp_path / "photos")
    key = add_key(tmp_path / "keys.json", "web", write=False)
    with serving({"g": gallery}, settings_of(tmp_path / "keys.json")) as served:
        _, body = served.request("GET", "/v1/galleries/g/sample", None, {"X-API-Key": key})
        assert len(json.loads(body)) == len(names)
        for each in json.loads(body):
            template = each["thumbnail_url_template"]
            assert template.count("{size}") == 1
            for url in (each["image_url"], template.replace("{size}", "64")):
                assert re.fullmatch(r"[!-~]+", url)
                assert served.request("GET", url)[0].status == 200, each["id"]
            wrong = each["image_url"].replace(quote(each["id"], safe=""), "other")
            assert served.request("GET", wrong)[0].status == 403


def test_a_secret_in_a_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    file: Any = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert read_secret(file) == SECRET
    file.write_bytes(b"short\n")
    with pytest.raises(InputError, match=r"secret: the secret has 5 bytes.*openssl rand"):
        read_secret(file)
    with pytest.raises(InputError, match=r"cannot be read.*openssl rand"):
        read_secret(tmp_path / "missing")


def test_galleries_without_a_source_have_links_too(tmp_path: Path) -> None:
    gallery = new_gallery(tmp_path)
    with serving({"g": gallery}) as served:
        response, _ = served.request(
            "PUT",
            "/v1/galleries/g/item?id=a",
            picture(40, 30, "PNG"),
            {"Content-Type": "image/png"},
        )
        assert response.status in (200, 201)
        _, body = served.request("GET", "/v1/galleries/g/item?id=api:a")
        assert served.request("GET", json.loads(body)["thumbnail_url"])[0].status == 200
