"""Searches over HTTP: pages, filters and keywords alone, forms with files, and errors by field."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, ServiceError
from lookalike.gallery.gallery import Gallery
from lookalike.search import rerank
from lookalike.search.request import Query, SearchRequest
from lookalike.server.limits import Limits
from lookalike.server.queries import cost_of
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.serving import Serving, serving

ROWS = 60
COLORS = {"red": (200, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 210)}
SEARCH = "/v1/galleries/colors/search"
NEIGHBORS = "/v1/galleries/colors/item/neighbors"


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty noisy images of three colors, with the color and a year as metadata."""
    root = tmp_path_factory.mktemp("photos") / "colors"
    lines = ["path,color,year"]
    rng = np.random.default_rng(1)
    for number in range(ROWS):
        name = [*COLORS][number % 3]
        (root / name).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-40 - number, 40 + number, (24, 24, 3))
        pixels = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / name / f"{number:02}.png")
        lines.append(f"{name}/{number:02}.png,{name},{2000 + number // 3}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def create(path: Path, colors: Path) -> Gallery:
    encoder = open_encoder("color", sample_images(open_source(colors)))
    gallery = Gallery.create(path, encoder=encoder)
    gallery.sync(colors)
    return gallery


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, colors: Path) -> Iterator[Serving]:
    gallery = create(tmp_path_factory.mktemp("served") / "colors.gallery", colors)
    with serving({"colors": gallery}) as service:
        yield service


def post(served: Serving, body: Any, path: str = SEARCH, status: int = 200) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response, answer = served.request("POST", path, data, headers)
    assert response.status == status, answer
    result: dict[str, Any] = json.loads(answer)
    return result


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def pages(served: Serving, body: dict[str, Any], k: int) -> list[dict[str, Any]]:
    """Return all pages of a search, by their cursors."""
    answers = [post(served, {**body, "k": k})]
    while answers[-1]["next"] is not None:
        answers.append(post(served, {**body, "k": k, "cursor": answers[-1]["next"]}))
    return answers


