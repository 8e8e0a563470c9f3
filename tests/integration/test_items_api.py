"""Items over HTTP: pages in an order, facets, batches, deletion."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import IMAGES, LOCK
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.serving import Serving, serving

COUNT = 30
DEEP: Any = json.loads("[" * 30 + "]" * 30)
"""More levels than metadata may have."""
ROUTE = "/v1/galleries/shop"


def png(*color: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), color).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Shop:
    """A service of one gallery, and requests to it."""

    served: Serving
    gallery: Gallery

    def send(
        self, method: str, path: str, body: object = None, **parameters: object
    ) -> tuple[int, Any]:
        """Return status and JSON of a request; a parameter that is a list is repeated."""
        query = urlencode(parameters, doseq=True)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        response, content = self.served.request(
            method, f"{ROUTE}{path}?{query}" if query else f"{ROUTE}{path}", data, headers
        )
        return response.status, json.loads(content) if content else None

    def get(self, path: str, **parameters: object) -> Any:
        status, answer = self.send("GET", path, **parameters)
        assert status == 200, answer
        return answer

    def send_form(
        self, path: str, *fields: tuple[str, bytes, str | None], method: str = "POST"
    ) -> tuple[int, Any]:
        """Send a form as browsers do; a field is its name, content, and the name of a file."""
        edge = uuid.uuid4().hex
        parts = []
        for name, content, filename in fields:
            file = "" if filename is None else f'; filename="{filename}"'
            head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
            parts.append(head.encode() + content + b"\r\n")
        headers = {"content-type": f"multipart/form-data; boundary={edge}"}
        body = b"".join([*parts, f"--{edge}--\r\n".encode()])
        response, content = self.served.request(method, f"{ROUTE}{path}", body, headers)
        return response.status, json.loads(content)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images in two folders, with a table; two have no year."""
    root = tmp_path_factory.mktemp("images") / "photos"
    lines = ["path,label,year,caption"]
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = "cats" if number % 3 else "dogs"
        (root / folder).mkdir(parents=True, exist_ok=True)
        name = f"{folder}/IMG_{number}.png"
        (root / name).write_bytes(png(*rng.integers(0, 255, 3).tolist()))
        year = 2000 + number % 7 if number > 1 else ""
        lines.append(f"{name},{folder[:-1]},{year},a photo of number {number}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def new_gallery(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Gallery]:
    encoder = open_encoder("color", sample_images(open_source(source)))

    def create() -> Gallery:
        gallery = Gallery.create(
            tmp_path_factory.mktemp("gallery") / "shop.gallery", encoder=encoder
        )
        gallery.sync(source)
        return gallery

    return create


@pytest.fixture(scope="module")
def shop(new_gallery: Callable[[], Gallery]) -> Iterator[Shop]:
    """A service whose gallery no test changes."""
    gallery = new_gallery()
    with serving({"shop": gallery}) as served:
        yield Shop(served, gallery)


@pytest.fixture
def writable(new_gallery: Callable[[], Gallery]) -> Iterator[Shop]:
    gallery = new_gallery()
    with serving({"shop": gallery}) as served:
        yield Shop(served, gallery)


# ---- pages ---------------------------------------------------------------------------------------


def test_pages_follow_each_other_by_their_cursors(shop: Shop) -> None:
    """All items once, in the order of the gallery's own listing."""
    pages: list[Any] = []
    cursor: dict[str, object] = {}
    while True:
        page = shop.get("/items", sort=["-year", "name"], limit=7, **cursor)
        pages.append(page)
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    ids = [item["id"] for page in pages for item in page["items"]]
    assert ids == shop.gallery.browse(sort=["-year", "name"]).ids()
    assert [page["offset"] for page in pages] == [0, 7, 14, 21, 28]
    assert {page["total"] for page in pages} == {COUNT}
    assert {page["revision"] for page in pages} == {shop.gallery.state.revision}


def test_any_page_by_offset(shop: Shop) -> None:
    page = shop.get("/items", sort="name", offset=9, limit=3)
    assert [item["name"] for item in page["items"]] == ["IMG_9.png", "IMG_10.png", "IMG_11.png"]
    same = shop.get("/items", sort="name", offset=9, limit=3, revision=page["revision"])
    assert same == page
    last = shop.get("/items", offset=COUNT, limit=3)
    assert (last["items"], last["total"], last["next"]) == ([], COUNT, None)


def test_an_item_has_links_and_facts_but_no_path(shop: Shop, source: Path) -> None:
    page = shop.get("/items", where="label = 'dog'", sort="id", limit=1)
    item = page["items"][0]
    assert item["id"] == "photos:dogs/IMG_0.png"
    assert item["source"] == "photos"
    assert item["metadata"] == {"label": "dog", "caption": "a photo of number 0"}
    assert not item.keys() & {"editable", "uri"}
    assert item["date"][:2] == "20"  # when the file was written
    for link in ("image_url", "thumbnail_url"):
        response, _ = shop.served.request("GET", item[link])
        assert response.status == 200
    assert str(source.parent) not in json.dumps(page)
    assert page["total"] == 10


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["id"], {"id"}),
        (["name", "thumbnail_url"], {"id", "name", "thumbnail_url"}),
        (["label", "metadata.year"], {"id", "metadata"}),
        (["metadata", "date"], {"id", "metadata", "date"}),
    ],
)
def test_fields(shop: Shop, fields: Sequence[str], expected: set[str]) -> None:
    page = shop.get("/items", sort="name", offset=4, limit=2, fields=fields)
    assert [set(item) for item in page["items"]] == [expected] * 2
    if "label" in fields:
        assert page["items"][0]["metadata"] == {"label": "cat", "year": 2004}


