"""Galleries from Python: made with names, functions or embeddings, and what they print."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    ImageError,
    InputError,
    LookalikeError,
    MissingRowError,
    SettingError,
    SourceError,
    UnknownNameError,
)
from lookalike.sources import Source
from lookalike.types import Progress
from tests.serving import serving

ROWS, DIM = 60, 6


def vectors() -> np.ndarray:
    """Three groups of directions, in order."""
    rng = np.random.default_rng(0)
    return np.repeat(np.eye(3, DIM), ROWS // 3, axis=0) * 9 + rng.normal(size=(ROWS, DIM))


def labels() -> list[dict[str, Any]]:
    return [{"label": "abc"[i // 20], "year": 2000 + i % 5} for i in range(ROWS)]


@pytest.fixture
def external() -> la.Gallery:
    return la.Gallery.from_embeddings(vectors(), metadata=labels())


def brightness(images: Any) -> np.ndarray:
    """Two numbers of each image, which is how a user's own encoder looks."""
    return np.array([[image.mean(), 255 - image.mean()] for image in images])


def own(version: str = "1") -> Encoder:
    return la.encoders.from_callable(brightness, dim=2, name="brightness", fingerprint=version)


def gray(value: int) -> np.ndarray:
    return np.full((8, 8), value, np.uint8)


# -- embeddings made elsewhere


def test_rows_are_as_they_are_passed(external: la.Gallery) -> None:
    assert len(external) == ROWS
    assert sorted(external) == list(external) == sorted(map(str, range(ROWS)))
    for place in (0, 7, 59):
        item = external[str(place)]
        assert np.array_equal(item.embedding, vectors()[place].astype(np.float32))
        assert item.metadata == labels()[place]
        assert item.uri == ""
    assert external.info()["encoder"] == "external"
    assert not external.encoder.is_available


def test_ids_uris_and_tables_in_their_common_forms(folder: Path) -> None:
    image = folder / "red" / "0.png"
    table = pd.DataFrame({"n": [1, 2, 3], "day": pd.to_datetime(["2020-01-01", None, None])})
    gallery = la.Gallery.from_embeddings(
        vectors()[:3].tolist(),
        ids=pd.Series(["odd: id/ä", "api:x", "3"]),
        uris=[image, None, "https://example.org/a.jpg"],
        metadata=table,
        metric="l2",
    )
    assert set(gallery) == {"odd: id/ä", "api:x", "3"}
    assert gallery["odd: id/ä"].metadata == {"n": 1, "day": "2020-01-01T00:00:00"}
    assert gallery["3"].metadata == {"n": 3}
    assert gallery["3"].uri == "https://example.org/a.jpg"
    assert gallery["odd: id/ä"].image().shape == (40, 50, 3)
    assert gallery._repr_html_().count("<img") == 1
    assert gallery.metric == "l2"
    numbered = la.Gallery.from_embeddings(vectors()[:2], ids=np.array([10, 20]))
    assert list(numbered) == ["10", "20"]


def test_all_rows_as_an_array_and_as_a_table(external: la.Gallery) -> None:
    embeddings = external.embeddings()
    assert embeddings.dtype == np.float32
    assert embeddings.flags.writeable
    order = [int(row_id) for row_id in external]
    assert np.array_equal(embeddings, vectors()[order].astype(np.float32))
    assert np.array_equal(external.embeddings(["7", "3"]), vectors()[[7, 3]].astype(np.float32))
    assert external.embeddings([]).shape == (0, DIM)
    table = external.to_pandas()
    assert list(table.columns) == ["id", "uri", *labels()[0]]
    assert list(table["id"]) == list(external)
    assert list(table["label"]) == [labels()[place]["label"] for place in order]
    named = la.Gallery.from_embeddings(vectors()[:2], metadata=[{"id": 1}, {"year": 2000}])
    assert list(named.to_pandas().columns) == ["id", "uri", "metadata.id", "year"]
    with pytest.raises(MissingRowError, match="no row with the id 'x'"):
        external.embeddings(["x"])
    wrong: Any = [1]
    with pytest.raises(InputError, match="ids: expected an id"):
        external.embeddings(wrong)


