"""Whatever reads a gallery several times reads one version of it, while another process writes.

Before each read of rows, a writer adds a row whose id sorts first, so that the numbers of all other
rows change, and changes the last row; or it restores both. The results must be those of the version
that was there at the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lookalike as la
from lookalike.explore import build_map, find_duplicates
from lookalike.explore.page import html
from lookalike.gallery.export import export
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.labels import propagate, rank_labels, suggest
from lookalike.sources.labels import labels_of_items
from lookalike.stores.base import Rows
from lookalike.stores.embedded.snapshot import EmbeddedSnapshot

READS = (
    "search",
    "ids",
    "columns",
    "records",
    "rows",
    "embeddings",
    "row_index",
    "row_numbers",
    "get",
    "count",
    "sample",
    "facets",
)
MAX_WRITES = 12


class Writer:
    """Changes the rows and restores them by turns, in another instance of the gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = Gallery.open(gallery.path)
        self.last = gallery.store.get(list(gallery.store.ids())[-1:])
        self.writes = 0
        self.is_writing = False

    def write(self) -> None:
        if self.is_writing or self.writes >= MAX_WRITES:
            return
        self.is_writing = True
        try:
            if self.writes % 2:
                self.restore()
            else:
                embeddings = np.ones((2, self.gallery.store.dim), np.float32)
                metadata = [{"label": "other"}] * 2
                rows = Rows(["a:0", *self.last.ids], ["/"] * 2, embeddings, metadata, ["h"] * 2)
                self.gallery.upsert(rows, fingerprint=self.gallery.fingerprint)
            self.writes += 1
        finally:
            self.is_writing = False

    def restore(self) -> None:
        self.gallery.upsert(self.last, fingerprint=self.gallery.fingerprint)
        if "a:0" in self.gallery:
            self.gallery.remove(["a:0"])


@pytest.fixture
def labeled(gallery: Gallery) -> Gallery:
    """Forty images with a word each, and the labels of digits."""
    gallery.remove(list(gallery.store.ids())[40:])
    rows = gallery.store.get(gallery.store.ids())
    metadata = [
        {**fields, "word": f"token{place:02}"} for place, fields in enumerate(rows.metadata)
    ]
    gallery.upsert(replace(rows, metadata=metadata), fingerprint=gallery.fingerprint)
    return gallery


@pytest.fixture
def between_reads(labeled: Gallery, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs work with a write before each read, and its result."""
    writer = Writer(labeled)

    def run(work: Callable[[], Any]) -> Any:
        def hooked(original: Callable[..., Any]) -> Callable[..., Any]:
            def read(self: EmbeddedSnapshot, *arguments: Any, **options: Any) -> Any:
                writer.write()
                return original(self, *arguments, **options)

            return read

        writer.writes = 0
        with monkeypatch.context() as patch:
            for name in READS:
                patch.setattr(EmbeddedSnapshot, name, hooked(getattr(EmbeddedSnapshot, name)))
            result = work()
        assert writer.writes > 1
        writer.restore()
        return result

    return run


def test_searches(labeled: Gallery, between_reads: Callable[..., Any]) -> None:
    ids = list(labeled.store.ids())
    searches: list[dict[str, Any]] = [
        {"keywords": "token07"},
        {"keywords": "token07 token09", "where": "word != 'token09'"},
        {"id": ids[3], "keywords": "token07", "where": "word like 'token__'", "rerank": "aqe+dba"},
        {"id": ids[3], "rerank": "k-reciprocal+diffusion", "k": 30},
    ]
    expected = [labeled.search(**options) for options in searches]
    assert expected[0].rows[0].id == ids[7]
    for options, hits in zip(searches, expected, strict=True):
        assert between_reads(lambda options=options: labeled.search(**options)) == hits


def graph_facts(gallery: Gallery) -> list[Any]:
    graph = neighbor_graph(gallery)
    return [graph.ids, graph.rows.tolist(), graph.distances.tolist(), graph.embeddings[:].tolist()]


def label_facts(gallery: Gallery) -> list[Any]:
    gallery = gallery.snapshot()
    graph = neighbor_graph(gallery)
    records = list(gallery.store.records())
    labels = labels_of_items("labels", records)
    issues = rank_labels(graph, labels)
    few = replace(labels, by_id=dict([*labels.by_id.items()][:25]))
    return [
        [*propagate(graph, few).rows()],
        issues.as_dict(),
        suggest(graph, 5, few),
    ]


def map_facts(gallery: Gallery) -> list[Any]:
    view = gallery.snapshot()
    result = build_map(view, fresh=True)
    facts = result.as_dict()
    del facts["created_at"], facts["revision"], facts["changes"], facts["stale"]
    page = html(result, view, thumbnails=8)
    return [facts, page.count("base64"), len(json.loads(json.dumps(facts))["ids"])]


def evaluation_facts(gallery: Gallery) -> dict[str, Any]:
    evaluation = la.evaluate(gallery, k=5, variants="aqe")
    facts = json.loads(json.dumps(evaluation.as_dict()))

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if "ms" not in k and k != "at"}
        return [without_times(each) for each in value] if isinstance(value, list) else value

    result: dict[str, Any] = without_times(facts)
    return result


def duplicate_facts(gallery: Gallery) -> dict[str, Any]:
    return find_duplicates(gallery, max_distance=1.0).as_dict()


def facet_facts(gallery: Gallery) -> list[Any]:
    view = gallery.snapshot().store
    columns = view.columns()
    codes = columns.encoded("word").codes.tolist()
    sample = view.sample(20, 1)
    return [view.facets(), codes, list(view.ids()), sample.ids, view.get(view.ids()).ids]


@pytest.mark.parametrize(
    "work", [graph_facts, map_facts, evaluation_facts, duplicate_facts, facet_facts, label_facts]
)
def test_the_result_is_that_of_one_version(
    work: Callable[[Gallery], Any], labeled: Gallery, between_reads: Callable[..., Any]
) -> None:
    expected = work(labeled)
    assert between_reads(lambda: work(labeled)) == expected


def test_an_export_is_of_one_version(
    labeled: Gallery, between_reads: Callable[..., Any], tmp_path: Any
) -> None:
    import pyarrow.parquet as pq

    ids = list(labeled.store.ids())
    assert between_reads(lambda: export(labeled, tmp_path / "rows.parquet")) == len(ids)
    assert sorted(pq.read_table(tmp_path / "rows.parquet")["id"].to_pylist()) == ids