def test_filter_and_keywords_choose_items(shop: Shop) -> None:
    by_filter = shop.get("/items", where="year >= 2004 and label = 'cat'")
    assert by_filter["total"] == len(shop.gallery.select(where="year >= 2004 and label = 'cat'"))
    by_words = shop.get("/items", keywords="photo 7")
    assert {"photos:cats/IMG_7.png"} == {item["id"] for item in by_words["items"]}
    assert shop.get("/items", keywords="img_7 dog")["total"] == 0  # all words
    assert shop.get("/items", where="year > 3000") | {"revision": ""} == {
        "items": [],
        "total": 0,
        "offset": 0,
        "next": None,
        "revision": "",
    }


@pytest.mark.parametrize(
    ("parameters", "field", "message"),
    [
        ({"cursor": "junk"}, "query/cursor", "not a cursor"),
        ({"cursor": "A" * 40}, "query/cursor", "not a cursor"),
        ({"cursor": "ä"}, "query/cursor", "not a cursor"),
        ({"cursor": "x", "offset": 1}, "query/cursor", "excludes offset"),
        ({"limit": 1001}, "query/limit", "1000"),
        ({"offset": -1}, "query/offset", "0"),
        ({"sort": "nosuch"}, "query/sort", "nosuch"),
        ({"sort": "-"}, "query/sort", "sort"),
        ({"sort": ["a", "b", "c", "d"]}, "query/sort", "3"),
        ({"fields": "nosuch"}, "query/fields", "nosuch"),
        ({"where": "nosuch = 1"}, "query/where", "nosuch"),
        ({"where": "year ="}, "query/where", "filter"),
        ({"keywords": "!"}, "query/keywords", "no word"),
        ({"nosuch": "1"}, "query/nosuch", ""),
    ],
)
def test_bad_parameters_are_named(
    shop: Shop, parameters: Mapping[str, object], field: str, message: str
) -> None:
    status, problem = shop.send("GET", "/items", **parameters)
    assert status == 422
    assert problem["errors"][0]["location"] == field
    assert message in problem["detail"]


def test_a_cursor_is_of_its_order_and_was_not_changed(shop: Shop) -> None:
    cursor = shop.get("/items", limit=2)["next"]
    for change in ({"sort": "-id"}, {"where": "year > 1"}, {"keywords": "photo"}):
        status, problem = shop.send("GET", "/items", cursor=cursor, **change)
        assert (status, problem["errors"][0]["location"]) == (422, "query/cursor")
    for place in range(0, len(cursor), 5):
        other = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert shop.send("GET", "/items", cursor=other)[0] == 422
    assert shop.send("GET", "/items", cursor=cursor, limit=9)[0] == 200