def test_search_by_vector_and_id_only(external: la.Gallery) -> None:
    query = vectors()[5] * 3
    assert external.search(vector=query, k=1).ids == ["5"]
    assert external.search(vectors=vectors()[:4], k=1)[3].ids == ["3"]
    assert set(external.search(id="5", k=19, where="label = 'a'").ids) == {
        str(i) for i in range(20) if i != 5
    }
    assert "no image" in external.search(id="5")._repr_html_()
    assert external.search(text="a").ranked_by == "keywords"
    for call in (
        lambda: external.search(gray(1)),
        lambda: external.add(gray(1)),
        lambda: external.sync("nowhere"),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(ImageError, match="5: has no image"):
        external["5"].image()


def test_whatever_needs_no_images_works(external: la.Gallery, tmp_path: Path) -> None:
    graph = external.neighbors(k=4, progress=False)
    assert graph.rows.shape == (ROWS, 4)
    assert len({*la.map(external, progress=False).ids}) == ROWS
    assert la.evaluate(external, progress=False).scores.precision.value == pytest.approx(1)
    sure = {str(i): "abc"[i // 20] for i in range(0, ROWS, 5)}
    assert len(la.propagate_labels(external, sure).ids) == ROWS
    assert external.export(tmp_path / "rows.parquet") == ROWS
    table = pq.read_table(tmp_path / "rows.parquet")
    assert np.allclose(np.stack(table["embedding"].to_numpy()), external_rows(external, table))
    report = external.copy_to(tmp_path / "copy.gallery")
    assert report.rows == ROWS
    assert repr(report).startswith(
        "<CopyReport: 60 added, 0 updated, 0 removed, 0 unchanged, recall@10 1.0000, in "
    )
    copied = la.Gallery.open(tmp_path / "copy.gallery")
    assert (
        copied.search(vector=vectors()[5], k=3).ids == external.search(vector=vectors()[5], k=3).ids
    )


def external_rows(gallery: la.Gallery, table: Any) -> np.ndarray:
    return np.stack([gallery[row_id].embedding for row_id in table["id"].to_pylist()])


def test_a_service_serves_embeddings(tmp_path: Path) -> None:
    gallery = la.Gallery.from_embeddings(vectors(), path=tmp_path / "v.gallery")
    with serving({"v": gallery}) as served:
        remote = served.client().gallery("v")
        assert served.request("GET", "/readyz")[0].status == 200
        assert remote.search(id="5", k=3).ids == gallery.search(id="5", k=3).ids
        assert np.array_equal(remote["5"].embedding, gallery["5"].embedding)
        with pytest.raises(InputError, match="function"):
            remote.search(gray(1))
        unnamed: Any = None
        with pytest.raises(InputError, match=r"^name must be a text"):
            served.client().gallery(unnamed)


def test_a_service_takes_filters_with_values_of_numpy(tmp_path: Path) -> None:
    metadata = [{"n": number} for number in range(ROWS)]
    gallery = la.Gallery.from_embeddings(vectors(), path=tmp_path / "v.gallery", metadata=metadata)
    with serving({"v": gallery}) as served:
        remote = served.client().gallery("v")
        conditions: list[Any] = [np.int64(3), {"in": np.array([2, 3])}, {"in": {4}}]
        for condition in conditions:
            where = {"n": condition}
            found = remote.search(vector=vectors()[0], where=where).ids
            assert found == gallery.search(vector=vectors()[0], where=where).ids
            assert found


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"embeddings": [1.0, 2.0]}, "embeddings"),
        ({"embeddings": np.zeros((0, 4))}, "embeddings"),
        ({"embeddings": np.zeros((4, 0))}, "embeddings"),
        ({"embeddings": [[1.0], [1.0, 2.0]]}, "embeddings"),
        ({"embeddings": [["a"]]}, "embeddings"),
        ({"embeddings": [[1j]]}, "embeddings"),
        ({"embeddings": None}, "embeddings"),
        ({"embeddings": "vectors.npy"}, "embeddings"),
        ({"embeddings": [[1.0, np.nan]]}, "embeddings: row 0"),
        ({"embeddings": [[1.0, 1e300]]}, "embeddings: row 0"),
        ({"ids": ["a"]}, "ids: got 1 for 2"),
        ({"ids": ["a", "a"]}, "ids: 'a' occurs twice"),
        ({"ids": [1, "1"]}, "ids: '1' occurs twice"),
        ({"ids": ["a", 1.5]}, "ids: expected texts or integers, got float"),
        ({"ids": ["a", ""]}, "ids: ''"),
        ({"ids": ["a", "\ud800"]}, "ids: "),
        ({"ids": "ab"}, "ids: expected a list"),
        ({"uris": ["a"]}, "uris: got 1 for 2"),
        ({"uris": ["a", 3]}, "uris: expected paths or URLs"),
        ({"metadata": [{}]}, "metadata: has 1 rows for 2"),
        ({"metadata": ["a", "b"]}, "metadata[0]: expected a mapping"),
        ({"metadata": [{}, {"a": np.inf}]}, "column 'a'"),
        ({"metric": "l1"}, "metric=l1"),
        ({"name": ""}, "name"),
    ],
)
def test_invalid_embeddings_are_refused(arguments: dict[str, Any], named: str) -> None:
    values = {"embeddings": [[1.0, 2.0], [3.0, 4.0]], **arguments}
    with pytest.raises(InputError) as refused:
        la.Gallery.from_embeddings(values.pop("embeddings"), **values)
    assert named in str(refused.value)


