"""Relevance by label, by column and by ground-truth file; evaluation protocols."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation.protocols import PROTOCOLS, open_protocol
from lookalike.evaluation.relevance import (
    GroundTruthCoverage,
    GroundTruthRelevance,
    build_relevance,
    mark_correct,
)
from lookalike.sources import Item, ItemSource
from lookalike.types import Hit


def item(row_id: str, uri: str = "", **metadata: object) -> Item:
    return Item(row_id, uri or f"/x/{row_id}", metadata, lambda: np.zeros((2, 2), np.uint8))


def source(*items: Item, spec: str = "s") -> ItemSource:
    return ItemSource("s", spec, items)


def ground_truth(
    tmp_path: Path, text: str | bytes, rows: ItemSource, queries: ItemSource
) -> GroundTruthRelevance:
    path = tmp_path / "val.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    relevance = build_relevance(rows, queries, ground_truth=path)
    assert isinstance(relevance, GroundTruthRelevance)
    return relevance


ROWS = source(*(item(f"shop:{i}") for i in range(1, 6)), spec="shop.gallery")
QUERIES = source(*(item(f"val:v{i:06}.jpg") for i in range(101, 105)), spec="val")


# ---------------------------------------------------------------------------------- columns


def test_relevance_is_by_label_by_default() -> None:
    rows = source(item("s:1", label="a"), item("s:2", label="a"), item("s:3", label="b"))
    relevance = build_relevance(rows, rows)
    relevant = relevance.relevant(rows[0])
    assert relevant is not None
    assert (relevant.ids, relevant.count, relevant.name) == (frozenset({"s:1", "s:2"}), 1, "a")
    assert relevance.criterion.labeled
    assert relevance.labels == {"s:1": "a", "s:2": "a", "s:3": "b"}
    single = relevance.relevant(rows[2])
    assert single is not None
    assert (single.skip_reason, single.irrelevant) == ("no other row has its label, 'b'", True)
    unlabeled = relevance.relevant(item("q:1"))
    assert unlabeled is not None
    assert (unlabeled.skip_reason, unlabeled.irrelevant) == ("has no label", False)


def test_rows_that_share_one_of_several_labels_are_relevant() -> None:
    labels = ["a; b", "b", ["c", "a"], "unknown", "", "c"]
    rows = source(*(item(f"s:{i}", label=each) for i, each in enumerate(labels)))
    relevance = build_relevance(rows, rows)
    relevant = relevance.relevant(rows[0])
    assert relevant is not None
    assert relevant.ids == {"s:0", "s:1", "s:2"}
    assert (relevant.count, relevant.name) == (2, "a;b")
    assert relevance.labels == {"s:0": "a;b", "s:1": "b", "s:2": "a;c", "s:5": "c"}
    hits = [Hit(1, row.id, row.uri, 0.5, row.metadata) for row in rows]
    assert mark_correct(hits, "a;b") == (True, True, True, None, None, False)
    assert mark_correct(hits, "unknown") == (None,) * 6


def test_labels_of_a_file_replace_those_of_the_metadata(tmp_path: Path) -> None:
    rows = source(*(item(f"s:{i}", label="x") for i in range(4)))
    queries = source(item("q:1"), item("q:2"), spec="queries")
    path = tmp_path / "labels.csv"
    path.write_text("id,label\ns:0,a\ns:1,a\ns:2,b\nq:1,a\nq:2,unknown\n")
    relevance = build_relevance(rows, queries, labels=path)
    first, second = relevance.relevant(queries[0]), relevance.relevant(queries[1])
    assert first is not None
    assert second is not None
    assert first.ids == {"s:0", "s:1"}
    assert second.skip_reason == "has no label"
    with pytest.raises(SettingError, match=r"labels cannot be combined with match=x"):
        build_relevance(rows, queries, labels=path, match="x")
    with pytest.raises(InputError, match="labels: no row has a label"):
        build_relevance(rows, queries, labels={"q:1": "a"})


def test_rows_are_left_out_of_a_relevant_set() -> None:
    rows = source(*(item(f"s:{number}", label="a") for number in range(4)))
    relevant = build_relevance(rows, rows).relevant(rows[0])
    assert relevant is not None
    assert relevant.without(frozenset()) == relevant
    fewer = relevant.without(frozenset({"s:1", "other:1"}))
    assert (fewer.ids, fewer.count) == (frozenset({"s:0", "s:2", "s:3"}), 2)
    none = relevant.without(frozenset({"s:1", "s:2", "s:3"}))
    assert (none.skip_reason, none.irrelevant) == ("its relevant rows are duplicates of it", True)


def test_values_of_a_column_are_compared_as_strings() -> None:
    rows = source(item("s:1", code=128512), item("s:2", code="128512"), item("s:3", label="x"))
    relevance = build_relevance(rows, rows, match="code")
    assert relevance.labels == {}
    assert relevance.criterion.as_dict() == {"by": "match", "column": "code"}
    relevant = relevance.relevant(item("q:1", code="128512"))
    assert relevant is not None
    assert relevant.ids == {"s:1", "s:2"}
    for query, reason in (
        (item("q:2", label="x"), "has no code"),
        (item("q:3", code=7), "no other row has its code, '7'"),
    ):
        skipped = relevance.relevant(query)
        assert skipped is not None
        assert skipped.skip_reason == reason


def test_a_query_without_another_row_in_its_group_is_skipped() -> None:
    rows = source(item("s:1", code=1), item("s:2", code=2), item("s:3", code=2))
    relevance = build_relevance(rows, rows, match="code")
    sets = [relevance.relevant(row) for row in rows]
    assert [each and each.skip_reason for each in sets] == [
        "no other row has its code, '1'",
        "",
        "",
    ]


def test_columns_without_values_are_refused() -> None:
    rows = source(item("s:1", year=1, place="x"), item("s:2", year=2))
    with pytest.raises(
        InputError, match=r"no values in column 'yera' among 2 rows; columns: year, place"
    ):
        build_relevance(rows, rows, match="yera")
    with pytest.raises(InputError, match=r"no labels among 2 rows.*by match or ground_truth"):
        build_relevance(rows, rows)
    with pytest.raises(SettingError, match="match=year cannot be combined"):
        build_relevance(rows, rows, match="year", ground_truth="t.csv")


# ----------------------------------------------------------------------------- ground truth


@pytest.mark.parametrize(
    "header", ["", "query,gt1,gt2\n", "Query,0,1,2\n", "ID,1\n", ",0,1\n", "photo,product\n\n"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ground_truth_with_and_without_a_header(header: str, end: str, tmp_path: Path) -> None:
    text = header + "v000101,3\nv000102, 1 ,2,,\n\nv000103,5,1,2,3,4\n"
    relevance = ground_truth(tmp_path, "\ufeff" + text.replace("\n", end), ROWS, QUERIES)
    assert relevance.ids == {
        "val:v000101.jpg": {"shop:3"},
        "val:v000102.jpg": {"shop:1", "shop:2"},
        "val:v000103.jpg": {f"shop:{i}" for i in range(1, 6)},
    }
    coverage = relevance.criterion.ground_truth
    assert coverage == GroundTruthCoverage(str(tmp_path / "val.csv"), 1, (), ())
    assert relevance.relevant(QUERIES[3]) is None
    relevant = relevance.relevant(QUERIES[1])
    assert relevant is not None
    assert (relevant.count, relevant.name) == (2, "v000102.jpg")


def test_names_with_quotes_commas_and_semicolons_between(tmp_path: Path) -> None:
    rows = source(item("s:a,b.png"), item("s:ü.png"), item('s:"q".png'))
    relevance = ground_truth(tmp_path, '"a,b";ü;"""q"""\n', rows, rows)
    assert relevance.ids == {"s:a,b.png": {"s:ü.png", 's:"q".png'}}


@pytest.mark.parametrize("name", ["shop:cats/7.jpg", "cats/7.jpg", "7.jpg", "7", "K-7"])
def test_names_are_resolved_by_id_key_file_name_and_column_id(name: str, tmp_path: Path) -> None:
    rows = source(item("shop:cats/7.jpg", id="K-7"), item("shop:cats/8.jpg"))
    relevance = ground_truth(tmp_path, f"8,{name}\n", rows, rows)
    assert relevance.ids == {"shop:cats/8.jpg": {"shop:cats/7.jpg"}}


def test_file_names_of_paths_are_resolved_but_not_of_urls(
    tmp_path: Path,
) -> None:
    rows = source(item("m:1", "/photos/red.png"), item("m:2", "https://cdn.example/1.jpg"))
    relevance = ground_truth(tmp_path, "red,2\nm:2,1\n", rows, rows)
    assert relevance.ids == {"m:1": {"m:2"}, "m:2": {"m:1"}}


def test_only_image_suffixes_may_be_left_out(tmp_path: Path) -> None:
    rows = source(item("m:v1"), item("m:v1.2"))
    assert ground_truth(tmp_path, "v1,v1.2\n", rows, rows).ids == {"m:v1": {"m:v1.2"}}


def test_the_column_id_precedes_shard_keys(tmp_path: Path) -> None:
    """In shards of img2dataset, keys count from 0, and products have numbers of their own."""
    rows = source(
        item("g:00000/000000000", "/g/00000.tar#0", id="000000001"),
        item("g:00000/000000001", "/g/00000.tar#1", id="000000002"),
    )
    relevance = ground_truth(
        tmp_path, "g:00000/000000000,000000002\n000000002,000000001\n", rows, rows
    )
    assert relevance.ids == {rows[0].id: {rows[1].id}, rows[1].id: {rows[0].id}}


def test_names_match_in_other_spellings_last(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    rows = source(item(f"s:a/{decomposed}"), item("s:b.jpg"))
    relevance = ground_truth(tmp_path, f"b.jpg,a\\{composed}\n", rows, rows)
    assert relevance.ids == {"s:b.jpg": {f"s:a/{decomposed}"}}
    both = source(item(f"s:{composed}"), item(f"s:{decomposed}"))
    relevance = ground_truth(tmp_path, f"{composed},{decomposed}\n", both, both)
    assert relevance.ids == {f"s:{composed}": {f"s:{decomposed}"}}


def test_an_ambiguous_name_is_refused_unless_it_is_a_full_id(tmp_path: Path) -> None:
    rows = source(item("s:a/1.jpg"), item("s:b/1.jpg"), item("s:2.jpg"), item("1.jpg"))
    with pytest.raises(InputError) as caught:
        ground_truth(tmp_path, "s:2.jpg,s:a/1.jpg\ns:a/1.jpg,1\n", rows, QUERIES)
    assert "val.csv, line 2: '1' is ambiguous: s:a/1.jpg or s:b/1.jpg (3 matches in s)" in str(
        caught.value
    )
    relevance = ground_truth(tmp_path, "2,1.jpg\n", rows, rows)
    assert relevance.ids == {"s:2.jpg": {"1.jpg"}}
    twice = source(item("s:1", id="x"), item("s:2", id="x"))
    with pytest.raises(InputError, match="'x' is ambiguous: s:1 or s:2"):
        ground_truth(tmp_path, "s:1,x\n", twice, twice)


def test_unknown_names_are_listed_and_left_out(tmp_path: Path) -> None:
    text = "v000101,1,77\nv000102,88,99\nv000103\nv000999,1\nv000998,77\n"
    relevance = ground_truth(tmp_path, text, ROWS, QUERIES)
    sets = {query.id: relevance.relevant(query) for query in QUERIES}
    assert sets["val:v000104.jpg"] is None
    first = sets["val:v000101.jpg"]
    assert first is not None
    assert first.ids == {"shop:1"}
    assert [relevant.skip_reason for relevant in sets.values() if relevant is not None] == [
        "",
        "its relevant rows are not in the gallery: 88, 99",
        "the ground truth lists no relevant row",
    ]
    coverage = relevance.criterion.ground_truth
    assert coverage is not None
    assert coverage.unknown_queries == ("v000999", "v000998")
    assert coverage.unknown_rows == ("77", "88", "99")
    assert [note.partition("val.csv")[2] for note in coverage.notes()] == [
        ": 1 query left out, not listed in the file",
        ": 2 queries are not in the source: v000999, v000998",
        ": 3 relevant rows are not in the gallery: 77, 88, 99",
    ]


def test_a_query_is_not_relevant_to_itself(tmp_path: Path) -> None:
    relevance = ground_truth(tmp_path, "1,1,2\n3,3\n", ROWS, ROWS)
    two, one = relevance.relevant(ROWS[0]), relevance.relevant(ROWS[2])
    assert two is not None
    assert (two.count, "shop:2" in two.ids) == (1, True)
    assert one is not None
    assert one.skip_reason == "the ground truth lists no row but the query itself"


def test_lines_of_one_query_are_merged(
    tmp_path: Path,
) -> None:
    relevance = ground_truth(tmp_path, "v000101,1\nv000101.jpg,2,2\n", ROWS, QUERIES)
    relevant = relevance.relevant(QUERIES[0])
    assert relevant is not None
    assert (relevant.ids, relevant.count) == (frozenset({"shop:1", "shop:2"}), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "val.csv: empty"),
        ("\n \n,,\n", "val.csv: empty"),
        ("query,gt1\n", "lists none of the 4 queries of val; it has only a header"),
        ("v000101\nv000102\n", "val.csv: only one column"),
        ("v000101,1\n,2\n", "val.csv, line 2: no query"),
        ("x1,1\nx2,2\n", "lists none of the 4 queries of val; its first is 'x1', the source's is"),
        ('v000101,"1\nv000102,2\n', "val.csv, line 1: has a quoted text that is not closed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "val.csv, line 1: is not UTF-8 text"),
        (b"PK\3\4\0\0\0", "val.csv, line 1: is not text; expected CSV"),
    ],
)
def test_damaged_ground_truth_files_are_refused(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        ground_truth(tmp_path, text, ROWS, QUERIES)
    assert message in str(caught.value)


def test_unreadable_ground_truth_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        build_relevance(ROWS, QUERIES, ground_truth=tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read \(is a folder"):
        build_relevance(ROWS, QUERIES, ground_truth=tmp_path)
    with pytest.raises(InputError, match="no rows to search"):
        ground_truth(tmp_path, "v000101,1\n", source(), QUERIES)


# -------------------------------------------------------------------------------- protocols


def test_protocols_are_opened_by_name() -> None:
    protocol = open_protocol("perfect-500k")
    assert protocol.k == 7
    assert set(protocol.as_dict()) == {"name", "k", "summary", "source"}
    assert all(name == each.name for name, each in PROTOCOLS.items())
    with pytest.raises(UnknownNameError, match="did you mean 'perfect-500k'"):
        open_protocol("perfect500k")


def test_settings_that_contradict_a_protocol_are_refused() -> None:
    protocol = open_protocol("perfect-500k")
    protocol.check(None, "val.csv")
    protocol.check(7, "val.csv")
    with pytest.raises(
        SettingError, match="k=5 contradicts protocol=perfect-500k, which counts 7 results"
    ):
        protocol.check(5, "val.csv")
    with pytest.raises(SettingError, match="protocol=perfect-500k needs ground_truth"):
        protocol.check(None, None)