def test_a_cursor_of_an_earlier_revision_is_gone(writable: Shop) -> None:
    page = writable.get("/items", limit=2, sort="name")
    response, _ = writable.served.request("PUT", f"{ROUTE}/item?id=new", png(1, 2, 3))
    assert response.status == 201
    for parameters in ({"cursor": page["next"]}, {"offset": 2, "revision": page["revision"]}):
        status, problem = writable.send("GET", "/items", limit=2, sort="name", **parameters)
        assert status == 410
        assert problem["type"] == "urn:lookalike:problem:revision-changed"
        assert "begin again" in problem["detail"]
        again = writable.get("/items", limit=2, sort="name", offset=problem["offset"])
        assert again["revision"] == problem["revision"]
        assert again["total"] == COUNT + 1


def test_a_listing_in_python_stays_while_rows_are_written(writable: Shop) -> None:
    before = writable.gallery.browse(sort="-name")
    assert before[0].id == "photos:cats/IMG_29.png"
    writable.served.request("PUT", f"{ROUTE}/item?id=new", png(1, 2, 3))
    assert len(before) == COUNT
    assert len(writable.gallery.browse()) == COUNT + 1


# ---- facets --------------------------------------------------------------------------------------


def test_facets_count_the_items_that_match(shop: Shop) -> None:
    answer = shop.get("/facets", where="year = 2003", columns=["label", "year"])
    matching = shop.gallery.browse(where="year = 2003")
    labels = [item.metadata["label"] for item in matching]
    column, year = answer["columns"]
    assert (answer["total"], column["rows"]) == (len(matching), len(matching))
    assert dict(column["values"]) == {label: labels.count(label) for label in set(labels)}
    assert year["values"] == [[2003, len(matching)]]
    assert answer["revision"] == shop.gallery.state.revision


def test_the_most_frequent_values_are_listed(shop: Shop) -> None:
    [captions] = shop.get("/facets", columns="caption", values=3)["columns"]
    assert (captions["distinct"], len(captions["values"])) == (COUNT, 3)
    names = [column["column"] for column in shop.get("/facets")["columns"]]
    assert names == ["caption", "label", "year"]
    assert shop.get("/facets", where="year > 3000")["columns"] == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"columns": "labl"}, "query/columns"), ({"values": 0}, "query/values")],
)
def test_bad_facets_are_named(shop: Shop, parameters: Mapping[str, object], field: str) -> None:
    status, problem = shop.send("GET", "/facets", **parameters)
    assert (status, problem["errors"][0]["location"]) == (422, field)


# ---- groups --------------------------------------------------------------------------------------


def test_groups_lead_to_the_items(shop: Shop) -> None:
    answer = shop.get("/groups", sort="-year", where="year > 2001")
    total = shop.get("/items", where="year > 2001", limit=1)["total"]
    assert answer["total"] == total == sum(group["count"] for group in answer["groups"])
    years = [group["value"] for group in answer["groups"]]
    assert years == sorted(set(years), reverse=True)
    offset = answer["groups"][0]["count"]
    [first] = shop.get("/items", sort="-year", where="year > 2001", offset=offset, limit=1)["items"]
    assert first["metadata"]["year"] == years[1]
    by_file = shop.get("/groups", sort="date", by="month")["groups"]
    assert sum(group["count"] for group in by_file) == COUNT
    assert re.fullmatch(r"\d{4}-\d\d", by_file[0]["value"])


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"sort": "id"}, "query/sort"),
        ({"key": "name"}, "query/key"),
        ({"sort": "yaer"}, "query/sort"),
        ({"key": "yaer"}, "query/key"),
        ({"by": "week"}, "query/by"),
    ],
)
def test_bad_groups_are_named(shop: Shop, parameters: Mapping[str, object], field: str) -> None:
    status, problem = shop.send("GET", "/groups", **parameters)
    assert (status, problem["errors"][0]["location"]) == (422, field)


# ---- methods -------------------------------------------------------------------------------------


