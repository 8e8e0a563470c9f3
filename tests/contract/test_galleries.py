"""One contract for galleries on this machine and those of a service, over a real connection."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from lookalike.client import RemoteGallery
from lookalike.encoders.base import Encoder
from lookalike.errors import (
    ImageError,
    InputError,
    LookalikeError,
    MissingRowError,
    ServiceError,
)
from lookalike.gallery.base import BaseGallery, BaseListing
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.items import GalleryItem
from lookalike.types import Progress
from tests.serving import Serving, serving

ROWS = 6


def gray(value: int, side: int = 12) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


@dataclass(frozen=True)
class Pair:
    """Two galleries with equal rows, the second one of a service."""

    local: Gallery
    remote: RemoteGallery

    def same(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Return the result of a call on each, which must be equal."""
        result, other = (call(each, *arguments) for each in (self.local, self.remote))
        assert result == other
        return result

    def refused(self, call: Callable[..., Any], *arguments: object) -> LookalikeError:
        """Return the error of a call on each, which must be of one type; neither changes rows."""
        rows, errors = list(self.local), []
        for gallery in (self.local, self.remote):
            with pytest.raises(LookalikeError) as refused:
                call(gallery, *arguments)
            errors.append(refused.value)
            assert list(gallery) == rows
        assert type(errors[0]) is type(errors[1]), errors
        return errors[0]


def fill(gallery: Gallery) -> None:
    """Give a gallery the rows that each test begins with."""
    gallery.sync(gallery.path.parent / "photos", restore_removed=True, progress=False)
    gallery.remove_rows([each for each in gallery if each.startswith("api:")])
    rows = range(ROWS)
    images = [gray(40 * i) for i in rows]
    metadata = [{"n": i, "label": "dark" if i < 3 else "light"} for i in rows]
    assert gallery.add(images, ids=[f"n{i}" for i in rows], metadata=metadata) == [
        f"api:n{i}" for i in rows
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, pixels: Encoder) -> Iterator[Serving]:
    tmp_path = tmp_path_factory.mktemp("galleries")
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(gray(250)).save(folder / "white.png")
    galleries = {
        name: Gallery.create(tmp_path / f"{name}.gallery", encoder=pixels)
        for name in ("local", "g")
    }
    with serving(galleries) as running:
        yield running


@pytest.fixture
def pair(served: Serving) -> Pair:
    local, other = (served.service.handle(name).gallery for name in ("local", "g"))
    fill(local)
    fill(other)
    return Pair(local, served.client().gallery("g"))


PUBLIC = sorted(
    name
    for name in dir(BaseGallery)
    if not name.startswith("_") or name in {"__len__", "__iter__", "__getitem__", "__contains__"}
)


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures_are_equal(name: str) -> None:
    signatures = [
        inspect.signature(getattr(kind, name)).parameters
        for kind in (BaseGallery, Gallery, RemoteGallery)
    ]
    assert signatures[1:] == signatures[:1] * 2


def test_every_public_method_has_a_test_here() -> None:
    """What is added to the interface is added to this contract."""
    assert [name for name in PUBLIC if not name.startswith("_")] == [
        *("add", "browse", "embedding", "get", "image", "info", "read_item", "remove", "search"),
        *("search_pages", "update_metadata"),
    ]


def test_ids_and_lookups(pair: Pair) -> None:
    ids = pair.same(lambda g: list(g))
    assert ids == [*(f"api:n{i}" for i in range(ROWS)), "photos:white.png"]
    assert pair.same(len) == ROWS + 1
    for key, found in {"api:n1": True, "n1": True, "photos:white.png": True, "n9": False}.items():
        assert pair.same(lambda g, key: key in g, key) is found
    for odd in (1, None, b"n1", 1.5, ("n1",), "", "\0", "\ud800", "x" * 5_000):
        assert pair.same(lambda g, odd: odd in g, odd) is False


