"""What makes a hit right: a column's value, or a file of queries and their right answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation.protocols import PROTOCOLS, open_protocol
from lookalike.evaluation.relevance import GroundTruthRelevance, GroundTruthCoverage, build_relevance
from lookalike.sources import Item, ItemSource


def item(row_id: str, uri: str = "", **metadata: object) -> Item:
    return Item(row_id, uri or f"/x/{row_id}", metadata, lambda: np.zeros((2, 2), np.uint8))


def source(*items: Item, spec: str = "s") -> ItemSource:
    return ItemSource("s", spec, items)


def truth(tmp_path: Path, text: str | bytes, rows: ItemSource, queries: ItemSource) -> GroundTruthRelevance:
    path = tmp_path / "val.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = build_relevance(rows, queries, ground_truth=path)
    assert isinstance(found, GroundTruthRelevance)
    return found


ROWS = source(*(item(f"shop:{i}") for i in range(1, 6)), spec="shop.gallery")
QUERIES = source(*(item(f"val:v{i:06}.jpg") for i in range(101, 105)), spec="val")


# ---------------------------------------------------------------------------------- columns


def test_labels_judge_unless_told_otherwise() -> None:
    rows = source(item("s:1", label="a"), item("s:2", label="a"), item("s:3", label="b"))
    judge = build_relevance(rows, rows)
    asked = judge.right(rows[0])
    assert asked is not None
    assert (asked.ids, asked.relevant, asked.name) == ({"s:1", "s:2"}, 1, "a")
    assert judge.criterion.labeled
    assert judge.labels == {"s:1": "a", "s:2": "a", "s:3": "b"}
    alone = judge.right(rows[2])
    assert alone is not None
    assert (alone.relevant, alone.why_not) == (0, "")
    nameless = judge.right(item("q:1"))
    assert nameless is not None
    assert nameless.why_not == "has no label"


def test_a_column_judges_by_its_values_as_texts() -> None:
    rows = source(item("s:1", code=128512), item("s:2", code="128512"), item("s:3", label="x"))
    judge = build_relevance(rows, rows, match="code")
    assert judge.labels == {}
    assert judge.criterion.as_dict() == {"by": "match", "column": "code"}
    found = judge.right(item("q:1", code="128512"))
    assert found is not None
    assert found.ids == {"s:1", "s:2"}
    for query, said in (
        (item("q:2", label="x"), "has no code"),
        (item("q:3", code=7), "no other row has its code, '7'"),
    ):
        refused = judge.right(query)
        assert refused is not None
        assert refused.why_not == said


def test_a_row_alone_in_its_group_cannot_be_asked() -> None:
    rows = source(item("s:1", code=1), item("s:2", code=2), item("s:3", code=2))
    judge = build_relevance(rows, rows, match="code")
    why = [found.why_not for row in rows if (found := judge.right(row)) is not None]
    assert why == ["no other row has its code, '1'", "", ""]


def test_columns_that_no_row_has_are_refused() -> None:
    rows = source(item("s:1", year=1, place="x"), item("s:2", year=2))
    with pytest.raises(InputError, match=r"'yera'; its columns are year, place"):
        build_relevance(rows, rows, match="yera")
    with pytest.raises(InputError, match="has a label to judge by"):
        build_relevance(rows, rows)
    with pytest.raises(SettingError, match="cannot be combined with --ground-truth"):
        build_relevance(rows, rows, match="year", ground_truth="t.csv")


# ------------------------------------------------------------------------------------ truth


@pytest.mark.parametrize(
    "header", ["", "query,gt1,gt2\n", "Query,0,1,2\n", "ID,1\n", ",0,1\n", "photo,product\n\n"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_truth_with_and_without_a_header(header: str, end: str, tmp_path: Path) -> None:
    text = header + "v000101,3\nv000102, 1 ,2,,\n\nv000103,5,1,2,3,4\n"
    judge = truth(tmp_path, "\ufeff" + text.replace("\n", end), ROWS, QUERIES)
    assert judge.answers == {
        "val:v000101.jpg": {"shop:3"},
        "val:v000102.jpg": {"shop:1", "shop:2"},
        "val:v000103.jpg": {f"shop:{i}" for i in range(1, 6)},
    }
    use = judge.criterion.ground_truth
    assert use == GroundTruthCoverage(str(tmp_path / "val.csv"), 1, (), ())
    assert judge.right(QUERIES[3]) is None
    found = judge.right(QUERIES[1])
    assert found is not None
    assert (found.relevant, found.name) == (2, "v000102.jpg")


def test_names_with_quotes_commas_and_semicolons_between(tmp_path: Path) -> None:
    rows = source(item("s:a,b.png"), item("s:ü.png"), item('s:"q".png'))
    judge = truth(tmp_path, '"a,b";ü;"""q"""\n', rows, rows)
    assert judge.answers == {"s:a,b.png": {"s:ü.png", 's:"q".png'}}


@pytest.mark.parametrize("name", ["shop:cats/7.jpg", "cats/7.jpg", "7.jpg", "7", "K-7"])
def test_an_image_answers_to_its_id_its_key_its_file_and_its_column_id(
    name: str, tmp_path: Path
) -> None:
    rows = source(item("shop:cats/7.jpg", id="K-7"), item("shop:cats/8.jpg"))
    judge = truth(tmp_path, f"8,{name}\n", rows, rows)
    assert judge.answers == {"shop:cats/8.jpg": {"shop:cats/7.jpg"}}


def test_a_file_s_name_counts_where_the_id_is_another_but_an_address_s_end_does_not(
    tmp_path: Path,
) -> None:
    rows = source(item("m:1", "/there/red.png"), item("m:2", "https://cdn.example/1.jpg"))
    judge = truth(tmp_path, "red,2\nm:2,1\n", rows, rows)
    assert judge.answers == {"m:1": {"m:2"}, "m:2": {"m:1"}}


def test_what_only_looks_like_a_suffix_is_part_of_the_name(tmp_path: Path) -> None:
    rows = source(item("m:v1"), item("m:v1.2"))
    assert truth(tmp_path, "v1,v1.2\n", rows, rows).answers == {"m:v1": {"m:v1.2"}}


def test_numbers_of_shards_yield_to_the_column_id(tmp_path: Path) -> None:
    """As img2dataset has it: keys count from 0, and products have numbers of their own."""
    rows = source(
        item("g:00000/000000000", "/g/00000.tar#0", id="000000001"),
        item("g:00000/000000001", "/g/00000.tar#1", id="000000002"),
    )
    judge = truth(tmp_path, "g:00000/000000000,000000002\n000000002,000000001\n", rows, rows)
    assert judge.answers == {rows[0].id: {rows[1].id}, rows[1].id: {rows[0].id}}


def test_an_ambiguous_name_is_named_unless_it_is_a_whole_id(tmp_path: Path) -> None:
    rows = source(item("s:a/1.jpg"), item("s:b/1.jpg"), item("s:2.jpg"), item("1.jpg"))
    with pytest.raises(InputError) as caught:
        truth(tmp_path, "s:2.jpg,s:a/1.jpg\ns:a/1.jpg,1\n", rows, QUERIES)
    assert "val.csv, line 2: '1' may be s:a/1.jpg or s:b/1.jpg (3 of s " in str(caught.value)
    judge = truth(tmp_path, "2,1.jpg\n", rows, rows)
    assert judge.answers == {"s:2.jpg": {"1.jpg"}}
    twice = source(item("s:1", id="x"), item("s:2", id="x"))
    with pytest.raises(InputError, match="'x' may be s:1 or s:2"):
        truth(tmp_path, "s:1,x\n", twice, twice)


def test_what_is_named_and_not_there_is_listed_and_left_out(tmp_path: Path) -> None:
    text = "v000101,1,77\nv000102,88,99\nv000103\nv000999,1\nv000998,77\n"
    judge = truth(tmp_path, text, ROWS, QUERIES)
    right = {query.id: judge.right(query) for query in QUERIES}
    assert right["val:v000104.jpg"] is None
    one = right["val:v000101.jpg"]
    assert one is not None
    assert one.ids == {"shop:1"}
    why = [found.why_not for found in right.values() if found is not None]
    assert why == [
        "",
        "its right answers are not in the gallery: 88, 99",
        "the truth names no right answer",
    ]
    use = judge.criterion.ground_truth
    assert use is not None
    assert use.unknown_queries == ("v000999", "v000998")
    assert use.unknown_rows == ("77", "88", "99")
    assert [note.partition("val.csv")[2] for note in use.notes()] == [
        " does not name 1 of the queries: left out",
        ": 2 of its queries are not in the source: v000999, v000998",
        ": 3 of its right answers are not in the gallery: 77, 88, 99",
    ]


def test_a_query_never_is_its_own_right_answer(tmp_path: Path) -> None:
    judge = truth(tmp_path, "1,1,2\n3,3\n", ROWS, ROWS)
    both, alone = judge.right(ROWS[0]), judge.right(ROWS[2])
    assert both is not None
    assert (both.relevant, "shop:2" in both.ids) == (1, True)
    assert alone is not None
    assert alone.why_not == "the truth names no other row than itself"


def test_lines_of_one_query_add_up_and_duplicates_in_the_gallery_are_both_right(
    tmp_path: Path,
) -> None:
    judge = truth(tmp_path, "v000101,1\nv000101.jpg,2,2\n", ROWS, QUERIES)
    found = judge.right(QUERIES[0])
    assert found is not None
    assert (found.ids, found.relevant) == ({"shop:1", "shop:2"}, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "val.csv: is empty"),
        ("\n \n,,\n", "val.csv: is empty"),
        ("query,gt1\n", "names none of the 4 queries of val; it has a header only"),
        ("v000101\nv000102\n", "val.csv: has one column only"),
        ("v000101,1\n,2\n", "val.csv, line 2: names no query"),
        ("x1,1\nx2,2\n", "names none of the 4 queries of val; its first is 'x1', the source's is"),
        ('v000101,"1\nv000102,2\n', "broken CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0", "val.csv: is not UTF-8 text; expected CSV"),
        (b"PK\3\4\0\0\0", "val.csv: is not text; expected CSV"),
    ],
)
def test_files_that_are_no_truth_are_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        truth(tmp_path, text, ROWS, QUERIES)
    assert said in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        build_relevance(ROWS, QUERIES, ground_truth=tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        build_relevance(ROWS, QUERIES, ground_truth=tmp_path)
    with pytest.raises(InputError, match="has no rows"):
        truth(tmp_path, "v000101,1\n", source(), QUERIES)


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
    with pytest.raises(SettingError, match="-n 5 cannot be combined with --protocol perfect-500k"):
        protocol.check(5, "val.csv")
    with pytest.raises(SettingError, match="needs --ground-truth FILE"):
        protocol.check(None, None)
