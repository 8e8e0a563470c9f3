"""lookalike choose, from the first images to label to a gallery."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from lookalike.sources import open_source
from tests.integration.test_cli import lookalike, run

SOURCE = "dataset:digits/train[:400]"
QUICK = ("--no-train", "--encoder", "pixels", "--encoder", "hog", "--encoder", "texture-pyramid")


def fill_in(path: Path) -> None:
    """Write the true labels into all rows but every tenth."""
    truth = {item.id: str(item.metadata["label"]) for item in open_source(SOURCE)}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "label": "" if number % 10 == 9 else truth[row["id"]]})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images to label, labeled."""
    folder = tmp_path_factory.mktemp("choose")
    done = lookalike("choose", SOURCE, *QUICK, "--ask", 60, "-o", "ask", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "fill in the column label" in done.stderr
    assert sorted(path.name for path in (folder / "ask").iterdir()) == ["labels.csv", "sheet.png"]
    fill_in(folder / "ask" / "labels.csv")
    (folder / "full").mkdir()
    (folder / "full" / "x.txt").write_text("x")
    (folder / "bad.csv").write_text("id,label\ndigits/train:9x,7\n")
    return folder


def test_without_labels_quality_is_not_ranked(work: Path) -> None:
    shown = run("choose", SOURCE, *QUICK, cwd=work)
    assert "without labels, quality is unknown" in shown
    assert "robust" in shown
    assert "best" not in shown.split("without labels")[0]
    names = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert [n for n in names if n in QUICK] == ["pixels", "hog", "texture-pyramid"]


def test_the_contact_sheet_shows_the_images(work: Path) -> None:
    with Image.open(work / "ask" / "sheet.png") as sheet:
        assert sheet.width > 500


def test_labels_rank_and_the_encoder_indexes(work: Path) -> None:
    arguments = ("--labels", "ask/labels.csv", "--plot", "p.png", "-o", "best.encoder", "--json")
    result = json.loads(run("choose", SOURCE, *QUICK, *arguments, cwd=work))
    assert result["judgements"].startswith("54 labeled images")
    assert [c["best"] for c in result["candidates"]] == [True, False, False]
    assert result["best"] == result["candidates"][0]["name"]
    assert result["candidates"][-1]["name"] == "texture-pyramid"
    assert result["candidates"][0]["difference_interval"] == [0, 0]
    for candidate in result["candidates"]:
        low, high = candidate["quality_interval"]
        assert low <= candidate["quality"] <= high
        assert candidate["bytes_per_image"] == 4 * candidate["dim"]
    with Image.open(work / "p.png") as image:
        assert image.width > 500
    run("index", "g.gallery", "dataset:digits/test", "--encoder", "best.encoder", cwd=work)
    assert json.loads(run("info", "g.gallery", "--json", cwd=work))["encoder"] == result["best"]


def test_the_cheapest_is_written_on_request(work: Path) -> None:
    arguments = ("--labels", "ask/labels.csv", "--cheapest", "-o", "cheap.encoder", "--json")
    result = json.loads(run("choose", SOURCE, *QUICK, *arguments, cwd=work))
    facts = json.loads(run("info", "cheap.encoder", "--json", cwd=work))
    assert facts["name"] == result["cheapest"]
    within = [c for c in result["candidates"] if c["tied"]]
    assert max(within, key=lambda c: c["images_per_second"])["name"] == result["cheapest"]


def test_a_second_round_keeps_the_labels(work: Path) -> None:
    more = ("--labels", "ask/labels.csv", "--ask", 10, "-o", "more")
    run("choose", SOURCE, *QUICK, *more, cwd=work)
    with (work / "more" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert sum(bool(row["label"]) for row in rows) == 54
    assert len({row["id"] for row in rows}) == 64


def test_pairs_rank_too(work: Path) -> None:
    items = list(open_source(SOURCE))[:80]
    lines = ["id_a,id_b,similar"]
    for one, other in zip(items[:40], items[40:], strict=True):
        alike = one.metadata["label"] == other.metadata["label"]
        lines.append(f"{one.id},{other.id},{'yes' if alike else 'no'}")
    same = [i for i in items if i.metadata["label"] == "3"]
    lines += [f"{a.id},{b.id},1" for a, b in pairwise(same)]
    (work / "pairs.csv").write_text("\n".join(lines))
    result = json.loads(run("choose", SOURCE, *QUICK, "--labels", "pairs.csv", "--json", cwd=work))
    assert result["measure"] == "ROC AUC of similar against dissimilar pairs"
    assert result["candidates"][0]["quality"] > 0.8


MISTAKES = {
    "no labels": (["-o", "x.encoder"], "choosing an encoder needs --labels"),
    "cheapest alone": (["--cheapest"], "choosing an encoder needs --labels"),
    "plot alone": (["--plot", "x.png"], "--plot needs --labels"),
    "ask nowhere": (["--ask", "5"], "--ask 5 needs --out"),
    "ask one": (["--ask", "1", "-o", "x"], "--ask 1 must be at least 2"),
    "ask too many": (["--ask", "401", "-o", "x"], "--ask 401 must be from 2 to 400"),
    "out is there": (["--labels", "own", "-o", "full"], "full: already exists"),
    "no file": (["--labels", "none.csv"], "none.csv: cannot be read"),
    "unknown id": (["--labels", "bad.csv"], "bad.csv, line 2: no image has the id"),
    "no time": (["--minutes", "0"], "--minutes 0 must be above 0"),
    "unknown encoder": (["--encoder", "hgo"], "did you mean 'hog'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name: str, work: Path) -> None:
    arguments, message = MISTAKES[name]
    before = sorted(path.name for path in work.iterdir())
    done = lookalike("choose", SOURCE, *QUICK, *arguments, cwd=work)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(path.name for path in work.iterdir()) == before