def form(*fields: tuple[str, str | bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form as ``FormData`` sends it; bytes are files."""
    lines = []
    for name, value in fields:
        filename = '; filename="a.png"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        lines += [head.encode(), data, b"\r\n"]
    body = b"".join([*lines, b"--xyz--\r\n"])
    return body, {"content-type": "multipart/form-data; boundary=xyz"}


def post_form(
    served: Serving, *fields: tuple[str, str | bytes], status: int = 200
) -> dict[str, Any]:
    response, answer = served.request("POST", SEARCH, *form(*fields))
    assert response.status == status, answer
    result: dict[str, Any] = json.loads(answer)
    return result


# ---- pages ---------------------------------------------------------------------------------------

RED = "colors:red/00.png"
SEARCHES: list[dict[str, Any]] = [
    {"id": RED},
    {"id": RED, "metric": "l2", "where": "color != 'blue'"},
    {"id": RED, "min_similarity": 0.5},
    {
        "like": [{"id": RED}, {"id": "colors:blue/02.png"}],
        "unlike": [{"id": "colors:green/01.png"}],
    },
    {"id": RED, "rerank": "aqe+k-reciprocal"},
    {"id": RED, "rerank": "diffusion"},
    {"id": RED, "multi_crop": True},
    {"id": RED, "keywords": "green 2003"},
    {"keywords": "green 2003"},
    {"text": "green photos of 2003"},
    {"where": "color in ('red', 'blue')"},
    {"where": {"year": {"gte": 2010}}, "keywords": "blue"},
]


@pytest.mark.parametrize("body", SEARCHES, ids=json.dumps)
@pytest.mark.parametrize("k", [7, 9])
def test_pages_follow_each_other_exactly(served: Serving, body: dict[str, Any], k: int) -> None:
    whole = post(served, {**body, "k": 1000})
    assert whole["next"] is None
    answers = pages(served, body, k)
    hits = [hit for answer in answers for hit in answer["hits"]]
    assert [hit["id"] for hit in hits] == ids(whole)
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit["distance"] for hit in hits] == pytest.approx(
        [hit["distance"] for hit in whole["hits"]], abs=1e-6
    )
    assert {answer["revision"] for answer in answers} == {whole["revision"]}
    assert [answer["offset"] for answer in answers] == list(range(0, k * len(answers), k))
    assert len(hits) > k, "the search has one page only"
    third = post(served, {**body, "k": 5, "offset": 6})
    assert ids(third) == ids(whole)[6:11]
    assert third["hits"][0]["rank"] == 7


def test_pages_of_an_image_file(served: Serving, colors: Path) -> None:
    data = (colors / "green" / "01.png").read_bytes()
    path = f"{SEARCH}/image?k=25&where=color+!%3D+'red'"
    whole: list[str] = []
    following = ""
    while following is not None:
        response, answer = served.request("POST", path + following, data)
        assert response.status == 200, answer
        result = json.loads(answer)
        whole += ids(result)
        following = result["next"] and f"&cursor={result['next']}"
    assert len(whole) == len(set(whole)) == ROWS * 2 // 3
    expected = post(
        served,
        {"image": base64.b64encode(data).decode(), "where": "color != 'red'", "k": 100},
    )
    assert whole == ids(expected)


def test_a_query_of_a_batch_goes_on_alone(served: Serving) -> None:
    queries = [{"id": RED}, {"id": "colors:blue/02.png"}]
    batch = {"queries": queries, "k": 8, "where": "year < 2015"}
    results = [each["result"] for each in post(served, batch, f"{SEARCH}/batch")["results"]]
    for query, first in zip(queries, results, strict=True):
        body = {**query, "where": "year < 2015"}
        rest = post(served, {**body, "k": 1000, "cursor": first["next"]})
        assert [*ids(first), *ids(rest)] == ids(post(served, {**body, "k": 1000}))


def test_pages_of_an_approximate_search_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page is approximate, the others are exact: what it had left out comes after it."""
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    gallery = Gallery.from_embeddings(vectors)
    view = gallery.snapshot()
    kind = type(view.store)
    search = kind.search

    def approximate(self: Any, queries: Any, k: int, *arguments: Any, exact: bool = False) -> Any:
        results = search(self, queries, k if exact else k + 2, *arguments, exact=True)
        return results if exact else [[*hits[:1], *hits[3:]] for hits in results]

    monkeypatch.setattr(kind, "search", approximate)
    monkeypatch.setattr(kind, "is_approximate", True, raising=False)
    query = Query.of(vector=vectors[7])
    exact = SearchRequest(queries=(query,), k=300, exact=True)
    every = view.search(vector=vectors[7], k=300, exact=True).ids
    first = view.search(vector=vectors[7], k=10).ids
    assert set(every[1:3]).isdisjoint(first)
    later = []
    for offset in range(10, 300, 10):
        request = SearchRequest(queries=(query,), k=10, offset=offset, first=10)
        [hits] = view._search(request)
        assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 11))
        later += hits.ids
    assert [*first, *later] == [*first, *(row_id for row_id in every if row_id not in first)]
    assert exact.k == len(every)


def test_neighbors_are_a_search_with_one_item(served: Serving) -> None:
    def get(query: str, status: int = 200) -> Any:
        response, answer = served.request("GET", f"{NEIGHBORS}?id={RED}&{query}")
        assert response.status == status, answer
        return json.loads(answer)

    body = {"id": RED, "where": "year > 2000", "k": 4}
    expected = post(served, {**body, "k": 12})
    pages = [get("where=year+%3E+2000&k=4")]
    for _ in range(2):
        pages.append(get(f"where=year+%3E+2000&k=4&cursor={pages[-1]['next']}"))
    assert [row_id for page in pages for row_id in ids(page)] == ids(expected)
    assert pages[0] == post(served, body)
    assert ids(get("where=year+%3E+2000&k=4&offset=4")) == ids(pages[1])
    assert get("metric=l2&min_similarity=0.5", 422)["errors"][0]["location"].startswith("query/")
    assert get("cursor=junk", 422)["errors"][0]["location"] == "query/cursor"
    assert "did you mean 'where'" in get("were=3", 422)["detail"]
    _, answer = served.request("GET", f"{NEIGHBORS}?id=colors:red/0.png")
    assert json.loads(answer)["errors"][0]["location"] == "query/id"


