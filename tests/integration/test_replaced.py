"""A gallery that is replaced while it is open: nothing old is answered, nothing old is written."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    InputError,
    ReplacedError,
)
from lookalike.explore import build_map, load_map
from lookalike.gallery.gallery import Gallery
from lookalike.labels import neighbor_graph, propagate, save_session, suggest
from lookalike.labels.write_back import write_labels
from lookalike.sources import Item, open_source
from lookalike.sources.labels import LabelSet
from lookalike.stores.base import Rows
from tests.serving import Serving, serving
from tests.swapped import NAME, Answer, Reads, Side, answer, finish, read_repeatedly, start_reader


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    """Two collections, with encoders of one name and one number of dimensions."""
    root = tmp_path_factory.mktemp("sides")
    a, b = Side.make(root / "a", 0), Side.make(root / "b", 1)
    assert (a.encoder.name, a.encoder.dim) == (b.encoder.name, b.encoder.dim)
    assert a.encoder.fingerprint != b.encoder.fingerprint
    return a, b


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "g.gallery"


def test_an_open_gallery_is_the_one_in_its_place(sides: tuple[Side, Side], path: Path) -> None:
    a, b = sides
    gallery = a.create(path)
    state = gallery.state
    assert answer(gallery, a.image(0))[0] == (f"{NAME}:a0.png", 0)
    expected = answer(b.replace(path), b.image(0))
    assert expected[0] == (f"{NAME}:b0.png", 0)
    assert answer(gallery, b.image(0)) == expected
    assert gallery.encoder.fingerprint == gallery.fingerprint == b.encoder.fingerprint
    assert gallery.state.identity not in (state.identity, "")
    assert gallery.state == Gallery.open(path).state
    assert {row_id[: len(NAME) + 2] for row_id in gallery.store.ids()} == {f"{NAME}:b"}
    assert gallery.sources == {NAME: str(b.folder)}
    gallery.remove([f"{NAME}:b0.png"])
    assert len(gallery) == len(Gallery.open(path)) == 39
    assert gallery.sync(open_source(b.folder, name=NAME), restore_removed=True).added == 1


def test_a_gallery_of_other_dimensions_is_opened_too(sides: tuple[Side, Side], path: Path) -> None:
    a, b = sides
    color = replace(b, encoder=open_encoder("color", open_source(b.folder)))
    assert color.encoder.dim != a.encoder.dim
    gallery = a.create(path)
    item, reads = replacing(color, path, b.image(0))
    assert gallery.search(item, k=1)[0].id == f"{NAME}:b0.png"
    assert len(reads) == 2
    with serving({"g": gallery}) as served:
        assert hits_of(ask(served, b.image(1))[1])[0] == (f"{NAME}:b1.png", 0)
        a.replace(path)
        assert hits_of(ask(served, a.image(1))[1])[0] == (f"{NAME}:a1.png", 0)
        assert served.client().gallery("g").info()["dim"] == a.encoder.dim


def test_a_copy_with_the_same_history_is_noticed(sides: tuple[Side, Side], path: Path) -> None:
    """Two copies of one gallery that were written separately have the same number of commits."""
    gallery = sides[0].create(path)
    copied = shutil.copytree(path, path.with_name("copy.gallery"))
    gallery.remove([f"{NAME}:a0.png"])
    Gallery.open(copied).remove([f"{NAME}:a1.png"])
    before = gallery.state
    assert f"{NAME}:a1.png" in gallery.store.ids()
    shutil.rmtree(path)
    copied.rename(path)
    assert f"{NAME}:a1.png" not in gallery.store.ids()
    assert gallery.state.identity == before.identity
    assert gallery.state.revision != before.revision
    assert gallery.state.changes_since(before) == "changed"


def replacing(side: Side, path: Path, image: Path) -> tuple[Item, list[Path]]:
    """Return an item that replaces the gallery at a path when it is read first, and its reads."""
    reads: list[Path] = []

    def read() -> bytes:
        reads.append(path)
        if len(reads) == 1:
            side.replace(path)
        return image.read_bytes()

    return replace(next(iter(open_source(side.folder))), read=read), reads


def test_a_gallery_replaced_during_a_search(sides: tuple[Side, Side], path: Path) -> None:
    """A query that was encoded with the old encoder is never compared with new rows."""
    a, b = sides
    gallery = a.create(path)
    assert gallery.encoder.fingerprint == a.encoder.fingerprint
    item, reads = replacing(b, path, b.image(0))
    hits = gallery.search(item, k=3)  # the old encoder was chosen before the item was read
    expected = answer(Gallery.open(path), b.image(0))
    assert [(hit.id, round(hit.distance, 4)) for hit in hits] == expected
    assert len(reads) == 2


def test_a_gallery_replaced_during_a_sync_keeps_its_own_rows(
    sides: tuple[Side, Side], path: Path
) -> None:
    a, b = sides
    gallery = a.create(path)
    item, _ = replacing(b, path, a.image(0))
    source = open_source(a.folder, name=NAME)
    for name in ("a0.png", "a1.png"):
        gallery.remove([f"{NAME}:{name}"])
    source = _Reading(source, item)
    with pytest.raises(ReplacedError, match="another gallery was put in its place"):
        gallery.sync(source, restore_removed=True)
    new = Gallery.open(path)
    assert {row_id[: len(NAME) + 2] for row_id in new.store.ids()} == {f"{NAME}:b"}
    assert (len(new), new.sources) == (40, {NAME: str(b.folder)})
    assert answer(gallery, b.image(3))[0] == (f"{NAME}:b3.png", 0)


class _Reading:
    """A source whose first item is read as another one."""

    def __init__(self, source: Any, item: Item) -> None:
        self._source, self._item = source, item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Any:
        for place, item in enumerate(self._source):
            yield item if place else replace(item, read=self._item.read)


@pytest.mark.slow
def test_labels_of_a_replaced_gallery_are_not_written_into_the_new_one(
    sides: tuple[Side, Side], path: Path
) -> None:
    a, b = sides
    gallery = a.create(path)
    rows = gallery.store.get([f"{NAME}:a0.png"])
    graph = neighbor_graph(gallery)
    labels = LabelSet("labels", {f"{NAME}:a0.png": ("x",), f"{NAME}:a1.png": ("y",)})
    result = propagate(graph, labels)
    gallery.remove([f"{NAME}:a5.png"])
    write_labels(gallery, result, "own")
    assert len(gallery) == 39
    assert all("own" in record.metadata for record in gallery.store.records())
    b.replace(path)
    with pytest.raises(ReplacedError):
        write_labels(gallery, result, "own")
    with pytest.raises(FingerprintError, match="cannot be mixed"):
        gallery.upsert(rows, fingerprint=a.encoder.fingerprint)
    with pytest.raises(ReplacedError):
        save_session(gallery, graph, suggest(graph, 4), None)
    assert sorted(Gallery.open(path).store.ids())[0] == f"{NAME}:b0.png"
    assert not list(path.glob("labeling*"))


@pytest.mark.slow
def test_a_map_is_stale_after_labels_were_written_but_keeps_its_points(
    sides: tuple[Side, Side], path: Path
) -> None:
    gallery = sides[0].create(path)
    built = build_map(gallery)
    rows = next(gallery.store.rows(100))
    labeled = replace(rows, metadata=[{"label": "xy"[i % 2]} for i in range(len(rows))])
    gallery.upsert(labeled, fingerprint=gallery.fingerprint)
    stale = load_map(gallery)
    assert stale is not None
    assert (stale.stale, stale.origin.changes, stale.columns) == (True, "1 commit", {})
    renewed = build_map(gallery)
    assert (renewed.stale, list(renewed.columns)) == (False, ["label"])
    assert renewed.origin.created_at == built.origin.created_at
    np.testing.assert_allclose(renewed.points, built.points, atol=1e-4)
    saved = load_map(gallery)
    assert saved is not None
    assert not saved.stale
    other = sides[1].create(path.with_name("other.gallery"))
    shutil.copy(path / "map.json", other.path)
    copied = load_map(other)
    assert copied is not None
    assert copied.origin.changes == "another gallery"


def test_a_gallery_that_is_gone_is_an_error_until_it_is_back(
    sides: tuple[Side, Side], path: Path
) -> None:
    gallery = sides[0].create(path)
    rows = gallery.store.get([f"{NAME}:a0.png"])
    shutil.rmtree(path)
    source = open_source(sides[0].folder, name=NAME)
    for use in (
        lambda: gallery.search(sides[0].image(0)),
        lambda: gallery.search(id=f"{NAME}:a0.png"),
        lambda: gallery.store,
        lambda: gallery.state,
        lambda: gallery.sync(source),
        lambda: gallery.remove(rows.ids),
        lambda: gallery.upsert(rows, fingerprint=sides[0].encoder.fingerprint),
        lambda: len(gallery),
        gallery.optimize,
        gallery.info,
        gallery.snapshot,
    ):
        with pytest.raises(ArtifactError, match=r"g\.gallery: the gallery is gone \(No such file"):
            use()
    assert not path.exists()  # not even a lock file brings the folder back
    sides[1].create(path)
    assert answer(gallery, sides[1].image(0))[0] == (f"{NAME}:b0.png", 0)


def test_half_a_gallery_is_an_error_until_it_is_whole(sides: tuple[Side, Side], path: Path) -> None:
    a, b = sides
    gallery = a.create(path)
    other = b.create(path.with_name("other.gallery"))
    shutil.rmtree(path / "store")
    with pytest.raises(ArtifactError, match="the rows of the gallery are missing or broken"):
        gallery.store.ids()
    shutil.copytree(other.path / "store", path / "store")
    for use in (lambda: answer(gallery, a.image(0)), lambda: Gallery.open(path)):
        with pytest.raises(ArtifactError, match="are of two galleries"):
            use()
    shutil.copy(other.path / "gallery.json", path)
    with pytest.raises(FingerprintError, match="their embeddings cannot be mixed"):
        answer(gallery, b.image(0))
    shutil.rmtree(path / "encoder")
    shutil.copytree(other.path / "encoder", path / "encoder")
    assert answer(gallery, b.image(0)) == answer(other, b.image(0))


def test_a_snapshot_stays_as_it_is(sides: tuple[Side, Side], path: Path) -> None:
    gallery = sides[0].create(path)
    view = gallery.snapshot()
    before = answer(view, sides[0].image(0))
    gallery.remove([f"{NAME}:a0.png"])
    assert (len(view), len(gallery)) == (40, 39)
    assert answer(view, sides[0].image(0)) == before != answer(gallery, sides[0].image(0))
    assert view.state != gallery.state == gallery.snapshot().state
    assert gallery.state.changes_since(view.state) == "1 commit"
    with pytest.raises(InputError, match="a snapshot, which cannot be written"):
        view.remove([f"{NAME}:a1.png"])


def expected_answers(
    sides: tuple[Side, Side], folder: Path, queries: list[Path]
) -> list[list[Answer]]:
    """Return the answers to each query of a new gallery, and of the galleries of both sides."""
    galleries = [side.create(folder / f"{side.folder.name}.gallery") for side in sides]
    empty: list[Answer] = [[] for _ in queries]
    return [empty, *([answer(gallery, query) for query in queries] for gallery in galleries)]


@pytest.mark.slow
def test_threads_and_processes_search_while_a_gallery_is_replaced(
    sides: tuple[Side, Side], path: Path, tmp_path: Path
) -> None:
    queries = [side.image(number) for side in sides for number in range(3)]
    expected = expected_answers(sides, tmp_path, queries)
    sides[0].create(path)
    other = start_reader(path, queries, expected, 500)
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_repeatedly, path, queries, expected, 500) for _ in range(2)]
        turn = 0
        while not all(each.done() for each in readers) or other.poll() is None:
            turn += 1
            side = sides[turn % 2]
            if turn % 4 < 2:
                side.replace(path)
            else:  # made beside it, and moved into its place
                made = side.create(tmp_path / "new.gallery").path
                path.rename(tmp_path / "old.gallery")
                made.rename(path)
                shutil.rmtree(tmp_path / "old.gallery")
        results: list[Reads] = [*(each.result() for each in readers), finish(other)]
    assert turn > 4
    assert [(reads.right, reads.wrong) for reads in results] == [(500, [])] * 3


@pytest.mark.slow
def test_processes_read_while_rows_are_written(
    sides: tuple[Side, Side], path: Path, tmp_path: Path
) -> None:
    """Every read succeeds; ``benchmarks/faults.py`` does ten thousand."""
    gallery = sides[0].create(path)
    queries = [sides[0].image(number) for number in range(3)]
    expected = [[answer(gallery, query) for query in queries]]
    far = -100 * gallery.store.get([f"{NAME}:a0.png"]).embeddings
    readers = [start_reader(path, queries, expected, 150) for _ in range(4)]
    commits = 0
    while any(each.poll() is None for each in readers):
        rows = Rows([f"x:{commits % 50}"], ["x"], far, [{"turn": commits}], ["x"])
        gallery.upsert(rows, fingerprint=gallery.fingerprint)
        gallery.remove_rows([f"x:{(commits + 25) % 50}"])
        if commits % 10 == 0:
            gallery.optimize()
        commits += 1
    assert [finish(each) for each in readers] == [Reads(150, 0, [])] * 4
    assert commits > 10


# The service.


def ask(served: Serving, query: Path) -> tuple[int, Any]:
    response, body = served.request("POST", "/v1/galleries/g/search/image?k=3", query.read_bytes())
    return response.status, json.loads(body)


def hits_of(result: Any) -> Answer:
    return [(hit["id"], round(hit["distance"], 4)) for hit in result["hits"]]


def test_a_service_serves_the_gallery_in_its_place(sides: tuple[Side, Side], path: Path) -> None:
    a, b = sides
    gallery = a.create(path)
    with serving({"g": gallery}) as served:
        remote = served.client().gallery("g")
        before = remote.info()
        assert hits_of(ask(served, a.image(0))[1])[0] == (f"{NAME}:a0.png", 0)
        new = b.replace(path)
        assert hits_of(ask(served, b.image(0))[1]) == answer(new, b.image(0))
        after = remote.info()
        assert (after["identity"], after["revision"]) == (new.state.identity, new.state.revision)
        assert after["identity"] != before["identity"]
        assert after["fingerprint"] == b.encoder.fingerprint
        assert served.request("GET", "/readyz")[0].status == 200
        status, problem = ask(served, a.image(0))
        assert status == 200
        assert {hit["id"][: len(NAME) + 2] for hit in problem["hits"]} == {f"{NAME}:b"}
        response, _ = served.request("GET", f"/v1/galleries/g/item?id={NAME}:a0.png")
        assert response.status == 404
        page = served.request("GET", "/g/g")[1].decode()
        assert f"{NAME}%3Ab" in page
        assert f"{NAME}%3Aa" not in page
        remote.add(a.image(7), ids="mine")  # encoded with the new encoder
        assert answer(Gallery.open(path), a.image(7))[0] == ("api:mine", 0)


def test_a_service_without_its_gallery_says_so_and_recovers(
    sides: tuple[Side, Side], path: Path, tmp_path: Path
) -> None:
    a, b = sides
    other = b.create(tmp_path / "other.gallery")
    with serving({"g": a.create(path), "other": other}) as served:
        assert served.request("GET", "/readyz")[0].status == 200
        shutil.rmtree(path)
        item = quote(f"{NAME}:a0.png")
        readiness = json.loads(served.request("GET", "/readyz")[1])
        assert readiness == {"status": "degraded", "galleries": 2, "ready": 1}
        for method, url in (
            ("GET", "/v1/galleries/g"),
            ("GET", f"/v1/galleries/g/item?id={item}"),
            ("GET", f"/v1/galleries/g/item/thumbnail?id={item}"),
            ("GET", "/v1/galleries/g/map"),
            ("GET", "/v1/galleries/g/evaluation"),
            ("GET", "/v1/galleries/g/labeling"),
            ("GET", "/v1/galleries/g/sample"),
            ("PUT", "/v1/galleries/g/item?id=new"),
            ("GET", "/g/g"),
        ):
            body = a.image(0).read_bytes() if method == "PUT" else None
            response, data = served.request(method, url, body)
            assert response.status == 503, url
            assert "the gallery is gone" in data.decode(), url
            assert str(tmp_path) not in data.decode(), url
            assert response.headers["retry-after"] == "1"
        status, problem = ask(served, a.image(0))
        assert (status, problem["type"]) == (503, "urn:lookalike:problem:gallery-unreadable")
        assert not path.exists()
        listed = {each["name"]: each for each in served.client().json("GET", "/v1/galleries")}
        assert "the gallery is gone" in listed["g"]["problem"]
        assert listed["other"]["problem"] is None
        assert "the gallery is gone" in served.request("GET", "/")[1].decode()
        waiting = threading.Timer(0.5, lambda: b.create(path))
        waiting.start()
        hits = served.client().gallery("g").search(b.image(0), k=3)  # retries meanwhile
        waiting.join()
        assert hits[0].id == f"{NAME}:b0.png"
        assert served.request("GET", "/readyz")[0].status == 200


def test_images_of_a_replaced_gallery_are_not_cached(
    sides: tuple[Side, Side], path: Path, tmp_path: Path
) -> None:
    """Rows may have the same id, and no content hash, in both galleries."""
    colors = {"red": (250, 0, 0), "blue": (0, 0, 250)}
    for name, color in colors.items():
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")

    def fill(gallery: Gallery, name: str) -> None:
        uris = [str(tmp_path / f"{name}.png")]
        vector = np.ones((1, gallery.store.dim), np.float32)
        gallery.upsert(Rows(["x:1"], uris, vector, [{}], [""]), fingerprint=gallery.fingerprint)

    gallery = Gallery.create(path, encoder=sides[0].encoder)
    fill(gallery, "red")
    with serving({"g": gallery}) as served:
        for url in ("image?id=x:1", "thumbnail?id=x:1&size=64"):
            url = f"/v1/galleries/g/item/{url}"
            response, red = served.request("GET", url)
            tag = response.headers["etag"]
            cached = {"if-none-match": tag}
            assert served.request("GET", url, headers=cached)[0].status == 304
            shutil.rmtree(path)
            fill(Gallery.create(path, encoder=sides[0].encoder), "blue")
            response, blue = served.request("GET", url, headers=cached)
            assert (response.status, blue == red) == (200, False)
            fill(Gallery.open(path), "red")
            response, again = served.request(
                "GET", url, headers={"if-none-match": response.headers["etag"]}
            )
            assert (response.status, again == red) == (200, True)


@pytest.mark.slow
def test_requests_during_replacements_are_right_or_refused(
    sides: tuple[Side, Side], path: Path, tmp_path: Path
) -> None:
    queries = [side.image(number) for side in sides for number in range(2)]
    expected = expected_answers(sides, tmp_path, queries)
    with serving({"g": sides[0].create(path)}) as served, ThreadPoolExecutor(3) as pool:

        def request(number: int) -> int:
            """Ask until there is an answer, check it, and return how often it was refused."""
            place = number % len(queries)
            for refused in range(1_000):
                status, result = ask(served, queries[place])
                if status != 503:
                    assert status == 200, result
                    assert hits_of(result) in [each[place] for each in expected]
                    return refused
                assert result["type"] == "urn:lookalike:problem:gallery-unreadable"
                time.sleep(0.02)
            raise AssertionError

        asked = [pool.submit(request, number) for number in range(120)]
        turn = 0
        while not all(each.done() for each in asked):
            turn += 1
            sides[turn % 2].replace(path)
        assert sum(each.result() for each in asked) > 0
        assert turn > 2
        assert served.request("GET", "/readyz")[0].status == 200


def test_a_relative_path_keeps_its_meaning(
    sides: tuple[Side, Side], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sides
    a.create(path)
    elsewhere = path.parent / "elsewhere"
    b.create(elsewhere / path.name)
    monkeypatch.chdir(path.parent)
    gallery = Gallery.open(path.name)
    assert gallery.path == Path(path.name)
    monkeypatch.chdir(elsewhere)
    assert gallery.path == path
    assert answer(gallery, a.image(0))[0] == (f"{NAME}:a0.png", 0)
    assert gallery.remove([f"{NAME}:a1.png"]) == 1
    assert len(Gallery.open(path)) == 39
    assert len(Gallery.open(path.name)) == 40
    b.replace(path)
    assert answer(gallery, b.image(0))[0] == (f"{NAME}:b0.png", 0)
