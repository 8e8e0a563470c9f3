"""The HTTP API gives the same results as the gallery it serves."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import BusyError, ImageError, InputError, MissingRowError, ServiceError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import IMAGES, LOCK
from lookalike.server import schemas
from lookalike.server.api_keys import Key, add_key, find_key, read_keys, remove_key
from lookalike.server.limits import Limits
from lookalike.server.settings import (
    LOOPBACK,
    ServeSettings,
    accepted_hosts,
    check_host,
    gallery_paths,
)
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_cli import lookalike
from tests.serving import Serving, serving

READ, WRITE = "la_read", "la_write"


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of three labels, in sub-folders, with a table of years."""
    root = tmp_path_factory.mktemp("shop") / "colors"
    rng = np.random.default_rng(0)
    lines = ["path,year"]
    for label, color in {
        "red": (200, 20, 20),
        "green": (20, 200, 20),
        "blue": (9, 9, 200),
    }.items():
        (root / label).mkdir(parents=True)
        for number in range(10):
            noise = rng.integers(-60 - number, 60 + number, (40, 50, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
            lines.append(f"{label}/{number}.png,{2000 + number}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def encoder(colors: Path) -> Encoder:
    return open_encoder("color", sample_images(open_source(colors)))


def create_gallery(path: Path, encoder: Encoder, source: Path) -> Gallery:
    gallery = Gallery.create(path, encoder=encoder)
    gallery.sync(source)
    return gallery


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, colors: Path, encoder: Encoder
) -> Iterator[Serving]:
    gallery = create_gallery(tmp_path_factory.mktemp("served") / "shop.gallery", encoder, colors)
    with serving({"shop": gallery}) as served:
        yield served


@pytest.fixture
def local(shop: Serving) -> Gallery:
    return shop.service.handle("shop").gallery


@pytest.fixture
def remote(shop: Serving) -> Any:
    return shop.client().gallery("shop")


def same_hits(one: la.Hits, other: la.Hits) -> bool:
    return [(h.rank, h.id, h.metadata) for h in one] == [
        (h.rank, h.id, h.metadata) for h in other
    ] and np.allclose([h.distance for h in one], [h.distance for h in other], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 25, "metric": "l2"},
        {"where": "year >= 2005 and label != 'red'"},
        {"where": {"year": {"lt": 2003}}, "max_distance": 0.5},
        {"box": (5, 5, 20, 30)},
        {"foreground": True, "multi_crop": True},
        {"rerank": "aqe+k-reciprocal", "exact": True},
    ],
)
def test_http_results_match_gallery_results(
    colors: Path, local: Gallery, remote: Any, options: dict[str, Any]
) -> None:
    query = colors / "green" / "3.png"
    assert same_hits(remote.search(query, **options), local.search(query, **options))


@pytest.mark.parametrize("options", [{}, {"box": (0, 0, 9, 9)}, {"rerank": "diffusion"}])
def test_search_by_item_id(local: Gallery, remote: Any, options: dict[str, Any]) -> None:
    hits = remote.search(id="colors:red/4.png", **options)
    assert same_hits(hits, local.search(id="colors:red/4.png", **options))
    assert "colors:red/4.png" not in {hit.id for hit in hits}


def test_client_accepts_arrays_pillow_images_bytes_and_paths(
    colors: Path, local: Gallery, remote: Any
) -> None:
    path = colors / "blue" / "1.png"
    with Image.open(path) as image:
        for query in (image, np.asarray(image), path.read_bytes(), str(path)):
            assert same_hits(remote.search(query), local.search(path))


def test_search_by_image_in_the_request_body(shop: Serving, colors: Path, local: Gallery) -> None:
    data = (colors / "red" / "0.png").read_bytes()
    path = "/v1/galleries/shop/search/image?k=3&where=year%3D2000&box=1,2,30,20"
    response, body = shop.request("POST", path, data, {"content-type": "image/png"})
    assert response.status == 200
    results = json.loads(body)
    expected = local.search(colors / "red" / "0.png", k=3, where="year=2000", box=(1, 2, 30, 20))
    assert [hit["id"] for hit in results["hits"]] == [hit.id for hit in expected]
    assert re.fullmatch(
        r"decode;dur=.*, encode;dur=.*, search;dur=.*", response.headers["server-timing"]
    )
    assert str(colors) not in body.decode()