def test_a_cursor_is_of_one_query_and_revision(tmp_path: Path, colors: Path) -> None:
    gallery = create(tmp_path / "colors.gallery", colors)
    with serving({"colors": gallery}) as served:
        body = {"id": RED, "k": 10}
        first = post(served, body)
        cursor = {**body, "cursor": first["next"]}
        assert not set(ids(post(served, cursor))) & set(ids(first))
        for other in (
            {**cursor, "id": "colors:red/03.png"},
            {**cursor, "where": "year > 2000"},
            {**cursor, "metric": "l2"},
            {**cursor, "offset": 10},
            {**cursor, "cursor": "junk"},
            {**cursor, "cursor": first["next"][:-2] + "AA"},
        ):
            problem = post(served, other, status=422)
            assert "body/cursor" in [each["location"] for each in problem["errors"]], problem
        assert "exclude each other" in post(served, {**cursor, "offset": 10}, status=422)["detail"]
        image = (colors / "red" / "00.png").read_bytes()
        response, answer = served.request("POST", f"{SEARCH}/image?cursor=junk", image)
        assert response.status == 422
        assert [each["location"] for each in json.loads(answer)["errors"]] == ["query/cursor"]
        served.client().gallery("colors").add(image, ids="new")
        problem = post(served, cursor, status=410)
        assert problem["type"].endswith(":revision-changed")
        assert "search again without cursor" in problem["detail"]
        assert problem["revision"] == post(served, body)["revision"] != first["revision"]
        assert [each["location"] for each in problem["errors"]] == ["body/cursor"]


def test_how_far_pages_go_is_bounded(served: Serving) -> None:
    problem = post(served, {"id": RED, "offset": 16_384}, status=422)
    assert "at most 16,384 together" in problem["detail"]
    assert [each["location"] for each in problem["errors"]] == ["body/offset"]
    assert post(served, {"id": RED, "offset": 16_300})["hits"] == []
    beyond = post(served, {"where": "year > 0", "offset": 900_000})
    assert (beyond["hits"], beyond["total"]) == ([], ROWS)
    assert post(served, {"id": RED, "offset": 2_000_000}, status=422)
    problem = post(
        served, {"queries": [{"id": RED}] * 20, "offset": 1_000}, f"{SEARCH}/batch", status=422
    )
    assert "10,000" in problem["detail"]
    deep, shallow = (
        cost_of(SearchRequest(queries=(Query.of(id=RED),), offset=offset)) for offset in (16_000, 0)
    )
    assert deep == shallow + 160
    by_filter = SearchRequest(queries=(Query(),), where="year > 0", offset=16_000)
    assert cost_of(by_filter) == shallow
    assert deep < Limits().queued_work