def test_head_is_answered_wherever_get_is(shop: Shop) -> None:
    for path in ("/items", "/ids", "/facets", "/sample", ""):
        get, content = shop.served.request("GET", f"{ROUTE}{path}")
        head, nothing = shop.served.request("HEAD", f"{ROUTE}{path}")
        assert (get.status, head.status, nothing) == (200, 200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["content-length"] == str(len(content))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/items", "GET, HEAD"),
        ("POST", "/item", "DELETE, GET, HEAD, PATCH, PUT"),
        ("HEAD", "/items/batch", "POST"),
        ("GET", "/items/delete", "POST"),
        ("GET", "/items/update", "POST"),
    ],
)
def test_405_lists_the_methods(shop: Shop, method: str, path: str, allowed: str) -> None:
    response, _ = shop.served.request(method, f"{ROUTE}{path}")
    assert (response.status, response.headers["allow"]) == (405, allowed)


# ---- batches -------------------------------------------------------------------------------------


def test_put_says_whether_the_item_is_new(writable: Shop) -> None:
    statuses = [
        writable.served.request("PUT", f"{ROUTE}/item?id=new", png(shade, 2, 3))[0].status
        for shade in (1, 9)
    ]
    assert statuses == [201, 200]


def test_put_takes_a_form_too(writable: Shop) -> None:
    status, answer = writable.send_form("/item?id=new", ("image", png(1, 2, 3), "a"), method="PUT")
    assert (status, answer) == (201, {"id": "api:new", "created": True})
    assert (writable.gallery.image("new")[0, 0] == (1, 2, 3)).all()
    for fields in ([("file", b"x", "a")], [("image", b"x", "a")] * 2, []):
        assert writable.send_form("/item?id=b", *fields, method="PUT")[0] in (400, 413)


def test_a_form_of_several_images(writable: Shop) -> None:
    """Names of files are IDs; a broken image is refused, and the others are stored."""
    status, answer = writable.send_form(
        "/items/batch",
        ("image", png(1, 2, 3), "a.png"),
        ("image", b"not an image", "b.png"),
        ("metadata", b'{"label": "new"}', None),
        ("image", png(9, 9, 9), "a.png"),
        ("image", png(4, 5, 6), "blob"),
    )
    assert status == 200
    assert [each["status"] for each in answer["results"]] == [201, 422, 422, 201]
    assert (answer["added"], answer["replaced"], answer["failed"]) == (2, 0, 2)
    first, broken, repeated, unnamed = answer["results"]
    assert (first["id"], first["created"], first["problem"]) == ("api:a.png", True, None)
    assert "b.png" in broken["problem"]["detail"]
    assert "another image" in repeated["problem"]["detail"]
    assert writable.gallery[unnamed["id"]].metadata == {"label": "new"}
    assert (writable.gallery.image("api:a.png")[0, 0] == (1, 2, 3)).all()
    assert len(list((writable.gallery.path / IMAGES).iterdir())) == 2


def test_ids_and_metadata_of_each_image_of_a_form(writable: Shop) -> None:
    def send() -> tuple[int, Any]:
        return writable.send_form(
            "/items/batch",
            ("ids", b'["x", "api:y"]', None),
            ("metadata", b'[{"n": 1}, {"n": 2}]', None),
            ("image", png(1, 2, 3), "same.png"),
            ("image", png(4, 5, 6), "same.png"),
        )

    assert [each["id"] for each in send()[1]["results"]] == ["api:x", "api:y"]
    assert writable.gallery["api:y"].metadata == {"n": 2}
    again = send()[1]
    assert [each["status"] for each in again["results"]] == [200, 200]
    assert (again["added"], again["replaced"]) == (0, 2)