def test_batch_returns_a_result_or_a_problem_per_query(shop: Serving, colors: Path) -> None:
    data = base64.b64encode((colors / "red" / "0.png").read_bytes()).decode()
    body = {
        "queries": [{"image": data}, {"id": "colors:blue/1.png"}, {"id": "no"}, {"image": "AAAA"}],
        "k": 2,
    }
    results = shop.client().json("POST", "/v1/galleries/shop/search/batch", body)["results"]
    assert [each["result"] is None for each in results] == [False, False, True, True]
    assert results[0]["result"]["hits"][0]["id"] == "colors:red/0.png"
    assert results[2]["problem"]["status"] == 404
    assert "unsupported image format" in results[3]["problem"]["detail"]


def test_concurrent_queries_get_their_own_results(
    colors: Path, local: Gallery, remote: Any
) -> None:
    paths = sorted(colors.rglob("*.png"))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda path: remote.search(path, k=1), paths))
    assert [hits[0].id for hits in results] == [f"colors:{p.relative_to(colors)}" for p in paths]
    assert [hits[0].id for hits in remote.search(paths, k=1)] == [h[0].id for h in results]


def test_gallery_details_and_columns(shop: Serving, remote: Any, encoder: Encoder) -> None:
    assert shop.client().galleries() == ["shop"]
    info = remote.info()
    assert (info["rows"], info["dim"], info["encoder"]) == (30, encoder.dim, "color")
    columns = {each["column"]: each for each in info["columns"]}
    assert dict(columns["label"]["values"]) == {"red": 10, "green": 10, "blue": 10}
    assert (columns["year"]["kind"], columns["year"]["min"], columns["year"]["max"]) == (
        "number",
        2000,
        2009,
    )


def test_item_image_and_thumbnail(shop: Serving, colors: Path, remote: Any) -> None:
    item = remote.client.json("GET", "/v1/galleries/shop/item?id=colors:red/4.png")
    assert item["metadata"] == {"label": "red", "year": 2004}
    response, body = shop.request("GET", item["image_url"])
    assert body == (colors / "red" / "4.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    tag = response.headers["etag"]
    response, body = shop.request("GET", item["image_url"], headers={"if-none-match": tag})
    assert (response.status, body) == (304, b"")
    response, body = shop.request("GET", item["thumbnail_url"])
    with Image.open(__import__("io").BytesIO(body)) as small:
        assert small.size == (50, 40)  # as the image is


@pytest.mark.parametrize(
    "row_id",
    ["/etc/passwd", "../../etc/passwd", "colors:../metadata.csv", "colors:red/4.png/..", "\0"],
)
@pytest.mark.parametrize("what", ["", "/image", "/thumbnail", "/neighbors"])
def test_files_are_only_served_by_item_id(shop: Serving, row_id: str, what: str) -> None:
    path = f"/v1/galleries/shop/item{what}?id={quote(row_id, safe='')}"
    assert shop.request("GET", path)[0].status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "expected"),
    [
        ("GET", "/v1/galleries/nosuch", None, 404, "available: shop"),
        ("GET", "/nosuch", None, 404, "endpoint-not-found"),
        ("DELETE", "/healthz", None, 405, "method-not-allowed"),
        ("POST", "/v1/galleries/shop/search", b"{", 400, "line 1, column 2"),
        ("POST", "/v1/galleries/shop/search", b'{"id": "no"}', 404, "no row with the id"),
        ("POST", "/v1/galleries/shop/search", b"{}", 422, "exactly one of"),
        ("POST", "/v1/galleries/shop/search", b'{"id": "a", "nn": 1}', 422, "nn"),
        ("POST", "/v1/galleries/shop/search", b'{"id": "a", "k": 1001}', 422, "1000"),
        ("POST", "/v1/galleries/shop/search", b'{"id": "a", "where": "year >"}', 422, "filter"),
        ("POST", "/v1/galleries/shop/search", b'{"id": "a", "rerank": "x"}', 422, "re-ranking"),
        ("POST", "/v1/galleries/shop/search", b'{"text": "?!"}', 422, "no word to search for"),
        ("POST", "/v1/galleries/shop/search", b'{"url": "http://a/"}', 403, "--allow-urls"),
        (
            "POST",
            "/v1/galleries/shop/search/image",
            b"\x89PNG\r\n\x1a\n",
            422,
            "broken image",
        ),
        ("POST", "/v1/galleries/shop/search/image", b"", 422, "empty"),
        ("PUT", "/v1/galleries/shop/item?id=%00", b"x", 422, "printable"),
        ("PUT", "/v1/galleries/shop/item?id=a&metadata=%5B%5D", b"x", 422, "JSON object"),
        ("PUT", "/v1/galleries/shop/item?id=a", b"<svg/>", 422, "unsupported image format"),
        ("DELETE", "/v1/galleries/shop/item?id=api:none", None, 404, "no row"),
        ("PATCH", "/v1/galleries/shop/item?id=api:a", b'{"metadata": {"a": NaN}}', 422, "metadata"),
        (
            "PATCH",
            "/v1/galleries/shop/item?id=api:a",
            b'{"metadata": {"a": "\\ud800"}}',
            422,
            "cannot be stored",
        ),
    ],
)
def test_errors_are_problem_documents(
    shop: Serving, method: str, path: str, body: bytes | None, status: int, expected: str
) -> None:
    response, body_text = shop.request(method, path, body, {"content-type": "application/json"})
    assert response.status == status, body_text
    assert response.headers["content-type"] == "application/problem+json"
    problem = json.loads(body_text)
    assert problem["status"] == status
    assert expected in json.dumps(problem)


