"""Label files: one reader, so that one file gives the same classes to every command."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import lookalike as la
from lookalike.cli.train import _labels
from lookalike.errors import InputError
from lookalike.evaluation.agreement import LabelJudgements, read_judgements
from lookalike.evaluation.model_selection import OWN, _judgements
from lookalike.evaluation.relevance import build_relevance
from lookalike.labels import LabelSet, read_labels, split_labels
from lookalike.labels.gallery_labels import gallery_labels
from lookalike.sources import Item, ItemSource

IDS = [f"photos:{kind}/{number}.jpg" for kind in ("cat", "dog", "sky") for number in range(12)]
SOURCE = ItemSource(
    "photos", "photos", [Item(i, i, {}, lambda: np.zeros((2, 2), np.uint8)) for i in IDS]
)

ODD = {4: "", 5: "unknown", 6: " b; a ;", 7: "a;b", 8: "007", 9: "2.50", 10: "=1+1", 11: "true"}
"""The cells of some rows; those of others are ``cat``, ``dog`` and ``sky``."""

CELLS = {i: ODD.get(number, i[7:10]) for number, i in enumerate(IDS)}
EXPECTED = {
    **{i: (cell,) for i, cell in CELLS.items() if cell not in ("", "unknown")},
    IDS[6]: ("a", "b"),
    IDS[7]: ("a", "b"),
}


def as_text(separator: str, escape: str = "") -> str:
    def quoted(cell: str) -> str:
        return f'"{cell}"' if separator in cell else escape + cell if cell[:1] == "=" else cell

    rows = [f"{i}{separator}{quoted(cell)}" for i, cell in CELLS.items()]
    return "\n".join([f"id{separator}label", *rows]) + "\n"


def write_table(path: Path, kind: str) -> Path:
    """Write the labels in a format, and return the file."""
    texts = {
        "comma": as_text(","),
        "semicolon": as_text(";"),
        "tab": as_text("\t"),
        "spaces": as_text(",").replace(",", " , "),
        "escaped": as_text(",", "'"),
        "columns": as_text(",").replace("id,label", "note, Path ,Label").replace("\nph", "\nx,ph"),
        "lines": as_text(",").replace("\n", "\r\n"),
        "blank lines": as_text(",").replace("\n", "\n\n"),
        "keys": as_text(",").replace("photos:", ""),
        "jsonl": "\n".join(json.dumps({"id": i, "label": cell}) for i, cell in CELLS.items()),
        "json": json.dumps([{"id": i, "label": cell} for i, cell in CELLS.items()]),
        "lists": json.dumps([{"image": i, "labels": cell.split(";")} for i, cell in CELLS.items()]),
    }
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        parquet.write_table(pa.table({"id": list(CELLS), "label": list(CELLS.values())}), path)
        return path
    suffix = {"tab": ".tsv", "jsonl": ".jsonl", "json": ".json", "lists": ".json"}.get(kind, ".csv")
    encoding = {"mark": "utf-8-sig", "utf-16": "utf-16"}.get(kind, "utf-8")
    path = path.with_suffix(suffix)
    path.write_text(texts.get(kind, texts["comma"]), encoding=encoding, newline="")
    return path


def of_choose(path: Path) -> Mapping[str, tuple[str, ...]]:
    judgements = read_judgements(path, IDS)
    assert isinstance(judgements, LabelJudgements)
    return judgements.labels.by_id


def of_train(path: Path) -> Mapping[str, tuple[str, ...]]:
    labels = _labels(str(path), SOURCE)
    assert labels is not None
    return labels.by_id


def of_evaluate(path: Path) -> Mapping[str, tuple[str, ...]]:
    relevance = build_relevance(SOURCE, SOURCE, labels=path)
    labels = {row_id: split_labels(text) for row_id, text in relevance.labels.items()}
    sharing = {i for i in IDS if i in labels and set(labels[i]) & {"a", "b"}}
    of_row = relevance.relevant(SOURCE[6])
    assert of_row is not None
    assert of_row.ids == sharing
    return labels


READERS: Mapping[str, Callable[[Path], Mapping[str, tuple[str, ...]]]] = {
    "label": lambda path: read_labels(path, IDS).by_id,
    "choose": of_choose,
    "train": of_train,
    "evaluate": of_evaluate,
}
FORMATS = (
    *("comma", "semicolon", "tab", "spaces", "escaped", "columns", "lines", "blank lines", "keys"),
    *("mark", "utf-16", "jsonl", "json", "lists", "parquet"),
)


@pytest.mark.parametrize("kind", FORMATS)
def test_one_file_has_the_same_classes_in_every_command(kind: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "labels", kind)
    for command, read in READERS.items():
        assert read(path) == EXPECTED, command


def test_an_evaluation_has_the_classes_of_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(len(IDS), 4))
    gallery = la.Gallery.from_embeddings(values, ids=IDS)
    path = write_table(tmp_path / "labels", "semicolon")
    result = la.evaluate(gallery, labels=path, progress=False)
    assert result.gallery_labels == Counter(";".join(labels) for labels in EXPECTED.values())


def test_labels_in_the_metadata_follow_the_same_rules() -> None:
    values = np.random.default_rng(0).normal(size=(len(IDS), 4))
    metadata = [{"label": cell} for cell in CELLS.values()]
    gallery = la.Gallery.from_embeddings(values, ids=IDS, metadata=metadata)
    assert gallery_labels(gallery).by_id == EXPECTED
    rows = gallery.items()
    relevance = build_relevance(rows, rows)
    assert {i: split_labels(text) for i, text in relevance.labels.items()} == EXPECTED
    judgements = _judgements(rows, OWN)
    assert isinstance(judgements, LabelJudgements)
    assert judgements.labels.by_id == EXPECTED


@pytest.mark.parametrize(
    "source",
    [
        CELLS,
        {i: cell.split(";") for i, cell in CELLS.items()},
        pd.Series(CELLS),
        pd.DataFrame({"id": list(CELLS), "label": list(CELLS.values())}),
        pd.DataFrame({"label": CELLS}),
        LabelSet("mine", EXPECTED),
        read_labels(CELLS).to_pandas(),
    ],
    ids=["mapping", "lists", "series", "frame", "index", "set", "own"],
)
def test_labels_in_memory_are_those_of_a_file(source: object) -> None:
    assert read_labels(source, IDS).by_id == EXPECTED
    assert read_labels(source).by_id == EXPECTED


def test_values_are_split_into_labels() -> None:
    assert split_labels(" b; a ;b;; unknown") == ("a", "b")
    for missing in ("unknown", "", " ", None, float("nan"), pd.NA, pd.NaT, [], [None]):
        assert split_labels(missing) == ()
    assert split_labels(3) == split_labels(3.0) == split_labels(np.int64(3)) == ("3",)
    assert split_labels(2.5) == ("2.5",)
    assert split_labels(["b;a", 1]) == split_labels(np.array(["b", "a", "1"])) == ("1", "a", "b")


def test_numbers_with_gaps_are_no_fractions() -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "label": [3, None]})
    assert frame.label.dtype == np.float64
    assert read_labels(frame).by_id == {"a": ("3",)}


def test_propagated_labels_are_not_read_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,label,status\na,x,labeled\nb,x,propagated\nc,unknown,unknown\n")
    assert read_labels(path, list("abc")).by_id == {"a": ("x",)}
    assert read_labels(pd.read_csv(path), list("abc")).by_id == {"a": ("x",)}


def test_images_are_named_as_in_a_file_of_ground_truth() -> None:
    ids = ["photos:cats/1.jpg", "photos:cats/2.jpg", "photos:dogs/1.jpg", "own:7"]
    names = {"photos:cats/1.jpg": "a", "cats/2.jpg": "b", "dogs\\1.jpg": "c", "7": "d"}
    expected = dict(zip(ids, [("a",), ("b",), ("c",), ("d",)], strict=True))
    assert read_labels(names, ids).by_id == expected
    assert read_labels({"2": "b"}, ids).by_id == {"photos:cats/2.jpg": ("b",)}
    with pytest.raises(InputError, match=r"labels: '1.jpg' is ambiguous: photos:cats/1.jpg or "):
        read_labels({"1.jpg": "a"}, ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\nabx,1\n", "line 2: no image has the id 'abx'; did you mean 'ab"),
        ("id,label\nabc,1\nabc,2\n", "line 3: abc has the label '2' here and '1' above"),
        ("id,label\n\nabc,1\n\nabc,2\n", "line 5: abc has the label '2' here"),
        ("name,label\nabc,1\n", "line 1: the columns are label, name; expected id (or path, or"),
        ("", "line 1: expected a header with the names of the columns"),
        ("id,label,status\nabc,1,spread\n", "line 2: unknown status 'spread'; expected labeled, "),
        ("id,label\nabc,1\nabd,1,2\n", "line 3: has 3 columns, the header has 2"),
        ("id,label\n,1\n", "line 2: has a label but no id"),
        ("id,label\nabc,\udce9\n", "line 2: is not UTF-8 text"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as raised:
        read_labels(path, ["abc", "abd"])
    assert str(raised.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "labels: expected a path of a label file, a mapping of ids to labels, a pandas Series"),
        (["a", "b"], "labels: expected a path of a label file"),
        ({1.5: "a"}, "labels: the id of an image must be text, got 1.5"),
        ({"abc": {"label": "a"}}, "labels: the label of abc must be text, a number, or a list"),
        ({"x": "a"}, "labels: no image has the id 'x'"),
        (pd.DataFrame({"id": ["abc"]}), "labels: the columns are id; expected id"),
        (pd.DataFrame({"label": ["a"]}), "labels: the columns are label; expected id"),
        (pd.DataFrame({"id": ["abc", "q"], "label": "a"}), "labels, row 2: no image has the id 'q"),
        ("none.csv", "none.csv: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_label_set_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_labels(source, ["abc", "abd"])
    assert str(raised.value).startswith(message)


def test_a_table_with_other_columns_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"name": "abc", "label": "a"}\n')
    with pytest.raises(InputError, match=r"labels.jsonl: the columns are label, name; expected"):
        read_labels(path)


def test_files_that_are_larger_than_the_memory_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n")
    os.truncate(path, 1 << 40)
    for read in READERS.values():
        with pytest.raises(InputError, match=r"labels.csv: may need .* GB of memory"):
            read(path)


def test_a_label_set_has_a_short_repr() -> None:
    labels = read_labels({f"x:{i}": str(i % 7) for i in range(1000)})
    assert repr(labels) == "<LabelSet 'labels': 1,000 labeled images, 7 labels>"
    assert labels.counts["0"] == 143