def test_a_temporary_gallery_is_deleted_with_its_last_user() -> None:
    gallery = la.Gallery.from_embeddings(vectors())
    folder = gallery.path.parent
    snapshot, item, hits = gallery.snapshot(), gallery["3"], gallery.search(id="3", k=2)
    assert repr(gallery) == "<Gallery 'temporary': 60 rows, external, cosine>"
    with pytest.raises(InputError, match="temporary gallery cannot be pickled"):
        pickle.dumps(gallery)
    assert pickle.loads(pickle.dumps(hits)) == hits
    del gallery, hits
    gc.collect()
    assert len(snapshot) == ROWS
    del snapshot
    gc.collect()
    assert len(item.gallery.embedding("4")) == DIM
    del item
    gc.collect()
    assert not folder.exists()


# -- encoders


def test_a_query_that_is_no_file_may_be_meant_as_an_id_or_a_text(
    tmp_path: Path, folder: Path
) -> None:
    gallery = la.Gallery.create(tmp_path / "a.gallery", images=folder)
    gallery.sync(folder, progress=False)
    row = next(iter(gallery))
    with pytest.raises(MissingRowError, match=f"did you mean {row!r}"):
        gallery[row.partition(":")[2]]
    for query in (row, "a red cat"):
        with pytest.raises(ImageError, match="to search by a row use id, by words text"):
            gallery.search(query)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError) as refused:
        gallery.search(broken)
    assert "use id" not in str(refused.value)


def test_an_encoder_by_name_folder_or_default(
    tmp_path: Path, folder: Path, digits: Source, pixels: Encoder
) -> None:
    la.save_encoder(pixels, tmp_path / "p.encoder")
    images = (Image.open(path) for path in folder.rglob("*.png"))
    made: list[tuple[str, dict[str, Any]]] = [
        ("pixels", {"encoder": "pixels", "images": folder}),
        ("hog", {"encoder": "hog", "images": [gray(1), folder / "red" / "0.png"]}),
        ("untrained", {"encoder": "untrained"}),
        ("pixels", {"encoder": pixels}),
        ("pixels", {"encoder": str(tmp_path / "p.encoder")}),
        ("pixels", {"encoder": tmp_path / "p.encoder"}),
        ("hog-fine", {"images": digits}),
        ("hog-fine+color", {"images": images}),
    ]
    for number, (name, arguments) in enumerate(made):
        gallery = la.Gallery.create(tmp_path / f"{number}.gallery", **arguments)
        assert gallery.encoder.name == name
        side = 8 if name == "pixels" else 28
        assert gallery.add(np.zeros((side, side), np.uint8), ids="a") == ["api:a"]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({}, InputError, "pass encoder, such as 'efficientnet-lite0', or images"),
        ({"encoder": brightness}, InputError, "lookalike.encoders.from_callable(fn, dim=512"),
        ({"encoder": 3}, InputError, "encoder is a int"),
        ({"encoder": "pixls"}, UnknownNameError, "did you mean 'pixels'"),
        ({"encoder": "hog"}, InputError, "needs images"),
        ({"images": []}, InputError, "images"),
        ({"images": "no/such/folder"}, SourceError, "no such file or folder"),
        ({"encoder": Path("no.encoder")}, ArtifactError, "no.encoder"),
        ({"encoder": "untrained", "metric": "x"}, SettingError, "metric"),
    ],
)
def test_invalid_encoders_are_refused(
    tmp_path: Path, arguments: dict[str, Any], error: type[LookalikeError], named: str
) -> None:
    with pytest.raises(error) as refused:
        la.Gallery.create(tmp_path / "a.gallery", **arguments)
    assert named in str(refused.value)
    assert not (tmp_path / "a.gallery").exists()


