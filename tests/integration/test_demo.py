"""The demo's story on the bundled digits, and what its report holds."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.test_cli import lookalike, run


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "demo" / "digits", run("demo", "digits", cwd=folder)


def test_the_demo_ends_with_table_report_and_next_steps(told: tuple[Path, str]) -> None:
    folder, shown = told
    for encoder in (
        "report-linear",
        "report-conv",
        "contrastive *",
        "pixels",
        "hog",
        "hog-fine",
        "chance",
    ):
        assert f" {encoder} " in shown
    assert "What to type next:" in shown
    assert re.search(r"most confused: \d answered with \d \(\d+ hits\), ", shown)
    assert str(Path("demo/digits/report.html")) in shown
    assert {"report.html", "hits.png", "report-conv.encoder", "report-conv.gallery"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_report_is_one_file_with_every_figure(told: tuple[Path, str]) -> None:
    page = (told[0] / "report.html").read_text()
    for heading in (
        "How good the answers are",
        "How a query is answered",
        "Queries answered well",
        "Queries answered badly",
        "Which labels are confused",
        "Precision of each label",
        "The images",
        "A sample of the queries",
        "The network of report-linear",
        "The network of report-conv",
        "The network of report-conv-bn",
        "How training went: reconstruction",
        "How training went: contrastive",
        "What the codes keep",
        "Exact settings",
    ):
        assert f"<h2>{heading}</h2>" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 14
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.width > 300
            assert len(image.convert("L").getcolors() or []) > 10
    without_pictures = re.sub(r'base64,[^"]+', "", page)
    assert not re.search(r"https?://|src=\"(?!data:)|<link|<script|@import", without_pictures)


def test_the_next_steps_it_names_can_be_typed(told: tuple[Path, str]) -> None:
    folder, shown = told
    steps = re.findall(r"^  lookalike (search demo\S* .*|evaluate .*)$", shown, re.MULTILINE)
    assert len(steps) == 2
    for step in steps:
        assert run(*step.split(), cwd=folder.parent.parent)


def test_told_again_it_uses_what_is_there(told: tuple[Path, str]) -> None:
    again = lookalike("demo", "digits", cwd=told[0].parent.parent)
    assert again.returncode == 0
    assert "train report-conv" not in again.stderr.replace("train without labels", "")
