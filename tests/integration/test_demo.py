"""The demo on the bundled digits, and its report."""

from __future__ import annotations

import base64
import io
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.integration.test_cli import lookalike, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "demo" / "digits", run("demo", "digits", cwd=folder)


def test_the_demo_prints_scores_report_and_next_commands(finished: tuple[Path, str]) -> None:
    folder, output = finished
    for encoder in (
        "report-linear",
        "report-conv",
        "contrastive *",
        "pixels",
        "hog",
        "hog-fine",
        "chance",
    ):
        assert re.search(rf"^ ?{re.escape(encoder)} ", output, re.MULTILINE)
    assert "\nNext:\n" in output
    assert re.search(r"most confused: \d with \d \(\d+ hits?\), ", output)
    assert str(Path("demo/digits/report.html")) in output
    assert {"report.html", "hits.png", "report-conv.encoder", "report-conv.gallery"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_report_is_self_contained_with_every_figure(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "report.html").read_text()
    for heading in (
        "Search quality",
        "How a search works",
        "Best queries",
        "Worst queries",
        "Confused labels",
        "Precision by label",
        "Images by label",
        "Sample of the queries",
        "Network of report-linear",
        "Network of report-conv",
        "Network of report-conv-bn",
        "Training loss: mean squared error per pixel",
        "Training loss: NT-Xent loss",
        "Reconstructions",
        "Settings",
    ):
        assert f"<h2>{heading}</h2>" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 4
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.width > 300
            assert len(image.convert("L").getcolors() or []) > 10
    charts = re.findall(r'(?:srcset|src)="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(charts) == 4 * 7  # light and dark, wide and for phones
    for chart in charts:
        texts = ElementTree.fromstring(base64.b64decode(chart)).iterfind(".//{*}text")
        assert len(list(texts)) > 3
    without_pictures = re.sub(r'base64,[^"]+', "", page)
    assert not re.search(r"https?://|src=\"(?!data:)|<link|<script|@import", without_pictures)


def test_the_next_commands_work(finished: tuple[Path, str]) -> None:
    folder, output = finished
    commands = re.findall(r"^  lookalike (search demo\S* .*|evaluate .*)$", output, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert run(*shlex.split(command), cwd=folder.parent.parent)


def test_a_second_run_reuses_the_encoders(finished: tuple[Path, str]) -> None:
    again = lookalike("demo", "digits", cwd=finished[0].parent.parent)
    assert again.returncode == 0
    assert again.stderr.count("already trained") == 4
    assert "train report-conv" not in again.stderr
