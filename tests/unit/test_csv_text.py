"""CSV files: no cell is a formula, and what is read again is what was written."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.csv_text import csv_bytes, escape_cell, unescape_cell
from lookalike.evaluation.ground_truth import GroundTruthLine, read_ground_truth
from lookalike.labels import read_labels

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "'=1", "＝1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_texts(text: str) -> None:
    cell = escape_cell(text)
    assert cell == f"'{text}"
    assert unescape_cell(cell) == text


@pytest.mark.parametrize(
    "text", ["-1.5", "+3", "-1e-05", "-.5", "1", "", "cat", "a=b", "'quoted'", "it's", "'"]
)
def test_numbers_and_other_texts_are_unchanged(text: str) -> None:
    assert escape_cell(text) == text
    assert unescape_cell(text) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text() | st.sampled_from(FORMULAS), min_size=2, max_size=2)))
def test_what_is_read_again_is_what_was_written(rows: list[list[str]]) -> None:
    text = csv_bytes(("a", "b"), rows).decode()
    read = list(csv.reader(StringIO(text, newline="")))
    assert [[unescape_cell(cell) for cell in row] for row in read] == [["a", "b"], *rows]
    cells = [cell for row in read for cell in row]
    risky = [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    for cell in risky:
        float(cell)


def test_labels_and_ground_truth_of_odd_ids_are_read_again(tmp_path: Path) -> None:
    ids = ["=1+1:a.png", "+x:b.png", "'-x:c.png"]
    path = tmp_path / "labels.csv"
    path.write_bytes(csv_bytes(("id", "label"), [(each, f"@{each}") for each in ids]))
    assert "'=1+1:a.png,'@=1+1:a.png" in path.read_text()
    assert read_labels(path, ids).by_id == {each: (f"@{each}",) for each in ids}
    path.write_bytes(csv_bytes((ids[0], ids[1]), [(ids[1], ids[2])]))
    assert read_ground_truth(path) == [
        GroundTruthLine(1, ids[0], (ids[1],)),
        GroundTruthLine(2, ids[1], (ids[2],)),
    ]


def test_labels_of_ids_with_line_ends_are_read_again(tmp_path: Path) -> None:
    ids = ["photos:a\rb.jpg", "photos:a\nb.jpg", "photos:a\r\nb.jpg"]
    path = tmp_path / "labels.csv"
    path.write_bytes(csv_bytes(("id", "label"), [(each, "x") for each in ids]))
    assert read_labels(path, ids).by_id == dict.fromkeys(ids, ("x",))
    path.write_bytes(b"id,label\ra,x\rb,y\r")  # as old spreadsheets write it
    assert read_labels(path, ["a", "b"]).by_id == {"a": ("x",), "b": ("y",)}