def test_items_are_equal(pair: Pair) -> None:
    for key in ("api:n1", "n1", "photos:white.png"):
        one, other = pair.local[key], pair.remote[key]
        fields = [(each.id, each.metadata, each.content_hash) for each in (one, other)]
        assert fields[0] == fields[1]
        assert one.embedding.dtype == other.embedding.dtype == np.float32
        assert np.array_equal(one.embedding, other.embedding)
        assert np.array_equal(one.image(), other.image())
        assert np.array_equal(pair.local.image(key), pair.remote.image(key))
        assert np.array_equal(pair.local.embedding(key), pair.remote.embedding(key))
        for item in (one, other):
            assert isinstance(item, GalleryItem)
            assert repr(item).count("\n") == 0
            assert "<img" in item._repr_html_()
            assert copy.copy(item) == item
            assert pickle.loads(pickle.dumps(item)).id == item.id


def test_get_takes_one_or_many(pair: Pair) -> None:
    assert pair.same(lambda g: g.get("n9")) is None
    assert pair.same(lambda g: g.get("n9", "other")) == "other"
    ids = ["n3", "n9", "photos:white.png", "n3"]
    found = pair.same(lambda g: [item and item.id for item in g.get(ids)])
    assert found == ["api:n3", None, "photos:white.png", "api:n3"]
    assert pair.same(lambda g: g.get([])) == []
    assert pair.same(lambda g: [getattr(i, "id", i) for i in g.get(iter(["n9", "n1"]), 0)]) == [
        0,
        "api:n1",
    ]
    for odd in (None, 1, b"n1", [1], ["n1", None]):
        assert "ids" in str(pair.refused(lambda g, odd: g.get(odd), odd))


def test_a_missing_id_suggests_the_nearest(pair: Pair) -> None:
    for call in (
        lambda g: g["photos:whit.png"],
        lambda g: g.remove("photos:whit.png"),
        lambda g: g.remove(["n1", "photos:whit.png"]),
    ):
        error = pair.refused(call)
        assert isinstance(error, MissingRowError)
        assert "'photos:white.png'" in str(error)
    for call in (
        lambda g: g.image("n9"),
        lambda g: g.embedding("n9"),
        lambda g: g.update_metadata("n9", {"a": 1}),
        lambda g: g.search(id="n9"),
        lambda g: g.image("\0"),
        lambda g: g.embedding(""),
        lambda g: g["\ud800"],
    ):
        assert isinstance(pair.refused(call), MissingRowError)
    for call in (lambda g: g[0], lambda g: g.image(None), lambda g: g.embedding(["n1"])):
        assert type(pair.refused(call)) is InputError