def test_an_encoder_of_a_function_is_passed_again(tmp_path: Path) -> None:
    path = tmp_path / "own.gallery"
    gallery = la.Gallery.create(path, encoder=own(), metric="l2")
    gallery.add([gray(i) for i in range(5)], ids=list("abcde"))
    assert gallery.search(gray(2), k=1).ids == ["api:c"]
    without = la.Gallery.open(path)
    assert without.search(id="c", k=1).ids == ["api:b"]
    for call in (lambda: without.search(gray(2)), lambda: without.add(gray(2))):
        with pytest.raises(InputError, match=r"open the gallery with it: Gallery\.open"):
            call()
    again = la.Gallery.open(path, encoder=own())
    assert again.search(gray(3), k=1).ids == ["api:d"]
    assert again.snapshot().search(gray(3), k=1).ids == ["api:d"]
    assert again["c"].embedding.tolist() == [2, 253]
    with pytest.raises(FingerprintError, match="create another gallery for the other encoder"):
        la.Gallery.open(path, encoder=own("2"))
    wrong: Any = brightness
    with pytest.raises(InputError, match="must be an Encoder"):
        la.Gallery.open(path, encoder=wrong)
    assert not pickle.loads(pickle.dumps(again)).encoder.is_available


def test_a_passed_encoder_stays_when_the_gallery_is_replaced(
    tmp_path: Path, pixels: Encoder
) -> None:
    path, other = tmp_path / "a.gallery", tmp_path / "b.gallery"
    opened = la.Gallery.create(path, encoder=own(), metric="l2")
    opened.add(gray(1), ids="a")
    la.Gallery.create(other, encoder=own(), metric="l2").add(gray(9), ids="b")
    path.rename(tmp_path / "old.gallery")
    other.rename(path)
    assert opened.search(gray(9), k=1).ids == ["api:b"]  # the same encoder, so it serves
    path.rename(tmp_path / "older.gallery")
    la.Gallery.create(path, encoder=pixels).add(np.zeros((8, 8), np.uint8), ids="c")
    assert opened.encoder.name == "pixels"  # another one, which has its own
    assert opened.search(np.zeros((8, 8), np.uint8), k=1).ids == ["api:c"]


# -- sync, and what is printed


def test_sync_reports_progress_and_prints_in_two_lines(tmp_path: Path, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    gallery = la.Gallery.create(tmp_path / "a.gallery", encoder="pixels", images=folder)
    seen: list[Progress] = []
    report = gallery.sync(folder, progress=seen.append)
    assert seen[-1].done == seen[-1].total == 13
    lines = repr(report).splitlines()
    assert lines[0].startswith("<SyncReport: 12 added, 0 updated")
    assert len(lines) == 2
    assert "broken.png" in lines[1]
    for shown in (gallery, gallery.snapshot(), la.open_source(folder), gallery.items()):
        assert len(repr(shown)) < 300
        assert "\n" not in repr(shown)
    assert repr(gallery) == f"<Gallery {str(gallery.path)!r}: 12 rows, pixels, cosine>"
    assert gallery._repr_html_().count("<img") == 12
    for bad in ([gray(1)], None, 3):
        wrong: Any = bad
        with pytest.raises(InputError, match="source: expected a folder"):
            gallery.sync(wrong)


def test_a_gallery_that_is_gone_still_prints(tmp_path: Path, pixels: Encoder) -> None:
    gallery = la.Gallery.create(tmp_path / "a.gallery", encoder=pixels)
    gallery.path.rename(tmp_path / "b.gallery")
    assert repr(gallery).endswith("ArtifactError>")
    assert "the gallery is gone" in gallery._repr_html_()


def test_a_snapshot_is_not_written(external: la.Gallery) -> None:
    view = external.snapshot()
    writes: list[Callable[[], object]] = [
        lambda: view.remove("1"),
        lambda: view.update_metadata("1", {"a": 1}),
        lambda: view.add(gray(1)),
    ]
    for write in writes:
        with pytest.raises(InputError):
            write()
    assert external.remove(["1", "2", "1"]) == 2
    assert "1" in view
    assert "1" not in external
