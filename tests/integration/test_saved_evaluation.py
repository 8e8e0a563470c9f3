"""Saved evaluations: content, staleness, formats, and that no path is stored."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.artifacts import with_checksum
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, FormatVersionError, ReplacedError
from lookalike.evaluation.saved import FILE, load_saved_evaluation, save_evaluation
from lookalike.gallery.gallery import Gallery
from lookalike.report.page import render_page
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


def test_the_saved_evaluation_is_the_measured_one(work: Path) -> None:
    before = json.loads(run("info", "g.gallery", "--json", cwd=work))
    assert "evaluation" not in before
    process = lookalike("evaluate", "g.gallery", "--save", "--json", cwd=work)
    assert process.returncode == 0, process.stderr
    measured = json.loads(process.stdout)
    gallery = Gallery.open(work / "g.gallery")
    saved = load_saved_evaluation(gallery)
    assert saved is not None
    assert saved.evaluation == {**measured, "gallery": "g.gallery", "queries": 6}
    assert (saved.rows, saved.fingerprint) == (6, gallery.encoder.fingerprint)
    assert saved.page["verdict"] == saved.verdict
    assert all(section["title"] != "Settings" for section in saved.page["sections"])
    assert [path.name for path in gallery.path.iterdir() if "evaluation" in path.name] == [
        FILE.name
    ]


def rewrite(gallery: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the sections with a chart of a saved evaluation."""
    path = gallery / FILE.name
    document = json.loads(path.read_text())
    del document["checksum"]
    for section in document["page"]["sections"]:
        if section["chart"] is not None:
            change(section)
    path.write_text(json.dumps(with_checksum(document)))


def test_a_report_with_images_of_its_charts_is_still_shown(work: Path) -> None:
    """An older version drew them, and knew no charts."""
    run("evaluate", "g.gallery", "--save", cwd=work)

    def drawn_as_image(section: dict[str, Any]) -> None:
        assert set(section.pop("chart")) == {"wide", "narrow"}
        section["image"] = "aW1hZ2U="

    gallery = Gallery.open(work / "g.gallery")
    saved = load_saved_evaluation(gallery)
    assert saved is not None
    charts = render_page(saved.page).count("<picture")
    assert charts >= 3
    rewrite(gallery.path, drawn_as_image)
    saved = load_saved_evaluation(Gallery.open(work / "g.gallery"))
    assert saved is not None
    page = render_page(saved.page)
    assert page.count("data:image/png;base64,aW1hZ2U=") == charts
    assert "<picture" not in page


def test_a_chart_of_somebody_else_cannot_leave_its_image(work: Path) -> None:
    run("evaluate", "g.gallery", "--save", cwd=work)
    hostile = '"><script>alert(1)</script><svg onload="'
    rewrite(work / "g.gallery", lambda section: section["chart"].update(wide=hostile))
    saved = load_saved_evaluation(Gallery.open(work / "g.gallery"))
    assert saved is not None
    assert not re.search("<script|onload", render_page(saved.page))
    wrongs: tuple[Any, ...] = {"wide": ""}, {"wide": 3, "narrow": ""}, []
    for wrong in wrongs:
        rewrite(work / "g.gallery", partial(dict.update, chart=wrong))
        with pytest.raises(ArtifactError, match="evaluate again"):
            load_saved_evaluation(Gallery.open(work / "g.gallery"))


def test_changes_of_the_gallery_make_it_stale(work: Path) -> None:
    run("evaluate", "g.gallery", "--save", cwd=work)
    facts = json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"]
    assert facts["verdict"].startswith("color: precision@7 ")
    assert facts["stale"] is False
    assert facts["created_at"].endswith("+00:00")
    assert "evaluation verdict       color: precision@7" in run("info", "g.gallery", cwd=work)
    unchanged = json.loads(run("index", "g.gallery", "secret/photos", "--json", cwd=work))
    assert unchanged["unchanged"] == 6
    assert json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"] == facts
    Image.new("RGB", (9, 9)).save(work / "secret" / "photos" / "dark" / "new.png")
    run("index", "g.gallery", "secret/photos", cwd=work)
    facts = json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"]
    assert (facts["stale"], facts["changes"]) == (True, "1 commit")
    assert "outdated (1 commit since)" in run("info", "g.gallery", cwd=work)


def test_images_changed_in_place_make_it_stale(work: Path) -> None:
    """The number of rows and the encoder stay the same."""
    run("evaluate", "g.gallery", "--save", cwd=work)
    for number in range(3):
        Image.new("RGB", (16, 16), (9, 90, 200 + number)).save(
            work / "secret" / "photos" / "dark" / f"{number}.png"
        )
    changed = json.loads(run("index", "g.gallery", "secret/photos", "--json", cwd=work))
    assert (changed["updated"], changed["unchanged"]) == (3, 3)
    facts = json.loads(run("info", "g.gallery", "--json", cwd=work))["evaluation"]
    assert facts["stale"] is True