def test_images_of_all_forms_are_added(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "new.png"
    Image.fromarray(gray(3)).save(path)
    data = io.BytesIO()
    Image.fromarray(gray(5)).save(data, "PNG")
    rgb = np.stack([gray(6), gray(7), gray(8)], axis=-1)
    images = [str(path), path, data.getvalue(), io.BytesIO(data.getvalue()), gray(9), rgb]
    images += [Image.fromarray(rgb), pair.local["n1"]]
    ids = [f"new {i}" for i in range(len(images))]
    assert pair.same(lambda g: g.add([rewound(i) for i in images], ids=ids)) == [
        f"api:{row_id}" for row_id in ids
    ]
    for row_id in ids:
        one, other = pair.local[row_id], pair.remote[row_id]
        assert one.content_hash == other.content_hash
        assert np.array_equal(one.embedding, other.embedding)
        assert np.array_equal(one.image(), other.image())
    assert pair.same(lambda g: g.add(np.stack([gray(10), gray(11)]), ids=("x", "y"))) == [
        "api:x",
        "api:y",
    ]
    assert pair.same(lambda g: g.remove([*ids, "api:x", "y", "y"])) == len(ids) + 2
    assert pair.same(len) == ROWS + 1


def test_a_page_of_a_file_is_added_by_itself(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    pages = [Image.fromarray(gray(value)) for value in (20, 90)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert pair.same(lambda g: g.add(f"{path}#2", ids="p")) == ["api:p"]
    assert pair.same(lambda g: int(g.image("p")[0, 0])) == 90
    assert pair.same(lambda g: g.search(f"{path}#2", k=1, metric="l2").ids) == ["api:p"]


def rewound(image: object) -> object:
    return io.BytesIO(image.getvalue()) if isinstance(image, io.BytesIO) else image


def test_ids_are_made_of_the_content(pair: Pair) -> None:
    images = [gray(71), gray(72), gray(71)]
    ids = pair.same(lambda g: g.add(images))
    assert len(set(ids)) == 3
    assert ids[2] == f"{ids[0]}-2"
    assert pair.same(lambda g: g.add(images)) == ids
    assert pair.same(len) == ROWS + 4
    assert pair.same(lambda g: g.remove(ids)) == 3


def test_one_image_is_replaced(pair: Pair) -> None:
    assert pair.same(lambda g: g.add(gray(99), ids="n1", metadata={"a": 1})) == ["api:n1"]
    assert pair.same(lambda g: g["n1"].metadata) == {"a": 1}
    assert pair.same(lambda g: int(g.image("n1")[0, 0])) == 99
    assert pair.same(len) == ROWS + 1
    long = {"text": "é" * 20_000}
    assert pair.same(lambda g: g.add(gray(99), ids="n1", metadata=long)) == ["api:n1"]
    assert pair.same(lambda g: g["n1"].metadata) == long


def test_metadata_in_all_forms(pair: Pair) -> None:
    images = [gray(61), gray(62)]
    columns = {"year": [2020, None], "label": ["a", "b"]}
    expected = [{"year": 2020, "label": "a"}, {"label": "b"}]
    numpy = [{"year": np.int64(2020), "label": np.str_("a")}, {"label": "b"}]
    for table in (pa.table(columns), pd.DataFrame(columns), expected, tuple(numpy)):
        pair.same(lambda g, table: g.add(images, ids=["p", "q"], metadata=table), table)
        assert pair.same(lambda g: [item.metadata for item in g.get(["p", "q"])]) == expected
    assert pair.same(lambda g: g.update_metadata("q", {"label": None, "new": [1]})) == {"new": [1]}
    assert pair.same(lambda g: g["q"].metadata) == {"new": [1]}


def test_a_row_of_a_source_is_changed_and_changed_back(pair: Pair) -> None:
    photo = "photos:white.png"
    changed = {"label": "snow", "stars": 5, "edited_columns": {"label": None, "stars": None}}
    assert pair.same(lambda g: g.update_metadata(photo, {"label": "snow", "stars": 5})) == changed
    assert pair.same(lambda g: g[photo].metadata) == changed
    assert pair.same(lambda g: g.update_metadata(photo, {"label": None})) == {
        "stars": 5,
        "edited_columns": {"stars": None},
    }
    assert pair.same(lambda g: g.update_metadata(photo, {"stars": None, "label": None})) == {}


def test_a_row_of_a_source_is_removed(pair: Pair) -> None:
    assert pair.same(lambda g: g.remove("photos:white.png")) == 1
    assert pair.same(len) == ROWS


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda g: g.add([gray(1), gray(2)], ids=["a"]), "ids: got 1 for 2"),
        (lambda g: g.add([gray(1), gray(2)], ids=["a", "a"]), "ids: 'api:a' occurs twice"),
        (lambda g: g.add([gray(1), gray(2)], ids=["a", "api:a"]), "occurs twice"),
        (lambda g: g.add(gray(1), ids=[1.5]), "must be a text, not float"),
        (lambda g: g.add(gray(1), ids=""), "1 to 500 printable"),
        (lambda g: g.add([gray(1)], ids="a"), "ids: expected a list"),
        (lambda g: g.add(gray(1), ids=7), "ids: expected a list"),
        (lambda g: g.add([gray(1)], metadata=[]), "metadata: has 0 rows for 1"),
        (lambda g: g.add([gray(1)], metadata=[1]), "metadata[0]: expected a mapping"),
        (lambda g: g.add([gray(1)], metadata={"a": [1]}), "metadata: expected a mapping for each"),
        (lambda g: g.add([gray(1)], metadata="a"), "metadata: expected"),
        (lambda g: g.add([gray(1)], metadata=[{"a": float("nan")}]), "metadata[0]: column 'a'"),
        (lambda g: g.add([gray(1)], metadata=[{"a": object()}]), "no JSON value"),
        (lambda g: g.add([]), "images"),
        (lambda g: g.add(None), "images"),
        (lambda g: g.add(3), "images"),
        (lambda g: g.add([gray(1).astype(np.float32)]), "value_range"),
        (lambda g: g.remove(3), "ids: expected an id"),
        (lambda g: g.remove([b"a"]), "ids: expected an id"),
        (lambda g: g.update_metadata("photos:white.png", {"edited_columns": {}}), "cannot be set"),
        (lambda g: g.update_metadata("n1", {"a": float("inf")}), ""),
        (lambda g: g.search(vector=np.zeros(3)), "3"),
        (lambda g: g.search(), "no query"),
        (lambda g: g.update_metadata("n1", 3), "metadata: expected a mapping"),
        (lambda g: g.add(gray(1), metadata={1: 2}), "metadata[0]: the column 1"),
        (lambda g: g.add(gray(1), progress="yes"), "progress=yes must be True, False"),
        (lambda g: g.add([gray(1)], ids={"a"}), "ids: expected a list"),
        (lambda g: g.remove({"n1": 1}), "ids: expected an id"),
    ],
)
def test_invalid_input_is_refused(
    pair: Pair, call: Callable[[BaseGallery], Any], named: str
) -> None:
    error = pair.refused(call)
    assert isinstance(error, InputError)
    assert named in str(error)