def test_json_of_several_images(writable: Shop) -> None:
    image = base64.b64encode(png(1, 2, 3)).decode()
    status, answer = writable.send(
        "POST",
        "/items/batch",
        {
            "items": [
                {"id": "a", "image": image, "metadata": {"label": "new"}},
                {"image": image},
                {"id": "c", "image": "a"},
                {"id": "d", "url": "http://127.0.0.1:9/x.png"},
                {"id": "x" * 600, "image": image},
            ]
        },
    )
    assert status == 200
    assert [each["status"] for each in answer["results"]] == [201, 201, 422, 403, 422]
    assert writable.gallery["api:a"].metadata == {"label": "new"}
    assert answer["results"][1]["id"].startswith("api:")
    assert "base64" in answer["results"][2]["problem"]["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "body/items"),
        ({}, "body/items"),
        ({"items": [{"id": "a"}]}, "body/items/0"),
        ({"items": [{"id": "a", "image": "", "metadata": {"a": DEEP}}]}, "body/items/0/metadata"),
        ({"items": [{"id": 5, "image": ""}]}, "body/items/0/id"),
        ({"items": [{"id": "a", "image": "", "nosuch": 1}]}, "body/items/0/nosuch"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(shop: Shop, body: object, field: str) -> None:
    status, problem = shop.send("POST", "/items/batch", body)
    assert status == 422
    assert problem["errors"][0]["location"] == field


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ([("ids", b'["a"]', None)], "body/image"),
        ([("image", b"x", "a.png"), ("ids", b"[]", None)], "body/ids"),
        ([("image", b"x", "a.png"), ("ids", b"a", None)], "body/ids"),
        ([("image", b"x", "a.png"), ("ids", b"[5]", None)], "body/ids/0"),
        ([("image", b"x", "a.png"), ("nosuch", b"", None)], "body/nosuch"),
        ([("image", b"x", "a.png"), ("ids", b"[]", None), ("ids", b"[]", None)], "body/ids"),
    ],
)
def test_a_bad_form_names_the_field(
    shop: Shop, fields: Sequence[tuple[str, bytes, str | None]], location: str
) -> None:
    status, problem = shop.send_form("/items/batch", *fields)
    assert status == 422
    assert problem["errors"][0]["location"] == location


def test_more_images_than_the_limit_are_refused(shop: Shop) -> None:
    status, _ = shop.send_form("/items/batch", *[("image", b"x", f"{n}.png") for n in range(67)])
    assert status == 413
    items = [{"id": str(n), "image": ""} for n in range(65)]
    assert shop.send("POST", "/items/batch", {"items": items})[0] == 422


def test_nothing_of_a_batch_is_stored_while_another_process_writes(
    writable: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    from lookalike.gallery import uploads

    monkeypatch.setattr(uploads, "WAIT_S", 0.1)
    with FileLock(writable.gallery.path / LOCK):
        status, problem = writable.send_form("/items/batch", ("image", png(1, 2, 3), "a.png"))
    assert (status, problem["type"]) == (409, "urn:lookalike:problem:gallery-locked")
    assert "api:a.png" not in writable.gallery


# ---- update ------------------------------------------------------------------------------------


def test_items_are_updated_together(writable: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.server import item_batch_schemas

    query = urlencode({"id": "a", "metadata": '{"n": 1}'})
    writable.served.request("PUT", f"{ROUTE}/item?{query}", png(1, 2, 3))
    cat = "photos:cats/IMG_1.png"
    body = {"ids": ["a", "api:a", cat, "nosuch"], "metadata": {"label": "fox", "n": None}}
    status, answer = writable.send("POST", "/items/update", body)
    assert (status, answer) == (200, {"updated": 2, "missing": ["nosuch"]})
    assert writable.gallery["a"].metadata == {"label": "fox"}
    before = writable.gallery[cat].metadata
    assert (before["label"], before["edited_columns"]) == ("fox", {"label": "cat"})

    by_filter = {"where": "label = 'fox'", "metadata": {"label": None, "stars": 5}}
    monkeypatch.setattr(item_batch_schemas, "MAX_CHANGED", 1)
    status, problem = writable.send("POST", "/items/update", by_filter)
    assert (status, problem["type"]) == (422, "urn:lookalike:problem:invalid-request")
    assert "matches 2 items; at most 1 are changed at a time" in problem["detail"]
    monkeypatch.setattr(item_batch_schemas, "MAX_CHANGED", 2)
    status, answer = writable.send("POST", "/items/update", by_filter)
    assert (status, answer) == (200, {"updated": 2, "missing": []})
    assert writable.gallery["a"].metadata == {"stars": 5}
    assert writable.gallery[cat].metadata["label"] == "cat"


def test_either_all_items_are_updated_or_none(writable: Shop) -> None:
    query = urlencode({"id": "z", "metadata": json.dumps({"text": "x" * 19_000})})
    writable.served.request("PUT", f"{ROUTE}/item?{query}", png(1, 2, 3))
    long = {f"more {number}": "y" * 19_900 for number in range(4)}
    assert writable.send("PATCH", "/item", {"metadata": long}, id="api:z")[0] == 200
    body = {"ids": ["photos:cats/IMG_1.png", "z"], "metadata": {"note": "n" * 5_000}}
    status, problem = writable.send("POST", "/items/update", body)
    assert status == 422
    assert "api:z: has" in problem["detail"]
    assert "note" not in writable.gallery["photos:cats/IMG_1.png"].metadata


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"ids": ["a"]}, "body/metadata"),
        ({"metadata": {"a": 1}}, "body"),
        ({"ids": ["a"], "where": "a = 1", "metadata": {"a": 1}}, "body"),
        ({"ids": ["a"], "metadata": {"a": "\0"}}, "body/metadata"),
        ({"where": "nosuch = 1", "metadata": {"a": 1}}, "body/where"),
    ],
)
def test_a_bad_update_is_refused(writable: Shop, body: object, location: str) -> None:
    status, problem = writable.send("POST", "/items/update", body)
    assert status == 422
    assert [each["location"] for each in problem["errors"]] == [location]


