"""The hits of a query as arrays, tables, a contact sheet and HTML."""

from __future__ import annotations

import base64
import copy
import io
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from lookalike.errors import MissingDependencyError, SettingError
from lookalike.formatting import shorten
from lookalike.images.decode import decode
from lookalike.images.inline import data_uri, grid_html
from lookalike.search.hits import Hits, HitsList
from lookalike.types import Hit, ImageArray, Metric


def hit(rank: int, distance: float = 0.25, **metadata: object) -> Hit:
    return Hit(rank, f"photos:cats/{rank}.jpg", f"/photos/cats/{rank}.jpg", distance, metadata)


def hits(*rows: Hit, metric: Metric = Metric.COSINE) -> Hits:
    return Hits("q.jpg", metric, rows or (hit(1, 0.0, label="cat"), hit(2, 0.5, label="dog")))


def gray_images(hits: Sequence[Hit]) -> list[ImageArray | None]:
    """Return a gray image for each hit, of its rank."""
    return [np.full((40, 80), hit.rank, np.uint8) for hit in hits]


def test_hits_are_arrays() -> None:
    results = hits()
    assert results.ids == ["photos:cats/1.jpg", "photos:cats/2.jpg"]
    np.testing.assert_array_equal(results.distances, [0, 0.5])
    np.testing.assert_array_equal(results.similarities, [1, 0.5])
    assert results.distances.dtype == results.similarities.dtype == np.float64
    empty = Hits("q", Metric.COSINE, ())
    assert (empty.ids, empty.distances.shape, empty.similarities.shape) == ([], (0,), (0,))


def test_euclidean_distances_have_no_similarities() -> None:
    results = hits(metric=Metric.L2)
    with pytest.raises(SettingError, match=r"metric=l2 has no similarities; use \.distances"):
        _ = results.similarities
    assert "similarity" not in results.to_pandas().columns
    assert "distance 0.5000" in results._repr_html_()


def test_slices_are_hits_and_keep_the_ranks() -> None:
    results = hits(*(hit(rank) for rank in range(1, 6)))
    part = results[1:3]
    assert isinstance(part, Hits)
    assert [each.rank for each in part] == [2, 3]
    assert (part.query, part.metric) == (results.query, results.metric)
    assert results[-1].rank == 5
    assert next(reversed(results)) == results[-1]
    with pytest.raises(IndexError):
        _ = results[5]


def test_tables_have_the_metadata_as_columns() -> None:
    results = hits(
        hit(1, 0.25, label="cat", year=2020, tags=["a", "b"], id=7, mixed=1),
        hit(2, 0.5, label="dog", owner={"name": "Ada"}, mixed="x"),
    )
    names = ["rank", "id", "uri", "distance", "similarity", "label", "year", "tags", "metadata.id"]
    names += ["mixed", "owner"]
    frame = results.to_pandas()
    assert list(frame.columns) == names
    assert isinstance(frame, pd.DataFrame)
    assert frame["id"].tolist() == results.ids
    assert frame["metadata.id"].iloc[0] == 7
    assert frame["similarity"].tolist() == [0.75, 0.5]
    assert frame["year"].isna().tolist() == [False, True]
    table = results.to_arrow()
    assert table.column_names == names
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == ["cat", "dog"]
    assert [row["mixed"] for row in rows] == ["1", '"x"']  # no common type: JSON
    assert [row["tags"] for row in rows] == [["a", "b"], None]
    assert [row["owner"] for row in rows] == [None, {"name": "Ada"}]
    assert table.schema.field("rank").type == pa.int64()


def test_empty_hits_have_typed_tables() -> None:
    table = Hits("q", Metric.L2, ()).to_arrow()
    assert table.num_rows == 0
    assert table.schema.types == [pa.int64(), pa.string(), pa.string(), pa.float64()]
    assert Hits("q", Metric.L2, ()).to_pandas().empty


def test_without_pandas_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lookalike\[pandas\]'"):
        hits().to_pandas()


def test_the_repr_is_one_line_whatever_is_in_it() -> None:
    results = Hits("a\nb" * 1000, Metric.COSINE, (Hit(1, "x" * 5000, "/x", 0.1, {"k": "v" * 9}),))
    for text in (repr(results), repr(hits())):
        assert "\n" not in text
        assert len(text) < 240
    assert repr(hits()) == "<Hits of 'q.jpg': 2 hits, cosine, best 'photos:cats/1.jpg' at 0.0000>"
    assert repr(Hits("q", Metric.L2, ())) == "<Hits of 'q': 0 hits, l2>"


def test_hits_of_keywords_show_no_distance() -> None:
    results = Hits("a cat", Metric.COSINE, (hit(1, 0.0),), ranked_by="keywords")
    assert repr(results) == "<Hits of 'a cat': 1 hit, keywords, best 'photos:cats/1.jpg'>"
    text = results._repr_html_()
    assert "1<br>photos:cats/1.jpg" in text
    assert "0.0000" not in text