def test_fusion_beyond_its_window_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first hits of both rankings are fused, so that all pages have one order."""
    monkeypatch.setattr(rerank, "DEPTH", 20)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(90, 6)).astype(np.float32)
    metadata = [{"word": "even" if number % 2 else "odd"} for number in range(90)]
    gallery = Gallery.from_embeddings(vectors, metadata=metadata)
    options: dict[str, Any] = {"vector": vectors[0], "keywords": "even"}
    whole = gallery.search(**options, k=90)
    assert len(set(whole.ids)) == 90
    for k in (5, 20, 33):
        parts = [gallery.search(**options, k=k, offset=start) for start in range(0, 90, k)]
        assert [row_id for part in parts for row_id in part.ids] == whole.ids


# ---- filters and keywords alone ------------------------------------------------------------------


def test_a_filter_alone_lists_what_matches(served: Serving) -> None:
    answer = post(served, {"where": "color = 'green' and year >= 2010", "k": 100})
    expected = sorted(f"colors:green/{n:02}.png" for n in range(ROWS) if n % 3 == 1 and n >= 30)
    assert ids(answer) == expected
    assert (answer["ranked_by"], answer["total"]) == ("id", len(expected))
    assert {(hit["distance"], hit["similarity"]) for hit in answer["hits"]} == {(None, None)}
    assert answer["hits"][0]["metadata"]["color"] == "green"
    none = post(served, {"where": "year > 3000"})
    assert (none["hits"], none["total"], none["next"]) == ([], 0, None)
    gallery = served.service.handle("colors").gallery
    hits = gallery.search(where="color = 'green' and year >= 2010", k=100)
    assert (hits.ids, hits.ranked_by, hits.total) == (expected, "id", len(expected))
    assert np.isnan(hits.distances).all()
    assert hits.to_pandas()["distance"].isna().all()
    assert gallery.search(where="color = 'green'", k=3, offset=2).ids[0] == "colors:green/07.png"


def test_keywords_alone_rank_by_relevance(served: Serving) -> None:
    answer = post(served, {"keywords": "green 2003", "k": 5})
    assert answer["ranked_by"] == "keywords"
    assert answer["hits"][0]["id"] == "colors:green/10.png"
    either = sum(n % 3 == 1 or n // 3 == 3 for n in range(ROWS))
    assert answer["total"] == either
    assert post(served, {"keywords": "nosuchword"})["total"] == 0
    both = post(served, {"keywords": "green", "where": "year = 2003"})
    assert (ids(both), both["total"]) == (["colors:green/10.png"], 1)


def test_batches_of_filters_and_queries(served: Serving) -> None:
    body = {"queries": [{}, {"id": RED}], "where": "color = 'red'"}
    listed, near = (each["result"] for each in post(served, body, f"{SEARCH}/batch")["results"])
    assert (listed["ranked_by"], near["ranked_by"]) == ("id", "embedding")
    assert listed["total"] == ROWS // 3
    problem = post(served, {"queries": [{}]}, f"{SEARCH}/batch")["results"][0]["problem"]
    assert problem["status"] == 422


def test_the_client_searches_by_filters_and_keywords_alone(served: Serving) -> None:
    local = served.service.handle("colors").gallery
    remote = served.client().gallery("colors")
    searches: list[dict[str, Any]] = [
        {"where": "color = 'blue'", "k": 30},
        {"keywords": "blue 2004", "k": 30},
        {"keywords": "blue", "where": "year < 2010", "offset": 3},
        {"id": RED, "offset": 5, "k": 4},
    ]
    for options in searches:
        one, other = remote.search(**options), local.search(**options)
        assert (one.ids, one.ranked_by, one.total) == (other.ids, other.ranked_by, other.total)
        assert [hit.rank for hit in one] == [hit.rank for hit in other]
        np.testing.assert_allclose(one.distances, other.distances, atol=1e-6)


def test_clients_and_galleries_iterate_over_pages(served: Serving, colors: Path) -> None:
    local = served.service.handle("colors").gallery
    remote = served.client().gallery("colors")
    vector = local.embedding("colors:blue/02.png")
    searches: list[dict[str, Any]] = [
        {"query": colors / "red" / "03.png", "k": 25},
        {"id": RED, "k": 20, "offset": 7, "where": "year < 2015"},
        {"like": [colors / "red" / "03.png", vector], "weights": [1, 0.2], "k": 30},
        {"where": "color = 'blue'", "k": 8},
        {"keywords": "blue 2004", "k": 9},
    ]
    for options in searches:
        whole = local.search(**{**options, "k": 100})
        for gallery in (local, remote):
            parts = list(gallery.search_pages(**options))
            assert [hit for part in parts for hit in part.ids] == whole.ids
            assert all(len(part) == options["k"] for part in parts[:-1])
            assert len(parts) > 1
    assert list(local.search_pages(where="year > 3000")) == []
    assert list(remote.search_pages(where="year > 3000")) == []
    with pytest.raises(InputError, match="did you mean 'keywords'"):
        local.search_pages(keyword="blue")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="not of several"):
        local.search_pages([colors / "red" / "03.png"])  # type: ignore[arg-type]


def test_pages_of_a_gallery_are_of_one_revision(tmp_path: Path, colors: Path) -> None:
    gallery = create(tmp_path / "colors.gallery", colors)
    with serving({"colors": gallery}) as served:
        ours, theirs = (
            each.search_pages(id=RED, k=20) for each in (gallery, served.client().gallery("colors"))
        )
        first = next(ours).ids
        next(theirs)
        whole = gallery.search(id=RED, k=100).ids
        gallery.add(colors / "red" / "00.png", ids="new")
        assert [*first, *(row_id for page in ours for row_id in page.ids)] == whole
        with pytest.raises(ServiceError) as error:
            next(theirs)
        assert (error.value.status, error.value.kind) == (410, "revision-changed")


def test_the_page_applies_a_filter_alone(served: Serving) -> None:
    def shown(query: str) -> str:
        response, body = served.request(
            "GET", f"/g/colors?{query}", headers={"accept": "text/html"}
        )
        assert response.status == 200
        return body.decode()

    for query in ("value:color=green", "where=color+%3D+'green'"):
        page = shown(query)
        assert page.count('alt="Search with ') == min(60, ROWS // 3)
        assert f"{ROWS // 3} images" in page
    for query in ("where=year+%3E+3000", "keywords=nosuchword", "text=nosuchword"):
        assert "Nothing found" in shown(query)


# ---- similarity ----------------------------------------------------------------------------------


def test_similarity_is_one_minus_the_cosine_distance(served: Serving) -> None:
    answer = post(served, {"id": RED, "k": 100})
    for hit in answer["hits"]:
        assert hit["similarity"] == pytest.approx(1 - hit["distance"])
    limit = answer["hits"][20]["similarity"]
    near = post(served, {"id": RED, "k": 100, "min_similarity": limit})
    assert ids(near) == ids(answer)[: len(near["hits"])]
    assert all(hit["similarity"] >= limit - 1e-6 for hit in near["hits"])
    assert len(near["hits"]) >= 21
    for other in ({"id": RED, "metric": "l2"}, {"keywords": "red"}):
        assert {hit["similarity"] for hit in post(served, other)["hits"]} == {None}


# ---- forms ---------------------------------------------------------------------------------------


def test_a_form_is_the_same_search_as_json(served: Serving, colors: Path) -> None:
    red, blue = ((colors / name).read_bytes() for name in ("red/03.png", "blue/05.png"))
    red64, blue64 = (base64.b64encode(data).decode() for data in (red, blue))
    vector = served.service.handle("colors").gallery.embedding(RED).tolist()
    same: list[tuple[list[tuple[str, str | bytes]], dict[str, Any]]] = [
        ([("image", red)], {"image": red64}),
        (
            [("image", red), ("box", "2,3,10,12"), ("k", "4")],
            {"image": red64, "box": [2, 3, 10, 12], "k": 4},
        ),
        ([("image", red), ("image", blue)], {"like": [{"image": red64}, {"image": blue64}]}),
        (
            [("image", red), ("unlike_image", blue), ("weights", "1,0.25")],
            {"like": [{"image": red64}], "unlike": [{"image": blue64}], "weights": [1, 0.25]},
        ),
        (
            [
                ("id", RED),
                ("id", "colors:blue/02.png"),
                ("unlike_id", "colors:green/01.png"),
                ("vector", json.dumps(vector)),
                ("unlike_vector", json.dumps(vector[::-1])),
            ],
            {
                "like": [{"id": RED}, {"id": "colors:blue/02.png"}, {"vector": vector}],
                "unlike": [{"id": "colors:green/01.png"}, {"vector": vector[::-1]}],
            },
        ),
        (
            [("where", "color = 'red'"), ("k", "50"), ("offset", "3")],
            {"where": "color = 'red'", "k": 50, "offset": 3},
        ),
        (
            [("where", '{"year": {"gte": 2010}}'), ("keywords", "green")],
            {"where": {"year": {"gte": 2010}}, "keywords": "green"},
        ),
        ([("text", "green"), ("exact", "true"), ("multi_crop", "false")], {"text": "green"}),
    ]
    for fields, body in same:
        one, other = post_form(served, *fields), post(served, body)
        assert (ids(one), one["total"]) == (ids(other), other["total"]), fields
        assert one["hits"]
    combined = post_form(served, ("image", red), ("id", RED), ("unlike_image", blue))
    assert combined["query"] == f"a.png + {RED} - a.png"
    empty = post_form(served, ("image", red), ("image", b"x"[:0] or ""), ("text", ""))
    assert empty["query"] == "a.png"


def test_pages_of_a_form(served: Serving, colors: Path) -> None:
    fields: list[tuple[str, str | bytes]] = [
        ("image", (colors / "red" / "03.png").read_bytes()),
        ("id", RED),
        ("k", "9"),
    ]
    first = post_form(served, *fields)
    second = post_form(served, *fields, ("cursor", first["next"]))
    whole = post_form(served, *fields[:2], ("k", "18"))
    assert [*ids(first), *ids(second)] == ids(whole)


@pytest.mark.parametrize(
    ("fields", "location", "message"),
    [
        ([("id", RED), ("kk", "3")], "body/kk", "did you mean 'k'"),
        ([("id", RED), ("unlike_imag", "3")], "body/unlike_imag", "did you mean 'unlike_image'"),
        ([("id", RED), ("k", "3"), ("k", "4")], "body/k", "twice"),
        ([("id", RED), ("k", "many")], "body/k", "valid integer"),
        ([("id", RED), ("k", b"3")], "body/k", "not a file"),
        ([("id", RED), ("weights", "1,x")], "body/weights", "'x' is no number"),
        ([("vector", "[1,")], "body/vector", "JSON"),
        ([("vector", "[1, 2]")], "body/vector", "2 dimensions"),
        ([("image", b"no image")], "body/image", "unsupported image format"),
        ([("id", RED), ("unlike_image", b"no image")], "body/unlike_image", "unsupported"),
        ([("id", RED), ("unlike_id", "colors:none")], "body/unlike_id", "no row with the id"),
        ([("where", '{"a"')], "body/where", "JSON"),
        ([("where", "year >")], "body/where", "filter"),
        ([("id", RED), ("box", "1,2")], "body/box", "at least 4"),
        ([("unlike_id", RED)], "body/unlike_id", "like or text is missing"),
        ([], "body", "no query|exactly one of"),
    ],
)
def test_wrong_fields_of_forms_are_named(
    served: Serving, fields: list[tuple[str, str | bytes]], location: str, message: str
) -> None:
    problem = post_form(served, *fields, status=404 if "no row" in message else 422)
    assert location in [each["location"] for each in problem["errors"]], problem
    assert any(word in problem["detail"] for word in message.split("|")), problem


def test_a_malformed_form_is_a_problem(served: Serving) -> None:
    body, headers = form(("id", RED))
    for data, kind in (
        (body[:-20], headers["content-type"]),
        (body, "multipart/form-data"),
        (b"--xyz\r\n\r\nx\r\n--xyz--", headers["content-type"]),
    ):
        response, answer = served.request("POST", SEARCH, data, {"content-type": kind})
        assert response.status == 400, answer
        assert json.loads(answer)["type"].endswith(":malformed-request")
    many = [("id", RED)] * 101
    assert post_form(served, *many, status=413)
    assert "32" in post_form(served, *many[:40], status=422)["detail"]


def test_curl_sends_forms(served: Serving, colors: Path, require: Require) -> None:
    require(shutil.which("curl"), "curl is not installed")
    answer = subprocess.run(
        [
            "curl",
            "-sS",
            "-F",
            f"image=@{colors}/red/03.png;type=image/png",
            "-F",
            f"id={RED}",
            "-F",
            f"unlike_image=@{colors}/blue/05.png",
            "-F",
            "k=3",
            f"{served.url}{SEARCH}",
        ],
        capture_output=True,
        timeout=30,
        check=True,
    ).stdout
    result = json.loads(answer)
    assert result["query"] == f"03.png + {RED} - 05.png"
    assert len(result["hits"]) == 3


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "location", "message"),
    [
        ({"id": RED, "kk": 3}, 422, "body/kk", "unknown field 'kk': did you mean 'k'?"),
        ({"id": RED, "whre": "a"}, 422, "body/whre", "did you mean 'where'?"),
        ({"id": RED, "zzzzzzz": 3}, 422, "body/zzzzzzz", "fields: "),
        ({"like": [{"idd": RED}]}, 422, "body/like/0/idd", "did you mean 'id'?"),
        ({"id": RED, "k": 0}, 422, "body/k", "greater than or equal to 1"),
        ({"id": RED, "k": "x"}, 422, "body/k", "valid integer"),
        ({"id": RED, "where": 3}, 422, "body/where", "valid string"),
        ({"id": RED, "where": "year >"}, 422, "body/where", "filter"),
        ({"id": RED, "where": "nosuch = 1"}, 422, "body/where", "nosuch"),
        ({"where": {"year": {"bad": 1}}}, 422, "body/where", "bad"),
        ({"id": RED, "rerank": "nosuch"}, 422, "body/rerank", "re-ranking"),
        ({"id": RED, "box": [0, 0, 900, 900]}, 422, "body/box", "box"),
        ({"vector": [1, 2]}, 422, "body/vector", "2 dimensions"),
        ({"like": [{"id": RED}, {"vector": [1, 2]}]}, 422, "body/like/1/vector", "2 dimensions"),
        ({"like": [{"id": RED}, {"id": "x:y"}]}, 404, "body/like/1/id", "no row with the id 'x:y'"),
        ({"like": [{"id": RED}, {"image": "AAAA"}]}, 422, "body/like/1/image", "image"),
        ({"image": "AAAA"}, 422, "body/image", "image"),
        ({"image": "\u00e4"}, 422, "body/image", "base64"),
        ({"image": 5}, 422, "body/image", "valid string"),
        ({"like": [{}]}, 422, "body/like/0", "exactly one of"),
        ({"like": [{"id": "a", "text": "b"}]}, 422, "body/like/0/id", "exactly one of"),
        ({"like": [{"id": RED}], "weights": [1, 2]}, 422, "body/weights", "1, not 2"),
        ({"id": RED, "min_similarity": 0.5, "metric": "l2"}, 422, "body/min_similarity", "cosine"),
        ({"id": RED, "min_similarity": 1, "max_distance": 1}, 422, "body/max_distance", "exclude"),
        ({"where": "year > 0", "max_distance": 1}, 422, "body/max_distance", "no distances"),
        ({"keywords": "!"}, 422, "body/keywords", "keyword"),
        ({"text": "!"}, 422, "body/text", "no word"),
        ({"id": "colors:none"}, 404, "body/id", "no row"),
        ({"id": 5}, 422, "body/id", "valid string"),
        ({}, 422, "body", "exactly one of"),
        ([], 422, "body", "valid dictionary"),
    ],
)
def test_errors_name_the_field(
    served: Serving, body: Any, status: int, location: str, message: str
) -> None:
    problem = post(served, body, status=status)
    assert location in [each["location"] for each in problem["errors"]], problem
    assert message in problem["detail"], problem
    assert all(each["message"] for each in problem["errors"])


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("POST", f"{SEARCH}/image?k=0", 422, "query/k"),
        ("POST", f"{SEARCH}/image?kk=1", 422, "query/kk"),
        ("POST", f"{SEARCH}/image?where=nosuch+%3D+1", 422, "query/where"),
        ("POST", f"{SEARCH}/image?rerank=nosuch", 422, "query/rerank"),
        ("POST", f"{SEARCH}/image?box=0,0,900,900", 422, "query/box"),
        ("GET", "/v1/galleries/colors/item?id=none", 404, "query/id"),
        ("GET", "/v1/galleries/colors/item", 422, "query/id"),
        ("GET", "/v1/galleries/colors/sample?count=0", 422, "query/count"),
        ("GET", "/v1/galleries/nosuch", 404, "path/gallery"),
        ("DELETE", "/v1/galleries/colors/item?id=none", 404, "query/id"),
    ],
)
def test_errors_name_the_parameter(
    served: Serving, colors: Path, method: str, path: str, status: int, location: str
) -> None:
    data = (colors / "red" / "00.png").read_bytes() if method == "POST" else None
    response, answer = served.request(method, path, data)
    assert response.status == status, answer
    assert location in [each["location"] for each in json.loads(answer)["errors"]], answer


def test_an_image_file_that_is_none_is_named(served: Serving) -> None:
    response, answer = served.request("POST", f"{SEARCH}/image", b"no image")
    assert response.status == 422
    assert [each["location"] for each in json.loads(answer)["errors"]] == ["body"]


def test_errors_of_a_batch_name_the_query(served: Serving) -> None:
    queries = [{"id": RED}, {"id": "x:y"}, {"like": [{"id": RED}, {"vector": [1]}]}, {"text": "!"}]
    results = post(served, {"queries": queries}, f"{SEARCH}/batch")["results"]
    locations = [
        each["problem"] and [error["location"] for error in each["problem"]["errors"]]
        for each in results
    ]
    assert locations == [
        None,
        ["body/queries/1/id"],
        ["body/queries/2/like/1/vector"],
        ["body/queries/3/text"],
    ]
    problem = post(served, {"queries": [{"id": RED, "kk": 1}]}, f"{SEARCH}/batch", status=422)
    assert [each["location"] for each in problem["errors"]] == ["body/queries/0/kk"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"id": "a"', (1, 11), "comma or the closing bracket"),
        ('{"id": "a",\n "k": }', (2, 7), "a value was expected, before '}'"),
        ('{"id" "a"}', (1, 7), "colon"),
        ("{id: 3}", (1, 2), "double quotes"),
        ('{"id": "a"} x', (1, 13), "end was expected"),
        ('{"id": "a\n"}', (1, 10), "escaped"),
        ('{"id": "a', (1, 8), "closing quote"),
        ('{"id": "\\x"}', (1, 9), "backslash"),
        ('{"k": [1, 2}', (1, 12), "comma or the closing bracket"),
    ],
)
def test_malformed_json_says_where(
    served: Serving, text: str, place: tuple[int, int], message: str
) -> None:
    problem = post(served, text.encode(), status=400)
    [error] = problem["errors"]
    assert (error["line"], error["column"]) == place
    assert message in problem["detail"]
    assert f"line {place[0]}, column {place[1]}" in problem["detail"]
    padded = text.encode()[:1] + b" " * 20_000 + text.encode()[1:]
    assert post(served, padded, status=400)["errors"][0]["line"] == place[0]


def test_other_malformed_bodies(served: Serving) -> None:
    problem = post(served, b'{"id":\n "\xff"}', status=400)
    assert (problem["errors"][0]["line"], problem["errors"][0]["column"]) == (2, 3)
    assert "nested too deeply" in post(served, b"[" * 30_000, status=400)["detail"]


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        ("text/plain", "application/json or multipart/form-data, not 'text/plain'"),
        ("application/x-www-form-urlencoded", "with curl, use --json"),
        (None, "application/json or multipart/form-data"),
    ],
)
def test_a_wrong_content_type_says_which_are_right(
    served: Serving, kind: str | None, accepted: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response, answer = served.request("POST", SEARCH, b'{"id": "a"}', headers)
    problem = json.loads(answer)
    assert response.status == 415
    assert accepted in problem["detail"]
    assert response.headers["accept"] == "application/json, multipart/form-data"
    response, answer = served.request("POST", f"{SEARCH}/batch", *form(("id", RED)))
    assert response.status == 415
    assert response.headers["accept"] == "application/json"
    good = {"content-type": "application/vnd.x+json; charset=utf-8"}
    body = json.dumps({"id": RED}).encode()
    assert served.request("POST", SEARCH, body, good)[0].status == 200
