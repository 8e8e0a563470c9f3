"""Evaluations load_saved_evaluation in a gallery: what stays there, what goes stale, and that no place is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError
from lookalike.evaluation.saved import FILE, save_evaluation, load_saved_evaluation
from lookalike.evaluation.summary import verdict
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_cli import lookalike, run


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder of six images of two labels, and a gallery of them."""
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "secret" / "photos" / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((16, 16, 3), level + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "secret" / "photos" / label / f"{number}.png")
    source = open_source(tmp_path / "secret" / "photos")
    encoder = open_encoder("color", sample_images(source))
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source)
    return tmp_path


def test_what_is_kept_is_what_was_measured(work: Path) -> None:
    before = json.loads(run("info", "g.gallery", "--json", cwd=work))
    assert "evaluation" not in before
    done = lookalike("evaluate", "g.gallery", "--save", "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    gallery = Gallery.open(work / "g.gallery")
    found = load_saved_evaluation(gallery)
    assert found is not None
    assert found.evaluation == {**measured, "gallery": "g.gallery", "queries": 6}
    assert (found.rows, found.fingerprint) == (6, gallery.encoder.fingerprint)
    assert found.page["verdict"] == found.verdict
    assert all(section["title"] != "Exact settings" for section in found.page["sections"])
    assert [path.name for path in gallery.path.iterdir() if "evaluation" in path.name] == [FILE]


def test_info_says_it_and_a_change_makes_it_stale(work: Path) -> None:
    run("evaluate", "g.gallery", "--save", cwd=work)
    told = json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"]
    assert told["verdict"].startswith("color: precision@7 ")
    assert told["stale"] is False
    assert told["made"].endswith("+00:00")
    assert "evaluation verdict       color: precision@7" in run("info", "g.gallery", cwd=work)
    unchanged = json.loads(run("index", "g.gallery", "secret/photos", "--json", cwd=work))
    assert unchanged["unchanged"] == 6
    assert json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"] == told
    Image.new("RGB", (9, 9)).save(work / "secret" / "photos" / "dark" / "new.png")
    run("index", "g.gallery", "secret/photos", cwd=work)
    told = json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"]
    assert told["stale"] is True


WHOLE = {"made": "", "rows": 6, "fingerprint": "", "verdict": "", "evaluation": {}, "page": {}}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[" * 100_000, "\xff"),
        *(json.dumps({**WHOLE, **wrong}) for wrong in ({"made": 3}, {"page": []}, {"more": 1})),
    ],
)
def test_a_broken_one_is_said_and_hides_no_facts(work: Path, text: str) -> None:
    (work / "g.gallery" / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"^evaluation\.json of g\.gallery: is no load_saved_evaluation"):
        load_saved_evaluation(Gallery.open(work / "g.gallery"))
    done = lookalike("info", "g.gallery", "--json", cwd=work)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 6)
    assert "make it again" in done.stderr


def test_no_place_is_told(work: Path) -> None:
    truth = work / "secret" / "truth.csv"
    truth.write_text("photos:dark/0.png,photos:dark/1.png\nphotos:light/0.png,none.png\n")
    done = lookalike(
        *(
            "evaluate",
            work / "g.gallery",
            work / "secret" / "photos",
            "--ground-truth",
            truth,
            "--save",
        )
    )
    assert str(truth) in done.stderr  # here it is said: whoever measures knows it
    text = (work / "g.gallery" / FILE).read_text()
    assert "truth.csv" in text
    assert "1 queries from photos, 6 rows" in text
    assert "secret" not in text


def test_neither_relative_places_nor_parts_of_a_file_are_told(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / "secret")
    gallery = Gallery.open("../g.gallery")
    found = replace(la.evaluate(gallery), queries=f"{work}/secret/photos[:5]")
    section = {"text": f"of {work}/secret/photos/dark/0.png and dataset:mnist/test, 1/2."}
    save_evaluation(found, gallery, {"subtitle": f"from {found.queries}", "sections": [section]})
    document = json.loads((gallery.path / FILE).read_text())
    assert document["page"] == {
        "subtitle": "from photos[:5]",
        "sections": [{"text": "of photos/dark/0.png and dataset:mnist/test, 1/2."}],
    }
    assert document["evaluation"]["gallery"] == "g.gallery"


def test_a_gallery_asked_from_within_keeps_its_figures_whole(work: Path) -> None:
    done = lookalike("evaluate", ".", "--save", "--json", cwd=work / "g.gallery")
    assert done.returncode == 0, done.stderr
    found = load_saved_evaluation(Gallery.open(work / "g.gallery"))
    assert found is not None
    assert found.evaluation["gallery"] == "g.gallery"
    assert found.verdict == verdict(la.evaluate(Gallery.open(work / "g.gallery")))
    assert found.page["verdict"] == found.verdict