def test_copies_and_pickles_are_equal() -> None:
    results = Hits("q", Metric.COSINE, (hit(1, label="cat"),), "/q.jpg", lambda _: [])
    for other in (copy.copy(results), copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert other == results
        assert other.as_dict() == results.as_dict()
    deep = copy.deepcopy(results)
    assert deep[0].metadata is not results[0].metadata
    assert deep.reader is results.reader
    assert pickle.loads(pickle.dumps(results)).reader is None


def test_a_notebook_shows_thumbnails_with_rank_similarity_and_name() -> None:
    results = Hits("q.jpg", Metric.COSINE, hits().rows, None, gray_images)
    text = results._repr_html_()
    assert text.count("<img") == 2
    assert "1  similarity 1.000<br>photos:cats/1.jpg" in text
    assert "q.jpg: 2 hits, cosine" in text
    (first, _) = re.findall(r"data:image/(?:png|jpeg);base64,([^\"]+)", text)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (80, 40)


def test_a_notebook_shows_the_query_and_labels_that_are_not_in_the_id(tmp_path: Path) -> None:
    Image.new("RGB", (80, 40)).save(tmp_path / "q.png")
    rows = (hit(1, label="cats"), hit(2, label="tabby"))
    text = Hits("q.png", Metric.COSINE, rows, str(tmp_path / "q.png"), gray_images)._repr_html_()
    assert text.count("<img") == 3
    assert text.index(">query<br>\N{NO-BREAK SPACE}<br>\N{NO-BREAK SPACE}<") < text.index(
        "1  similarity 0.750<br>photos:cats/1.jpg<"
    )
    assert "2  similarity 0.750<br>tabby<br>photos:cats/2.jpg<" in text
    url = Hits("q.png", Metric.COSINE, rows, "https://example.org/q.png", gray_images)
    assert url._repr_html_().count("<img") == 2  # nothing is fetched to show results


def test_a_notebook_shows_several_results_one_below_the_other() -> None:
    one = Hits("q", Metric.COSINE, tuple(hit(n) for n in range(1, 10)), None, gray_images)
    text = HitsList([one] * 12)._repr_html_()
    assert text.count("q: 9 hits, cosine (2 more not shown)") == 10
    assert text.count("<img") == 70
    assert "2 more queries not shown" in text


def test_a_hit_is_one_line_without_noise() -> None:
    assert repr(hit(1, distance=4e-16, label="cat")) == (
        "<Hit 1: 'photos:cats/1.jpg' at 0.0000, {'label': 'cat'}>"
    )
    assert len(repr(Hit(1, "a\nb", "", 0.1, {"text": "x" * 5000}))) < 240


def test_a_notebook_shows_a_bounded_number_of_escaped_hits() -> None:
    bad = '<script>alert("1")</script>'
    rows = tuple(Hit(rank, bad, bad, 0.1, {}) for rank in range(1, 500))
    text = Hits(bad * 100, Metric.COSINE, rows, None, gray_images)._repr_html_()
    assert text.count("<img") == 24
    assert "475 more not shown" in text
    assert "<script" not in text
    assert 'alert("' not in text


def failing(_: Sequence[Hit]) -> list[ImageArray | None]:
    raise RuntimeError("the disk is gone")


def test_a_notebook_shows_hits_whose_images_cannot_be_read() -> None:
    text = hits()._repr_html_()  # of files that do not exist
    assert text.count("no image") == 2
    text = Hits("q", Metric.COSINE, hits().rows, None, failing)._repr_html_()
    assert text.count("no image") == 2
    assert "RuntimeError: the disk is gone" in text


def test_images_are_read_by_the_reader_or_by_uri(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 100)).save(tmp_path / "a.png")
    row = Hit(1, "a", str(tmp_path / "a.png"), 0.0, {})
    (image,) = Hits("q", Metric.COSINE, (row,)).images()
    assert image is not None
    assert image.shape == (51, 1024, 3)
    (image,) = Hits("q", Metric.COSINE, (row,), None, gray_images).images()
    assert image is not None
    assert image.shape == (40, 80)


def test_a_contact_sheet_is_saved(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "q.png")
    results = Hits("q", Metric.COSINE, hits().rows, str(tmp_path / "q.png"), gray_images)
    results.save_sheet(tmp_path / "x.png")
    results.save_sheet(str(tmp_path / "x.pdf"))
    sheet = decode(tmp_path / "x.png")
    assert sheet.shape[1] > 3 * 100
    assert (np.abs(sheet.astype(int) - (255, 0, 0)).sum(axis=2) < 30).any()  # the query is on it
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(SettingError, match=r"x\.svg: a contact sheet is one of \.png, "):
        results.save_sheet(tmp_path / "x.svg")


@pytest.mark.parametrize("shape", [(8, 8), (300, 20, 3), (1000, 1500, 3), (1, 1)])
def test_inline_images_are_small_files(shape: tuple[int, ...]) -> None:
    uri = data_uri(np.zeros(shape, np.uint8), side=100)
    kind, data = re.fullmatch("data:image/(png|jpeg);base64,(.*)", uri).groups()  # type: ignore[union-attr]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert max(image.size) == min(100, max(shape[:2]))
        assert (kind == "png") == (max(image.size) <= 64)


def test_captions_of_a_grid_are_escaped_and_shortened() -> None:
    image = np.zeros((4, 4), np.uint8)
    text = grid_html([(image, 'a"><b>\nsecond'), (None, "x" * 1000), (image, "\x1b[31mred")])
    assert 'alt="a&quot;&gt;&lt;b&gt;"' in text
    assert "a&quot;&gt;&lt;b&gt;<br>second" in text
    assert "<b>" not in text
    assert "x" * 200 not in text
    assert "\x1b" not in text
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abcdefghij", 10) == "abcdefghij"