def test_nothing_is_written_if_one_image_is_unreadable(pair: Pair, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    for bad in (broken, tmp_path / "missing.png", b"no image", tmp_path):
        error = pair.refused(lambda g, bad: g.add([gray(1), bad, gray(2)]), bad)
        assert isinstance(error, ImageError | InputError)
    assert "broken.png" in str(pair.refused(lambda g: g.add([gray(1), broken])))
    assert "images[1]" in str(pair.refused(lambda g: g.add([gray(1), b"no image"])))
    files = list((pair.local.path / "images").iterdir())
    assert len(files) == ROWS


def test_progress_is_reported(pair: Pair) -> None:
    for gallery in (pair.local, pair.remote):
        seen: list[Progress] = []
        gallery.add([gray(1), gray(2)], ids=["a", "b"], progress=seen.append)
        tasks = list(dict.fromkeys(each.task for each in seen))
        assert len(tasks) == 2
        assert [max(e.done for e in seen if e.task == task) for task in tasks] == [2, 2]
        assert {each.total for each in seen} == {2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sort": "-n"},
        {"sort": ["label", "-name"]},
        {"sort": ("-metadata.label", "id"), "where": "n >= 1 and n <= 4"},
        {"where": {"n": {"gte": np.int64(2)}, "label": "light"}},
        {"where": '{"label": {"in": ["dark"]}}'},
        {"where": "label = 'nothing'"},
        {"keywords": "light", "sort": "name"},
    ],
)
def test_listings_are_equal(pair: Pair, options: dict[str, Any]) -> None:
    listings = [gallery.browse(**options) for gallery in (pair.local, pair.remote)]

    def same(call: Callable[[BaseListing], Any]) -> Any:
        result, other = map(call, listings)
        assert result == other
        return result

    ids = same(lambda each: each.ids())
    assert same(len) == len(ids)
    assert same(lambda each: [item.id for item in each]) == ids
    assert same(lambda each: [(i.metadata, i.content_hash) for i in each[:]])[:1] != [({}, "")]
    for places in (slice(1, 3), slice(None, None, -2), slice(2, None, 3), slice(-2, None)):
        assert [item.id for item in listings[1][places]] == ids[places]
        assert listings[1].ids(places) == ids[places]
    if ids:
        assert same(lambda each: (each[0].id, each[-1].id)) == (ids[0], ids[-1])
        assert np.array_equal(listings[0][0].image(), listings[1][0].image())
        assert np.array_equal(listings[0][0].embedding, listings[1][0].embedding)
    assert same(lambda each: each.facets()) or not ids
    assert same(lambda each: each.facets(iter(["n"]), most_frequent=1)) or not ids
    assert same(lambda each: each.facets([])) == []
    assert sum(group.count for group in same(lambda each: each.groups("label"))) == len(ids)
    for listing in listings:
        assert repr(listing).endswith(f"{len(ids)} rows>")
        with pytest.raises(IndexError):
            listing[len(ids)]