def test_deeply_nested_filters_are_refused(shop: Serving) -> None:
    for depth in (60, 400, 5_000):
        where = '{"not": ' * depth + '{"year": 1}' + "}" * depth
        body = f'{{"id": "colors:red/4.png", "where": {where}}}'.encode()
        response, _ = shop.request(
            "POST", "/v1/galleries/shop/search", body, {"content-type": "application/json"}
        )
        assert response.status in (400, 422)


def test_put_update_and_delete_items(shop: Serving, local: Gallery, remote: Any) -> None:
    folder = local.path / IMAGES
    yellow = np.full((30, 30, 3), (230, 220, 10), np.uint8)
    remote.add(yellow, ids="odd/ä #1", metadata={"label": "yellow"})
    assert remote.search(yellow, k=1)[0].id == "api:odd/ä #1"
    assert np.array_equal(remote.image("api:odd/ä #1"), yellow)
    remote.add(yellow // 2, ids="odd/ä #1", metadata={"label": "olive", "year": 1})
    assert len(list(folder.iterdir())) == 1
    assert remote.update_metadata("api:odd/ä #1", {"year": None, "a": [1, "b"]}) == {
        "label": "olive",
        "a": [1, "b"],
    }
    assert (
        remote.search(id="api:odd/ä #1", where="label = 'red'", k=1)[0].metadata["label"] == "red"
    )
    remote.remove("api:odd/ä #1")
    assert list(folder.iterdir()) == []
    with pytest.raises(MissingRowError):
        _ = remote["api:odd/ä #1"]
    assert len(remote) == 30


def test_put_items_survive_a_sync(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    with serving({"a": gallery}) as served:
        served.client().gallery("a").add(np.zeros((9, 9, 3), np.uint8), ids="mine")
    again = Gallery.open(tmp_path / "a.gallery")
    assert again.sync(colors).unchanged == 30
    assert len(again) == 31


def test_rows_of_another_process_appear_and_a_locked_gallery_is_reported(
    tmp_path: Path, colors: Path, encoder: Encoder
) -> None:
    from filelock import FileLock

    path = tmp_path / "a.gallery"
    gallery = create_gallery(path, encoder, colors)
    new = tmp_path / "new"
    new.mkdir()
    Image.new("RGB", (40, 40), (240, 240, 10)).save(new / "yellow.png")
    with serving({"a": gallery}) as served:
        remote = served.client().gallery("a")
        assert remote.search(new / "yellow.png", k=1)[0].id != "new:yellow.png"
        done = lookalike("index", path, new)
        assert done.returncode == 0, done.stderr
        assert remote.search(new / "yellow.png", k=1)[0].id == "new:yellow.png"
        with FileLock(path / LOCK), pytest.raises(BusyError, match="locked by another process"):
            remote.add(np.zeros((9, 9, 3), np.uint8), ids="mine")
        assert not list((path / IMAGES).glob("*"))


def test_saved_evaluation_is_served_without_file_paths(
    tmp_path: Path, colors: Path, encoder: Encoder
) -> None:
    path = tmp_path / "a.gallery"
    gallery = create_gallery(path, encoder, colors)
    with serving({"a": gallery}) as served:
        remote = served.client().gallery("a")
        with pytest.raises(ServiceError, match="--save"):
            remote.evaluation()
        response, body = served.request("GET", "/v1/galleries/a/evaluation/report")
        assert response.status == 404
        assert json.loads(body)["type"] == "urn:lookalike:problem:evaluation-not-found"
        done = lookalike("evaluate", path, colors, "--save", "--json")
        assert done.returncode == 0, done.stderr
        report = remote.evaluation()
        measured = json.loads(done.stdout)
        assert report["evaluation"]["precision"] == measured["precision"]
        assert (report["rows"], report["stale"]) == (30, False)
        page = served.request("GET", "/g/a/report")[1].decode()
        assert report["summary"] in html.unescape(page)
        assert "data:image/png;base64," in page
        assert page.count("<picture") == page.count('media="(max-width: 36rem)"') >= 3
        assert "style=" not in page  # the policy of the page refuses them
        response, body = served.request("GET", "/v1/galleries/a/evaluation/report")
        alone = body.decode()
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
        assert response.headers.get_all("content-security-policy") == [policy]
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert alone.count("data:image/png;base64,") == page.count("data:image/png;base64,")
        assert report["summary"] in html.unescape(alone)
        for text in (page, alone, json.dumps(report)):
            assert str(tmp_path) not in text
            assert str(colors) not in text
        remote.add(np.zeros((9, 9, 3), np.uint8), ids="one")
        assert remote.evaluation()["stale"]
        (path / "evaluation.json").write_text("{}")
        with pytest.raises(ServiceError, match="cannot be read") as broken:
            remote.evaluation()
        assert str(tmp_path) not in str(broken.value)


def test_sample_is_reproducible_by_seed(shop: Serving) -> None:
    def sample(query: str) -> list[str]:
        return [
            each["id"] for each in shop.client().json("GET", f"/v1/galleries/shop/sample{query}")
        ]

    assert sample("?count=5&seed=3") == sample("?count=5&seed=3") != sample("?count=5&seed=4")
    assert len(set(sample("?count=1000"))) == 30


def test_searches_succeed_during_writes(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    rng = np.random.default_rng(0)
    with serving({"a": gallery}) as served, ThreadPoolExecutor(4) as pool:
        remote = served.client().gallery("a")
        images = rng.integers(0, 255, (30, 20, 20, 3), np.uint8)
        puts = [pool.submit(remote.add, image, ids=f"{i}") for i, image in enumerate(images)]
        results = [pool.submit(remote.search, image, k=100) for image in images]
        assert all(each.result() for each in puts)
        assert all(len(each.result()) >= 30 for each in results)
        assert len(remote) == 60


def test_api_keys_and_permissions(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    file = tmp_path / "keys.json"
    reader, writer = add_key(file, "reader", write=False), add_key(file, "writer", write=True)
    assert reader not in file.read_text()
    query = colors / "red" / "0.png"
    with serving({"a": gallery}, ServeSettings(keys=read_keys(file))) as served:
        for key in (None, "la_wrong", "ä"):
            with pytest.raises((ServiceError, InputError)):
                served.client(key).galleries()
        for key in (reader, writer):
            assert served.client(key).gallery("a").search(query, k=1)[0].distance < 1e-3
            response, _ = served.request("GET", "/metrics", headers={"x-api-key": key})
            assert response.status == 200
        with pytest.raises(ServiceError, match="read-only") as refused:
            served.client(reader).gallery("a").add(query, ids="x")
        assert refused.value.status == 403
        assert served.client(writer).gallery("a").add(query, ids="x")
        assert served.request("GET", "/metrics")[0].status == 401
        assert served.request("GET", "/healthz")[0].status == 200
        assert served.request("GET", "/readyz")[0].status == 200


def test_writing_is_disabled_by_default(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    with (
        serving({"a": gallery}, ServeSettings()) as served,
        pytest.raises(ServiceError, match="--write"),
    ):
        served.client().gallery("a").add(colors / "red" / "0.png", ids="x")


def test_unknown_hosts_are_refused(shop: Serving) -> None:
    response, _ = shop.request("GET", "/v1/galleries", headers={"host": "evil.example"})
    assert response.status == 421
    assert shop.request("GET", "/v1/galleries", headers={"host": "localhost:1"})[0].status == 200


def test_cors_allows_listed_origins_only(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    settings = ServeSettings(origins=("https://shop.example",))
    with serving({"a": gallery}, settings) as served:
        for origin, allowed in (("https://shop.example", True), ("https://evil.example", False)):
            response, _ = served.request("GET", "/v1/galleries", headers={"origin": origin})
            assert (response.headers["access-control-allow-origin"] == origin) is allowed
            assert response.headers["set-cookie"] is None


def test_requests_beyond_the_limit_get_429(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    gallery = create_gallery(tmp_path / "a.gallery", encoder, colors)
    query = (colors / "red" / "0.png").read_bytes()
    with serving({"a": gallery}, ServeSettings(limits=Limits(concurrent_requests=1))) as served:

        def search(_: int) -> int:
            response, _body = served.request(
                "POST", "/v1/galleries/a/search/image?multi_crop=true", query
            )
            assert response.status in (200, 429)
            assert response.status == 200 or response.headers["retry-after"] == "1"
            return response.status

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(search, range(80)))
        assert {200, 429} == set(statuses)
        assert search(0) == 200
        assert (
            b'lookalike_failures_total{reason="too-many-requests"}'
            in served.request("GET", "/metrics")[1]
        )


def test_metrics_report_stages(shop: Serving, colors: Path, remote: Any) -> None:
    remote.search(colors / "red" / "0.png", rerank="aqe")
    text = shop.request("GET", "/metrics")[1].decode()
    for stage in ("decode", "encode", "search", "rerank"):
        assert f'lookalike_stage_seconds_count{{stage="{stage}"}}' in text
    assert 'route="/v1/galleries/{gallery}/search"' in text


def test_responses_have_security_headers(shop: Serving) -> None:
    for path in ("/healthz", "/nosuch", "/v1/galleries/shop"):
        headers = shop.request("GET", path)[0].headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["server"] is None


def test_openapi_describes_every_route_and_problem(shop: Serving) -> None:
    document = shop.client().json("GET", "/openapi.json")
    assert "HTTPValidationError" not in json.dumps(document)
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (path, method)
            if path != "/healthz":
                assert {"401", "422", "429"} <= set(route["responses"])


def test_serve_command(tmp_path: Path, colors: Path, encoder: Encoder) -> None:
    path = tmp_path / "a.gallery"
    create_gallery(path, encoder, colors)
    command = [sys.executable, "-m", "lookalike", "serve", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        line = next(line for line in lines if "serving at" in line)
        url = re.search(r"http://[\d.]+:\d+", line)
        assert url is not None
        client = la.Client(url[0])
        query = colors / "red" / "3.png"
        assert client.gallery("a").search(query, k=1)[0].id == "colors:red/3.png"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("none.gallery",), "not a gallery"),
        (("a.gallery", "--host", "0.0.0.0"), "lookalike key add"),
        (("a.gallery", "a=a.gallery"), "rename one with NAME=PATH"),
        (("x y=a.gallery",), "cannot be part of a URL"),
        (("a.gallery", "--keys", "none.json"), "none.json: cannot be read"),
    ],
)
def test_serve_errors_are_one_line(
    tmp_path: Path,
    colors: Path,
    encoder: Encoder,
    arguments: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_gallery(tmp_path / "a.gallery", encoder, colors)
    monkeypatch.chdir(tmp_path)
    done = lookalike("serve", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_key_commands(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = lookalike("key", "add", file, "shop", "--write").stdout.strip()
    assert find_key(secret, read_keys(file)) == Key("shop", True, read_keys(file)[0].sha256)
    assert lookalike("key", "add", file, "shop").returncode == 2
    assert "read, write" in lookalike("key", "list", file).stdout
    listed = lookalike("key", "list", file, "--json").stdout
    assert json.loads(listed) == [{"name": "shop", "write": True}]
    assert secret not in listed
    assert lookalike("key", "remove", file, "none").returncode == 2
    assert lookalike("key", "remove", file, "shop").returncode == 0
    with pytest.raises(InputError, match="no API keys"):
        read_keys(file)
    add_key(file, "other", write=False)
    with pytest.raises(InputError, match="no key named"):
        remove_key(file, "shop")


def test_host_checks_and_gallery_names() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"):
        check_host(host, keys=False)
    for host in ("0.0.0.0", "192.168.1.1", "::", "example.org"):
        check_host(host, keys=True)
        with pytest.raises(InputError, match="API keys"):
            check_host(host, keys=False)
    locations = [
        "x/photos.gallery",
        "b=y/c.gallery",
        "milvus://h/prints?index=flat",
        "d=milvus://h/e",
    ]
    assert gallery_paths(locations) == {
        "photos": "x/photos.gallery",
        "b": "y/c.gallery",
        "prints": "milvus://h/prints?index=flat",
        "d": "milvus://h/e",
    }
    assert accepted_hosts("127.0.0.1", ["Shop.example"]) == (*LOOPBACK, "shop.example")
    assert accepted_hosts("0.0.0.0", ["shop.example"]) == (*LOOPBACK, "shop.example")
    assert accepted_hosts("0.0.0.0", []) == ()


def test_client_errors(shop: Serving, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        la.Client("http://127.0.0.1:9").galleries()
    with pytest.raises(ServiceError, match="Gallery not found"):
        shop.client().gallery("none").info()
    with pytest.raises(ImageError, match="cannot be read"):
        shop.client().gallery("shop").search(tmp_path / "none.png")
    with pytest.raises(InputError, match="no query"):
        shop.client().gallery("shop").search()


SEARCH = "/v1/galleries/shop/search"


def test_a_search_by_vector_and_by_examples_is_that_of_the_gallery(
    shop: Serving, local: Gallery, remote: Any, colors: Path
) -> None:
    row = local["colors:red/3.png"]
    vector = row.embedding * 7
    image = base64.b64encode((colors / "red" / "4.png").read_bytes()).decode()
    like: list[dict[str, Any]] = [{"id": row.id}, {"image": image}]
    unlike = [
        {"id": "colors:blue/1.png"},
        {"vector": local["colors:green/1.png"].embedding.tolist()},
    ]

    def examples(gallery: Any) -> dict[str, Any]:
        return {
            "like": [gallery["colors:red/3.png"], colors / "red" / "4.png"],
            "unlike": [gallery["colors:blue/1.png"], gallery["colors:green/1.png"].embedding],
        }

    for body, expected in (
        ({"vector": vector.tolist()}, local.search(vector=vector)),
        ({"like": like, "unlike": unlike}, local.search(**examples(local))),
        (
            {"like": like, "unlike": unlike, "weights": [1, 2, 0, 0.5]},
            local.search(**examples(local), weights=[1, 2, 0, 0.5]),
        ),
        ({"id": row.id, "min_similarity": 0.5}, local.search(row, min_similarity=0.5)),
    ):
        found = shop.client().json("POST", SEARCH, body)
        assert [hit["id"] for hit in found["hits"]] == expected.ids
        assert found["query"].startswith(expected.query.split(" ")[0])
        distances = [hit["distance"] for hit in found["hits"]]
        np.testing.assert_allclose(distances, expected.distances, atol=1e-6)
    makers: list[Callable[[Any], dict[str, Any]]] = [
        lambda _: {"vector": vector},
        lambda gallery: {**examples(gallery), "weights": [1, 2, 0, 0.5]},
        lambda gallery: {"like": [gallery["colors:red/3.png"]]},
        lambda gallery: {"query": gallery["colors:red/3.png"], "k": 3},
        lambda _: {
            "query": colors / "red" / "4.png",
            "min_similarity": 0.2,
            "where": "year > 2003",
        },
    ]
    for make in makers:
        here, there = local.search(**make(local)), remote.search(**make(remote))
        assert same_hits(here, there)
        assert (here.query, here.metric) == (there.query, there.metric)


def test_several_queries_of_a_client_are_one_request(
    shop: Serving, local: Gallery, remote: Any, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    send = la.Client.send

    def counted(client: la.Client, method: str, path: str, *arguments: Any) -> bytes:
        sent.append(path)
        return send(client, method, path, *arguments)

    monkeypatch.setattr(la.Client, "send", counted)
    paths = sorted(colors.rglob("*.png"))
    vectors = np.stack([local[row_id].embedding for row_id in local])
    every: list[dict[str, Any]] = [
        {"query": paths},
        {"vectors": vectors, "k": 3},
        {"id": list(local), "where": "year < 2005"},
        {"query": paths[:4], "rerank": "aqe"},
    ]
    for options in every:
        here: list[la.Hits] = local.search(**options)
        there = remote.search(**options)
        assert [same_hits(*pair) for pair in zip(here, there, strict=True)] == [True] * len(here)
        assert [hits.query for hits in here] == [hits.query for hits in there]
        assert sent == [f"{SEARCH}/batch"]
        sent.clear()
    assert len(remote.search(vectors=np.repeat(vectors, 5, axis=0), k=1)) == 150
    assert len(sent) == 3
    sent.clear()
    assert len(remote.search(vectors=np.repeat(vectors, 2, axis=0), k=500)) == 60
    assert len(sent) == 3  # of 10,000 results at most
    with pytest.raises(InputError, match="no word to search for"):
        remote.search(text=["a", "!"])
    with pytest.raises(MissingRowError, match="'no'"):
        remote.search(id=["colors:red/3.png", "no"])


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"vector": [1, 2]}, 422, "2 dimensions"),
        ({"vector": [1e300] * 128}, 422, "NaN or Inf"),
        ({"vector": []}, 422, "at least 1"),
        ({"vector": ["1"]}, 422, "valid number"),
        ({"like": []}, 422, "at least 1"),
        ({"like": [{}]}, 422, "exactly one of"),
        ({"like": [{"id": "a", "like": []}]}, 422, "like"),
        ({"like": [{"id": "a"}] * 33}, 422, "32"),
        ({"like": [{"id": "a"}] * 20, "unlike": [{"id": "a"}] * 20}, 422, "more than 32"),
        ({"like": [{"id": "no"}]}, 404, "no row"),
        ({"like": [{"id": "a"}], "id": "a"}, 422, "exactly one of"),
        ({"like": [{"id": "a"}], "weights": [1, 2]}, 422, "1, not 2"),
        ({"like": [{"id": "a"}], "weights": [0]}, 422, "above 0"),
        ({"like": [{"id": "a"}], "weights": [-1]}, 422, "greater than or equal to 0"),
        ({"unlike": [{"id": "a"}]}, 422, "like or text is missing"),
        ({"like": [{"id": "a"}], "unlike": [{"text": "red"}]}, 422, "image-text encoder"),
        ({"like": [{"url": "http://a/"}]}, 403, "--allow-urls"),
        ({"like": [{"image": "AAAA"}]}, 422, "unsupported image format"),
        ({"vector": [1.0] * 128, "box": [0, 0, 1, 1]}, 422, "no image to crop"),
        ({"id": "colors:red/3.png", "min_similarity": 2}, 422, "less than or equal to 1"),
        ({"id": "colors:red/3.png", "min_similarity": 0, "metric": "l2"}, 422, "cosine metric"),
        ({"id": "colors:red/3.png", "min_score": 0}, 422, "min_score"),
    ],
)
def test_invalid_vectors_and_examples_are_refused(
    shop: Serving, body: dict[str, Any], status: int, expected: str
) -> None:
    kind = {"content-type": "application/json"}
    response, data = shop.request("POST", SEARCH, json.dumps(body).encode(), kind)
    assert response.status == status
    assert expected in json.dumps(json.loads(data), ensure_ascii=False)
    options = {name: body[name] for name in body if name in schemas.BodyParameters.model_fields}
    query = {name: body[name] for name in body if name not in options and name != "min_score"}
    many = {"queries": [query, {"id": "colors:red/3.png"}], **options}
    response, data = shop.request("POST", f"{SEARCH}/batch", json.dumps(many).encode(), kind)
    if response.status == 200 and not options and "min_score" not in body:
        first, second = json.loads(data)["results"]
        assert first["problem"]["status"] == status
        assert second["problem"] is None
