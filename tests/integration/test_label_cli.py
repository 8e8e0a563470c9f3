"""lookalike label, from the first suggestions to labels in the metadata."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from tests.integration.test_cli import lookalike, run

SOURCE = "dataset:digits/train"
TRUTH = {item.id: str(item.metadata["label"]) for item in open_source(SOURCE)}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path) -> None:
    rows = [{**row, "label": TRUTH[row["id"]]} for row in table(path)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of digits, of which the hundred suggested are labeled."""
    folder = tmp_path_factory.mktemp("label")
    run("index", "d.gallery", SOURCE, "--encoder", "pixels", cwd=folder)
    run("label", "suggest", "d.gallery", "-k", 100, "-o", "first", cwd=folder)
    fill_in(folder / "first" / "labels.csv")
    return folder


def test_suggestions_are_a_csv_and_a_contact_sheet(work: Path) -> None:
    rows = table(work / "first" / "labels.csv")
    assert len({row["id"] for row in rows}) == 100
    with Image.open(work / "first" / "sheet.png") as sheet:
        assert sheet.width > 500
    more = ("-k", 5, "--labels", "first/labels.csv", "--json")
    result = json.loads(run("label", "suggest", "d.gallery", *more, cwd=work))
    assert len(result) == 5
    assert not {row["id"] for row in rows} & {each["id"] for each in result}


def test_all_of_a_small_gallery_are_suggested(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    run("index", "g", ".", "--encoder", "color", cwd=tmp_path)
    assert len(run("label", "suggest", "g", cwd=tmp_path).splitlines()) == 3
    name = tmp_path.name
    (tmp_path / "some.csv").write_text(f"id,label\n{name}:0.png,a\n{name}:1.png,b")
    rest = run("label", "suggest", "g", "--labels", "some.csv", cwd=tmp_path)
    assert rest.splitlines() == [f"{name}:2.png"]


def test_propagated_labels_are_accurate_and_written_to_the_metadata(work: Path) -> None:
    arguments = ("--labels", "first/labels.csv", "-o", "all.csv", "--write", "digit", "--json")
    result = json.loads(run("label", "propagate", "d.gallery", *arguments, cwd=work))
    assert result["labeled"] == 100
    assert result["coverage"] == 1
    rows = table(work / "all.csv")
    assert len(rows) == result["images"] == len(TRUTH)
    accuracy = sum(row["label"] == TRUTH[row["id"]] for row in rows) / len(rows)
    assert accuracy > 0.95
    assert abs(result["expected_precision"] - accuracy) < 0.04
    line = run("search", "d.gallery", "--id", rows[0]["id"], "-k", 1, "--json", cwd=work)
    metadata = json.loads(line)["hits"][0]["metadata"]
    assert {"digit", "digit_confidence", "digit_status", "label"} <= metadata.keys()
    again = ("--labels", "all.csv", "-o", "again.csv", "--precision", 0.99, "--write", "digit")
    assert "unknown" in run("label", "propagate", "d.gallery", *again, cwd=work)
    shown = table(work / "again.csv")
    assert sum(row["status"] == "labeled" for row in shown) == 100
    propagated = [row for row in shown if row["status"] == "propagated"]
    assert sum(row["label"] == TRUTH[row["id"]] for row in propagated) / len(propagated) >= 0.99


def test_wrong_labels_rank_first_among_issues(work: Path) -> None:
    lines = [{"id": i, "label": label} for i, label in TRUTH.items()]
    wrong = lines[::40]
    for line in wrong:
        line["label"] = str((int(line["label"]) + 3) % 10)
    with (work / "noisy.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "label"])
        writer.writeheader()
        writer.writerows(lines)
    arguments = ("--labels", "noisy.csv", "-o", "issues", "--json")
    result = json.loads(run("label", "issues", "d.gallery", *arguments, cwd=work))
    first = {row["id"] for row in result["issues"][: len(wrong)]}
    assert len(first & {line["id"] for line in wrong}) > 0.8 * len(wrong)
    assert (work / "issues" / "sheet.png").exists()
    own = run("label", "issues", "d.gallery", cwd=work)
    assert f"of {len(TRUTH):,} labels disagree" in own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("suggest", "d.gallery", "-k", "100000"), "the number of unlabeled images"),
        (("suggest", "d.gallery", "-o", "first"), "already exists"),
        (("propagate", "d.gallery", "--labels", "no.csv", "-o", "x.csv"), "cannot be read"),
        (
            ("propagate", "d.gallery", "--labels", "one.csv", "-o", "x.csv"),
            "the only label is '1' (1 image)",
        ),
        (
            ("propagate", "d.gallery", "--labels", "all-bad.csv", "-o", "x.csv"),
            "no image has the id 'nobody'",
        ),
        (
            ("propagate", "d.gallery", "--labels", "two.csv", "-o", "x.csv", "--precision", "0.9"),
            "too few labels for a target precision",
        ),
        (
            ("propagate", "d.gallery", "--labels", "two.csv", "-o", "x.csv", "--precision", "99"),
            "must be between 0 and 1",
        ),
        (
            ("propagate", "d.gallery", "--labels", "two.csv", "-o", "x.csv", "--write", "label"),
            "the metadata column 'label' exists already",
        ),
        (("issues", "d.gallery", "--column", "color"), "no metadata column 'color'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    work: Path, arguments: tuple[str, ...], message: str
) -> None:
    ids = list(TRUTH)
    (work / "one.csv").write_text(f"id,label\n{ids[0]},1\n")
    (work / "two.csv").write_text(f"id,label\n{ids[0]},1\n{ids[1]},2\n")
    (work / "all-bad.csv").write_text("id,label\nnobody,1\n")
    done = lookalike("label", *arguments, cwd=work)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (work / "x.csv").exists()


def test_written_labels_survive_when_the_source_is_indexed_again(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    rng = np.random.default_rng(0)
    for name, level in (("dark", 30), ("light", 220)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(level + rng.integers(-20, 20, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    run("index", "g.gallery", "things", "--encoder", "pixels", cwd=tmp_path)
    lines = [
        "id,label",
        *(f"things:{kind}/{i:02d}.png,{kind}" for kind in ("dark", "light") for i in range(12)),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = ("--labels", "labels.csv", "-o", "all.csv", "--write", "kind")
    run("label", "propagate", "g.gallery", *options, cwd=tmp_path)
    (folder / "dark" / "00.png").rename(folder / "dark" / "moved.png")
    Image.new("L", (16, 16), 128).save(folder / "light" / "01.png")
    (folder / "metadata.csv").write_text("path,year\ndark/02.png,1999\n")
    run("index", "g.gallery", "things", cwd=tmp_path)

    rows = {
        row.id.partition(":")[2]: row.metadata
        for row in Gallery.open(tmp_path / "g.gallery").store.records()
    }
    assert rows["dark/moved.png"]["kind"] == "dark"
    assert (rows["dark/02.png"]["kind"], rows["dark/02.png"]["year"]) == ("dark", 1999)
    assert "kind" not in rows["light/01.png"]
    assert sum("kind" in row for row in rows.values()) == 39
    assert "0 updated" in run("index", "g.gallery", "things", cwd=tmp_path)