def test_what_the_gallery_keeps_is_not_set(writable: Shop) -> None:
    body = {"ids": ["photos:cats/IMG_1.png"], "metadata": {"edited_columns": {}}}
    status, problem = writable.send("POST", "/items/update", body)
    assert status == 422
    assert "edited_columns says which columns were changed" in problem["detail"]


# ---- deletion ------------------------------------------------------------------------------------


def test_items_are_deleted_by_id_and_each_is_counted(writable: Shop) -> None:
    for name in ("a", "b", "c"):
        writable.served.request("PUT", f"{ROUTE}/item?id={name}", png(1, 2, 3))
    status, answer = writable.send(
        "POST", "/items/delete", {"ids": ["api:a", "b", "a", "nosuch", "photos:cats/IMG_1.png"]}
    )
    assert status == 200
    assert answer == {"deleted": 3, "missing": ["nosuch"], "remaining": 0}
    assert [each for each in writable.gallery if each.startswith("api:")] == ["api:c"]
    assert len(writable.gallery) == COUNT


def test_items_are_deleted_by_a_filter(writable: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.server import item_batch_schemas

    monkeypatch.setattr(item_batch_schemas, "MAX_CHANGED", 2)
    for number in range(2):
        query = urlencode({"id": number, "metadata": '{"label": "fox"}'})
        writable.served.request("PUT", f"{ROUTE}/item?{query}", png(number, 2, 3))
    changed = {"metadata": {"label": "fox"}}
    assert writable.send("PATCH", "/item", changed, id="photos:cats/IMG_1.png")[0] == 200
    answers = [
        writable.send("POST", "/items/delete", {"where": {"label": "fox"}})[1] for _ in range(3)
    ]
    assert [(each["deleted"], each["remaining"]) for each in answers] == [(2, 1), (1, 0), (0, 0)]
    assert len(writable.gallery) == COUNT - 1


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "body"),
        ({"ids": ["a"], "where": "year > 1"}, "body"),
        ({"ids": []}, "body/ids"),
        ({"ids": "a"}, "body/ids"),
        ({"where": "year ="}, "body/where"),
        ({"where": "nosuch = 1"}, "body/where"),
    ],
)
def test_a_bad_deletion_is_refused(shop: Shop, body: object, location: str) -> None:
    status, problem = shop.send("POST", "/items/delete", body)
    assert status == 422
    assert problem["errors"][0]["location"] == location
    assert len(shop.gallery) == COUNT


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/items/batch"), ("POST", "/items/update"), ("POST", "/items/delete")],
)
def test_batches_need_the_right_to_write(
    new_gallery: Callable[[], Gallery], method: str, path: str
) -> None:
    gallery = new_gallery()
    with serving({"shop": gallery}, ServeSettings(hosts=LOOPBACK)) as served:
        assert Shop(served, gallery).send(method, path, {})[0] == 403