def test_listings_that_are_refused(pair: Pair) -> None:
    for call, named in (
        (lambda g: g.browse(where="n >"), "filter"),
        (lambda g: g.browse(where='{"n": '), "filter: cannot be read (not valid JSON"),
        (lambda g: g.browse(where={"n": {"near": 3}}), "near"),
        (lambda g: g.browse(where=3), "where"),
        (lambda g: g.browse(sort=["n", "label", "name", "id"]), "more than 3"),
        (lambda g: g.browse(sort=""), "sort"),
        (lambda g: g.browse(sort=3), "sort"),
        (lambda g: g.browse(keywords=3), "keywords"),
        (lambda g: g.browse(keywords="."), "keywords"),
        (lambda g: g.browse().facets(most_frequent=0), "most_frequent"),
        (lambda g: g.browse().groups("n", by="week"), "by=week must be value, year"),
        (lambda g: g.browse().groups("name"), "key"),
    ):
        assert named in str(pair.refused(call))
    for call in (
        lambda g: g.browse(sort="labell"),
        lambda g: g.browse(where="labell = 3"),
        lambda g: g.browse().facets(["labell"]),
        lambda g: g.browse().groups("labell"),
    ):
        for gallery in (pair.local, pair.remote):
            with pytest.raises(InputError, match="labell"):
                call(gallery)


def test_a_listing_of_a_service_ends_when_the_gallery_changes(pair: Pair) -> None:
    before, listing = pair.local.browse(), pair.remote.browse()
    first = listing[0]
    for gallery in (pair.local, pair.remote):
        gallery.update_metadata("n1", {"label": "new"})
    assert [item.metadata.get("label") for item in before[1:2]] == ["dark"]
    assert len(listing) == ROWS + 1
    assert first.id == "api:n0"
    for call in (
        lambda: listing[0],
        lambda: listing[:2],
        listing.ids,
        lambda: list(listing),
        listing.facets,
        lambda: listing.groups("label"),
    ):
        with pytest.raises(ServiceError, match="'g' has changed since it was browsed") as changed:
            call()
        assert (changed.value.status, changed.value.kind) == (410, "revision-changed")
        assert "browse() again" in str(changed.value)
    assert pair.remote.browse()[1].metadata["label"] == "new"


def test_pages_of_results_are_equal(pair: Pair) -> None:
    for options in ({"id": "n1"}, {"keywords": "light"}, {"where": "label = 'light'"}):
        pages = pair.same(lambda g, o=options: [p.ids for p in g.search_pages(**o, k=2)])
        assert [row_id for page in pages for row_id in page]


def test_search_results_are_equal(pair: Pair) -> None:
    for call in (
        lambda g: g.search(gray(41), k=3),
        lambda g: g.search(id="n1", k=3),
        lambda g: g.search(id="api:n1", k=3, where="label = 'light'"),
        lambda g: g.search(vector=np.arange(1, 1 + pair.local.encoder.dim), k=4, metric="l2"),
        lambda g: g.search(like=[g["n1"], gray(80)], unlike=[g["n5"]], k=3),
    ):
        hits, others = call(pair.local), call(pair.remote)
        assert hits.ids == others.ids
        assert np.allclose(hits.distances, others.distances, atol=1e-6)
        assert [h.metadata for h in hits] == [h.metadata for h in others]
        assert [i is None for i in hits.images()] == [i is None for i in others.images()]
        assert "<img" in others._repr_html_()
    lists = [
        [h.ids for h in g.search([gray(1), gray(200)], k=2)] for g in (pair.local, pair.remote)
    ]
    assert lists[0] == lists[1]


def test_facts_and_what_a_notebook_shows(pair: Pair) -> None:
    facts = ("rows", "dim", "encoder", "metric", "fingerprint")
    pair.same(lambda g: {name: g.info()[name] for name in facts})
    for gallery in (pair.local, pair.remote):
        assert repr(gallery).count("\n") == 0
        shown = gallery._repr_html_()
        assert 1 <= shown.count("<img") <= 12
        assert len(shown) < 200_000
