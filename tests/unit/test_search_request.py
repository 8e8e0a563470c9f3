"""Search requests: what they refuse, their JSON, and queries of several examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ImageError, InputError, LookalikeError, MissingRowError, SettingError
from lookalike.filters import Filter, parse
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.items import GalleryItem
from lookalike.images.foreground import Box
from lookalike.search import searchable
from lookalike.search.hits import Hits
from lookalike.search.query import combine_embeddings, encode_queries, run_now
from lookalike.search.region import QueryRegion
from lookalike.search.request import Example, Query, SearchRequest, SentImage
from lookalike.search.search import search_rows
from lookalike.sources import open_source
from lookalike.stores.base import RowReader, Rows
from lookalike.stores.memory import MemoryStore
from lookalike.types import Embeddings, ImageArray, Metric

COUNT = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of different colors, and a file that is none."""
    folder = tmp_path_factory.mktemp("search") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(80, 180, 3) + rng.integers(-60, 60, (24, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    lines = ["path,number", *(f"{number:02}.png,{number}" for number in range(COUNT))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    (folder.parent / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def encoder(photos: Path) -> Encoder:
    return open_encoder("color", open_source(photos))


@pytest.fixture(scope="module")
def gallery(photos: Path, encoder: Encoder) -> Gallery:
    gallery = Gallery.create(photos.parent / "photos.gallery", encoder=encoder)
    gallery.sync(photos, progress=False)
    return gallery


def item(gallery: Gallery, number: int) -> GalleryItem:
    return gallery[f"photos:{number:02}.png"]


def by_distance(gallery: Gallery, vector: NDArray[np.floating]) -> list[str]:
    """Return all ids by cosine distance to a vector, with a loop."""
    distances = {}
    for row_id in gallery:
        row = gallery[row_id].embedding.astype(float)
        distances[row_id] = 1 - row @ vector / np.linalg.norm(row) / np.linalg.norm(vector)
    return sorted(distances, key=lambda row_id: (round(distances[row_id], 9), row_id))


def test_several_queries_have_the_hits_of_each(gallery: Gallery, photos: Path) -> None:
    paths = sorted(photos.glob("*.png"))
    vectors = np.random.default_rng(1).normal(size=(40, gallery.store.dim)).astype(np.float32)
    ids = list(gallery)
    for one, several in (
        ([gallery.search(path) for path in paths], gallery.search(paths)),
        ([gallery.search(vector=each) for each in vectors], gallery.search(vectors=vectors)),
        ([gallery.search(id=each, k=3) for each in ids], gallery.search(id=ids, k=3)),
        (
            [gallery.search(path, rerank="aqe+diffusion") for path in paths[:5]],
            gallery.search(paths[:5], rerank="aqe+diffusion"),
        ),
        (
            [gallery.search(path, multi_crop=True, foreground=True) for path in paths[:3]],
            gallery.search(paths[:3], multi_crop=True, foreground=True),
        ),
    ):
        assert [hits.ids for hits in several] == [hits.ids for hits in one]
        assert [hits.query for hits in several] == [hits.query for hits in one]
        for a, b in zip(several, one, strict=True):
            np.testing.assert_allclose(a.distances, b.distances, atol=1e-6)


def test_a_list_of_one_has_a_list_of_hits(gallery: Gallery, photos: Path) -> None:
    path = photos / "03.png"
    pixels = np.asarray(Image.open(path))
    vector = item(gallery, 3).embedding
    alone = (gallery.search(path), gallery.search(pixels), gallery.search(vector=vector))
    assert all(isinstance(hits, Hits) and hits[0].id == "photos:03.png" for hits in alone)
    lists = (
        gallery.search([path]),
        gallery.search(pixels[None]),
        gallery.search(vectors=vector[None]),
        gallery.search(vectors=[vector.tolist()]),
    )
    assert [[hits.ids for hits in each] for each in lists] == [[alone[0].ids]] * 4
    assert [hits.ids for hits in gallery.search(id=["photos:03.png"])] == [
        gallery.search(id="photos:03.png").ids
    ]


def test_plain_queries_are_one_search_of_one_snapshot(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = gallery.snapshot()
    kind = type(view.store)
    search, sizes, resolved = kind.search, [], []

    def counted(self: RowReader, queries: Embeddings, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(queries))
        return search(self, queries, *arguments, **options)

    def counted_filter(self: RowReader, where: Filter) -> Filter:
        resolved.append(where)
        return resolve(self, where)

    resolve = kind.resolve_filter
    monkeypatch.setattr(kind, "search", counted)
    monkeypatch.setattr(kind, "resolve_filter", counted_filter)
    assert len(view.search(sorted(photos.glob("*.png")))) == COUNT
    assert sizes == [COUNT]
    found = view.search(vectors=np.eye(5, view.store.dim), where="number < 10")
    assert all(hit.metadata["number"] < 10 for hits in found for hit in hits)
    assert (sizes, len(resolved)) == ([COUNT, 5], 1)
    view.search(vectors=np.eye(5, view.store.dim), rerank="dba")
    assert sizes == [COUNT, 5, *[1] * 5]


def test_a_vector_has_any_length(gallery: Gallery) -> None:
    vector = item(gallery, 5).embedding
    expected = gallery.search(vector=vector)
    assert expected.ids == by_distance(gallery, vector)[:7]
    for scaled in (vector * 1000, vector / 1000, (vector * 3).tolist(), vector.astype(np.float64)):
        assert gallery.search(vector=scaled).ids == expected.ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no query"),
        ({"query": []}, "query: has no images"),
        ({"query": 3}, "query: .*int 3.*pass a path"),
        ({"query": {}}, "query: .*dict.*pass a path"),
        ({"query": "a.png", "id": "b"}, "query and id exclude each other"),
        ({"id": "a", "vectors": [[1.0]]}, "id and vectors exclude each other"),
        ({"query": "https://host/a.png"}, "is a URL; pass it as url"),
        ({"query": ["https://host/a.png"]}, "is a URL; pass it as url"),
        ({"id": []}, "id is an empty list"),
        ({"text": ()}, "text is an empty list"),
        ({"id": 5}, "id must be a string or a list of strings, not int"),
        ({"id": ["a", 5]}, "id must be a string or a list of strings; one of the list is int"),
        ({"text": "?!"}, "has no word to search for"),
        ({"vector": [1.0, 2.0]}, r"vector has 2 dimensions; .* have \d+"),
        ({"vector": [[1.0, 2.0]]}, r"shape \(dim,\), not \(1, 2\); pass several as vectors"),
        ({"vector": ["a"]}, r"vector must be numbers of shape \(dim,\)"),
        ({"vector": [1.0, float("nan")]}, "vector has NaN or Inf"),
        ({"vector": [1e300]}, "vector has NaN or Inf"),
        ({"vectors": []}, r"vectors must have the shape \(n, dim\), not \(0,\)"),
        ({"vectors": [1.0, 2.0]}, r"vectors must have the shape \(n, dim\), not \(2,\)"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "vectors must be numbers of shape"),
        ({"weights": [1]}, "weights needs like"),
        ({"like": []}, "like: has no images"),
        ({"like": 3}, "like: .*int 3.*pass a path"),
        ({"unlike": ["a.png"]}, "like or text is missing"),
        ({"like": ["a.png"], "vector": [1.0]}, "vector excludes like and unlike"),
        ({"like": ["a.png"], "query": "a.png"}, "query excludes like and unlike"),
        ({"like": ["a.png"], "text": ["a"]}, "text beside like and unlike must be one string"),
        ({"like": ["a.png"], "weights": [1, 2]}, "in the order like, unlike, text: 1, not 2"),
        ({"like": ["a.png"], "weights": 2}, "weights must be a list of numbers"),
        ({"like": ["a.png"], "weights": ["x"]}, "weights=x must be a number"),
        ({"like": ["a.png"], "weights": [-1]}, "weights=-1.0 must be at least 0"),
        ({"like": ["a.png"], "weights": [float("inf")]}, "weights=inf must be finite"),
        ({"like": ["a.png", "b.png"], "weights": [0, 0]}, "needs a weight above 0"),
        ({"id": "photos:1.png", "k": 0}, "k=0 must be at least 1"),
        ({"id": "photos:1.png", "k": 1.5}, "k=1.5 must be a whole number"),
        ({"id": "photos:1.png", "k": True}, "k=True must be a whole number"),
        ({"id": "photos:00.png", "k": 20_000}, "k=20000 must be from 1 to 16,384"),
        ({"id": "photos:1.png", "metric": "dot"}, "metric=dot must be l2 or cosine"),
        ({"id": "photos:1.png", "min_similarity": 1.5}, "min_similarity=1.5 must be from -1 to 1"),
        ({"id": "photos:1.png", "min_similarity": "x"}, "min_similarity=x must be a number"),
        (
            {"id": "photos:1.png", "min_similarity": 0.5, "metric": "l2"},
            "min_similarity needs the cosine metric; for l2 use max_distance",
        ),
        (
            {"id": "photos:1.png", "min_similarity": 0.5, "max_distance": 1},
            "min_similarity and max_distance exclude each other",
        ),
        ({"id": "photos:1.png", "max_distance": -1}, "max_distance=-1.0 must be at least 0"),
        ({"id": "photos:1.png", "max_distance": []}, "max_distance must be a number"),
        ({"id": "photos:1.png", "box": 3}, "box=3 must be x, y, width and height"),
        ({"id": "photos:1.png", "box": [1, 2]}, "must be x, y, width and height"),
        ({"id": "photos:1.png", "box": [1, 2, 3, "x"]}, "in whole pixels"),
        ({"id": "photos:1.png", "rerank": 3}, "rerank must be a name, or a list of names"),
        ({"id": "photos:1.png", "rerank": "aqe+aqe"}, "'aqe' occurs twice"),
        ({"id": "photos:1.png", "where": 3}, "where must be a text .* or a structure"),
        ({"id": "photos:1.png", "keywords": 3}, "keywords must be a string"),
        ({"vector": [1.0], "box": [0, 0, 1, 1]}, "a vector has no image to crop"),
        ({"text": "red", "multi_crop": True}, "a text query has no image to crop"),
        ({"keywords": "red", "foreground": True}, "keywords alone has no image to crop"),
        ({"like": ["a.png", "b.png"], "foreground": True}, "several examples has no image to crop"),
        ({"like": ["a.png"], "value_range": (1, 0)}, "value_range=.* must be two numbers"),
    ],
)
def test_what_is_wrong_is_named(
    gallery: Gallery, photos: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gallery.search(**options)


def test_an_unknown_id_is_named(gallery: Gallery) -> None:
    for options in ({"id": "photos:0.png"}, {"id": ["photos:00.png", "photos:0.png"]}):
        with pytest.raises(MissingRowError, match=r"'photos:0.png'; did you mean 'photos:.0.png'"):
            gallery.search(**options)


def test_the_image_that_cannot_be_read_is_named(gallery: Gallery, photos: Path) -> None:
    broken = photos.parent / "broken.png"
    with pytest.raises(InputError, match="broken"):
        gallery.search([photos / "00.png", broken])
    with pytest.raises(InputError, match=r"none\.png"):
        gallery.search([photos / "none.png", photos / "00.png"])


def test_min_similarity_is_a_distance(gallery: Gallery) -> None:
    every = gallery.search(id="photos:04.png", k=COUNT)
    limit = float(every.similarities[9])
    near = gallery.search(id="photos:04.png", k=COUNT, min_similarity=limit)
    assert near.ids == every.ids[:10]
    assert not gallery.search(id="photos:04.png", min_similarity=1)
    with pytest.raises(SettingError, match="min_similarity"):
        SearchRequest(queries=(Query.of(id="a"),), min_similarity=0).for_metric(Metric.L2)


def rocchio(positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> NDArray[np.floating]:
    """Return the mean of unit vectors minus half the mean of the others."""

    def mean(rows: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([row / np.linalg.norm(row) for row in rows], axis=0)

    return np.asarray(mean(positive) - 0.5 * mean(negative) if negative else mean(positive))


def test_several_examples_are_one_query(gallery: Gallery, photos: Path) -> None:
    rows = [item(gallery, number).embedding for number in (1, 2, 7)]
    like = [item(gallery, 1), photos / "02.png"]
    for unlike, negative in ((None, []), ([item(gallery, 7)], rows[2:])):
        ranking = by_distance(gallery, rocchio(rows[:2], negative))
        used = ["photos:01.png", *(["photos:07.png"] if unlike else [])]
        hits = gallery.search(like=like, unlike=unlike, k=COUNT)
        assert hits.ids == [row_id for row_id in ranking if row_id not in used]
    assert hits.query == f"photos:01.png + {photos / '02.png'} - photos:07.png"


def test_examples_are_rows_items_images_and_vectors(gallery: Gallery, photos: Path) -> None:
    """An item of a source is its row, if there is one."""
    source = open_source(photos)
    row = item(gallery, 1)
    plain = gallery.search(id=row.id).ids
    assert gallery.search(like=[row]).ids == plain
    assert gallery.search(like=row).ids == plain
    assert gallery.search(row).ids == plain
    assert gallery.search(like=[source[1]]).ids == plain
    assert gallery.search(like=[Example(id=row.id)]).ids == plain
    assert gallery.snapshot().search(like=[row]).ids == plain
    as_image = gallery.search(photos / "01.png").ids
    assert as_image[0] == row.id
    assert gallery.search(like=[row.embedding]).ids == as_image
    assert gallery.search(like=photos / "01.png").ids == as_image
    assert [hits.ids for hits in gallery.search([row, photos / "01.png"])] == [plain, as_image]


def test_weights_are_of_like_then_unlike(gallery: Gallery) -> None:
    a, b, c = (item(gallery, number) for number in (1, 2, 7))
    units = [each.embedding / np.linalg.norm(each.embedding) for each in (a, b, c)]
    vector = (3 * units[0] + units[1]) / 2 - 0.25 * units[2]
    ranking = [i for i in by_distance(gallery, vector) if i not in (a.id, b.id, c.id)]
    hits = gallery.search(like=[a, b], unlike=[c], weights=[3, 1, 0.25], k=COUNT)
    assert hits.ids == ranking
    ignored = gallery.search(like=[a, b], unlike=[c], weights=(1, 0, 0), k=COUNT)
    expected = by_distance(gallery, a.embedding)
    assert ignored.ids == [i for i in expected if i not in (a.id, b.id, c.id)]
    with pytest.raises(InputError, match="cancel each other out"):
        gallery.search(like=[a], unlike=[a], weights=[1, 1])


def test_examples_stay_among_the_embeddings_for_l2() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4, 6)) + 100).astype(np.float32)
    combined = combine_embeddings(rows, [1, 1, -0.5, -0.5], Metric.L2)
    np.testing.assert_allclose(
        combined, 2 * rows[:2].mean(axis=0) - rows[2:].mean(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(combine_embeddings(rows[:1], [3], Metric.L2), rows[0], rtol=1e-6)
    with pytest.raises(SettingError, match="unlike must be smaller"):
        combine_embeddings(rows, [1, 1, -1, -1], Metric.L2)


def test_a_text_among_examples_has_the_last_weight() -> None:
    query = Query.combine(
        [Example(id="a"), Example(id="b")],
        [Example(id="c")],
        Example(text="red"),
        weights=[1, 2, 3, 4],
    )
    assert [(example.name, example.weight) for example in query.examples] == [
        *(("a", 1), ("b", 2), ("c", -3), ("red", 4))
    ]
    assert query.name == "a + b + red - c"
    default = Query.combine([Example(id="a")], [Example(id="c")], Example(text="red"))
    assert [example.weight for example in default.examples] == [1, -0.5, 1]


def test_a_long_name_is_cut() -> None:
    query = Query.combine([Example(text="x" * 100) for _ in range(5)])
    assert len(query.name) == 200


REQUESTS: list[Callable[[], SearchRequest]] = [
    lambda: SearchRequest(queries=(Query.of(id="a"),)),
    lambda: SearchRequest(queries=(Query.of(text="red"), Query.of(url="https://a/b")), k=3),
    lambda: SearchRequest(queries=(Query.of(vector=[1, 2.5]),), metric=Metric.L2, max_distance=2),
    lambda: SearchRequest(
        queries=(Query.of(image=SentImage(b"file")),),
        region=QueryRegion(Box(1, 2, 3, 4), foreground=True, multi_crop=True),
        where={"year": {"gte": 2020}},
        min_similarity=0.5,
        exact=True,
        rerank=("aqe", "dba"),
        keywords="shoe",
    ),
    lambda: SearchRequest(queries=(Query(),), keywords="shoe", where="year > 2020"),
    lambda: SearchRequest(
        queries=(
            Query.combine(
                [Example(id="a"), Example(vector=np.ones(2, np.float32))],
                [Example(image=SentImage(b"x"))],
                Example(text="red"),
                weights=[1, 2, 3, 0],
            ),
        ),
    ),
]


@pytest.mark.parametrize("make", REQUESTS)
def test_a_request_comes_back_from_json(make: Callable[[], SearchRequest]) -> None:
    request = make()
    fields = json.loads(json.dumps(request.as_json()))
    if request.keywords and not request.queries[0].examples:
        fields = {**fields, "queries": None}  # no queries at all
    again = SearchRequest.from_json(fields)
    assert again.options_as_json() == request.options_as_json()
    assert again.region == request.region
    assert [sorted(map(repr_of, query.examples)) for query in again.queries] == [
        sorted(map(repr_of, query.examples)) for query in request.queries
    ]
    one = {**fields, **fields["queries"][0]} if fields["queries"] else fields
    del one["queries"]
    if len(request.queries) == 1:
        assert SearchRequest.from_json(one).queries[0].name == again.queries[0].name


def repr_of(example: Example) -> tuple[str, ...]:
    data = None if example.image is None else example.image.file_bytes()
    vector = None if example.vector is None else example.vector.tolist()
    values = (example.id, example.text, example.url, data, vector, example.weight)
    return tuple(map(str, values))


def test_a_parsed_filter_is_not_sent() -> None:
    request = SearchRequest(queries=(Query.of(id="a"),), where=parse("a = 1"))
    with pytest.raises(InputError, match="where must be a string or a mapping"):
        request.as_json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "a", "text": "b"},
        {"like": [{"id": "a"}], "id": "b"},
        {"like": [{}]},
        {"like": [{"id": "a", "image": "b"}]},
        {"unlike": [{"id": "a"}]},
        {"weights": [1]},
        {"id": 5},
        {"image": 5},
        {"vector": "x"},
        {"queries": []},
    ],
)
def test_json_that_is_no_query_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LookalikeError):
        SearchRequest.from_json(fields)


def test_vectors_without_an_encoder_are_searched_by_vector_and_id(photos: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    gallery = Gallery.from_embeddings(vectors)
    ids = list(gallery)
    assert gallery.search(vector=gallery[ids[3]].embedding)[0].id == ids[3]
    assert ids[3] not in gallery.search(id=ids[3]).ids
    assert len(gallery.search(vectors=vectors)) == 20
    assert gallery.search(like=[gallery[ids[1]], gallery[ids[2]]], unlike=gallery[ids[3]])
    refused: list[dict[str, Any]] = [
        {"query": photos / "00.png"},
        {"like": [photos / "00.png"]},
    ]
    for options in refused:
        with pytest.raises(InputError, match="encoder"):
            gallery.search(**options)
    by_name = gallery.search(text=ids[3])
    assert (by_name[0].id, by_name.ranked_by) == (ids[3], "keywords")


def test_a_url_is_fetched_from_the_public_internet_only(gallery: Gallery) -> None:
    with pytest.raises(ImageError, match="not on the public internet; download the image"):
        gallery.search(url="http://127.0.0.1:9/a.png")
    with pytest.raises(ImageError, match="must start with http"):
        gallery.search(url=["file:///etc/passwd"])


def test_texts_are_queries_and_examples() -> None:
    colors = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
    vectors = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)], np.float32)
    store = MemoryStore(3)
    ids = ["red", "green", "blue", "yellow", "magenta"]
    store.upsert(Rows(ids, ids, vectors, [{}] * 5, ids))

    class Steps:
        """Steps of a gallery in memory."""

        dim, batch_size, supports_text = 3, 1, True

        async def rows(self, ids: Sequence[str]) -> Rows:
            return store.get(ids)

        async def crops(self, *_: object) -> list[list[ImageArray]]:
            raise AssertionError("there are no images")

        async def encode_images(self, images: Sequence[ImageArray]) -> Embeddings:
            raise AssertionError(f"{len(images)} images are encoded")

        async def encode_texts(self, texts: Sequence[str]) -> Embeddings:
            return np.array([colors[text] for text in texts], np.float32)

    queries = (
        Query.of(text="blue"),
        Query.combine([Example(id="red")], [], Example(text="green")),
        Query.combine([], [Example(text="green")], Example(text="red"), weights=[1, 1]),
    )
    request = SearchRequest(queries=queries, metric=Metric.COSINE, k=2)
    encoded = run_now(encode_queries(queries, request, Steps()))
    found = search_rows(request, store, encoded, lambda _: [])
    assert [[hit.id for hit in hits] for hits in found] == [
        ["blue", "magenta"],
        ["yellow", "green"],
        ["red", "magenta"],
    ]


def test_requests_do_not_change() -> None:
    vector = np.ones(3, np.float32)
    example = Example(vector=vector)
    vector[0] = 5
    assert example.vector is not None
    assert example.vector.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        example.vector[0] = 2
    with pytest.raises(AttributeError):
        example.weight = 3  # type: ignore[misc]


def test_the_options_of_the_signature_are_those_of_its_overloads() -> None:
    import inspect

    parameters = list(inspect.signature(Gallery.search).parameters)
    options = list(searchable.SearchOptions.__annotations__)
    assert parameters[-len(options) :] == options