def test_an_evaluation_of_a_replaced_gallery_is_not_saved_in_the_new_one(work: Path) -> None:
    gallery = Gallery.open(work / "g.gallery")
    evaluation, encoder = la.evaluate(gallery), gallery.encoder
    shutil.rmtree(work / "g.gallery")
    other = Gallery.create(work / "g.gallery", encoder=encoder)
    with pytest.raises(ReplacedError):
        save_evaluation(evaluation, gallery, {})
    assert not (other.path / FILE.name).exists()
    shutil.rmtree(work / "g.gallery")
    with pytest.raises(ArtifactError, match="the gallery is gone"):
        save_evaluation(evaluation, gallery, {})
    assert not (work / "g.gallery").exists()


FIELDS = {
    "format": FILE.version,
    "created_at": "",
    "identity": "",
    "revision": "",
    "rows": 6,
    "fingerprint": "",
    "verdict": "",
    "evaluation": {},
    "page": {},
}
VERSION_1 = {
    "made": "",
    **{name: FIELDS[name] for name in FIELDS if name not in ("format", "created_at")},
}


WRONG: list[dict[str, Any]] = [{"rows": "3"}, {"page": []}, {"format": "3", "verdict": 1}]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"format": 3}', "[" * 100_000, "\xff"),
        *(json.dumps({**FIELDS, **wrong}) for wrong in WRONG),
    ],
)
def test_a_damaged_file_is_reported_beside_the_facts(work: Path, text: str) -> None:
    (work / "g.gallery" / FILE.name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"^evaluation\.json of g\.gallery: .*; evaluate again"):
        load_saved_evaluation(Gallery.open(work / "g.gallery"))
    process = lookalike("info", "g.gallery", "--json", cwd=work)
    assert (process.returncode, json.loads(process.stdout)["rows"]) == (0, 6)
    assert "evaluate again: lookalike evaluate g.gallery --save" in process.stderr


@pytest.mark.parametrize(
    ("document", "age"),
    [(VERSION_1, "an older"), ({**FIELDS, "format": FILE.version + 1}, "a newer")],
)
def test_other_formats_are_refused(work: Path, document: dict[str, Any], age: str) -> None:
    (work / "g.gallery" / FILE.name).write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match=f"written by {age} lookalike.*evaluate again"):
        load_saved_evaluation(Gallery.open(work / "g.gallery"))


def test_no_path_is_saved(work: Path) -> None:
    ground_truth = work / "secret" / "truth.csv"
    ground_truth.write_text("photos:dark/0.png,photos:dark/1.png\nphotos:light/0.png,none.png\n")
    process = lookalike(
        *(
            "evaluate",
            work / "g.gallery",
            work / "secret" / "photos",
            "--ground-truth",
            ground_truth,
            "--save",
        )
    )
    assert str(ground_truth) in process.stderr  # whoever evaluates may know it
    text = (work / "g.gallery" / FILE.name).read_text()
    assert "truth.csv" in text
    assert "1 query from photos, 6 rows" in text
    assert "secret" not in text


def test_neither_relative_paths_nor_slices_of_files_are_saved(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / "secret")
    gallery = Gallery.open("../g.gallery")
    evaluation = replace(la.evaluate(gallery), queries=f"{work}/secret/photos[:5]")
    section = {"text": f"of {work}/secret/photos/dark/0.png and dataset:mnist/test, 1/2."}
    save_evaluation(
        evaluation, gallery, {"subtitle": f"from {evaluation.queries}", "sections": [section]}
    )
    document = json.loads((gallery.path / FILE.name).read_text())
    assert document["page"] == {
        "subtitle": "from photos[:5]",
        "sections": [{"text": "of photos/dark/0.png and dataset:mnist/test, 1/2."}],
    }
    assert document["evaluation"]["gallery"] == "g.gallery"


def test_a_gallery_is_evaluated_from_within_its_folder(work: Path) -> None:
    process = lookalike("evaluate", ".", "--save", "--json", cwd=work / "g.gallery")
    assert process.returncode == 0, process.stderr
    saved = load_saved_evaluation(Gallery.open(work / "g.gallery"))
    assert saved is not None
    assert saved.evaluation["gallery"] == "g.gallery"
    assert saved.verdict == la.evaluate(Gallery.open(work / "g.gallery")).verdict()
    assert saved.page["verdict"] == saved.verdict
