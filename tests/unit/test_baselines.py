"""A baseline that cannot be run is left out with its reason, wherever baselines are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import lookalike as la
from lookalike.cli.evaluation_tables import print_evaluation
from lookalike.encoders.base import Encoder
from lookalike.encoders.hog import Hog
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ImageError
from lookalike.evaluation.baselines import fit_baselines
from lookalike.evaluation.candidates import ChooseOptions
from lookalike.evaluation.model_selection import choose
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.sanity_check import sanity_check
from lookalike.evaluation.single_pass import encode_once
from lookalike.evaluation.summary import cautions
from lookalike.gallery.gallery import Gallery
from lookalike.report.evaluation import report_page
from lookalike.report.page import render_page
from lookalike.sources import Source, open_source
from lookalike.types import Embeddings

REASON = "encoder 'pca' needs at least 32 images to fit 32 components; there are 20"


@pytest.fixture(scope="module")
def few() -> Source:
    return open_source("dataset:digits/train[:20]")


@pytest.fixture
def small(tmp_path: Path, few: Source, pixels: Encoder) -> Gallery:
    gallery = Gallery.create(tmp_path / "small.gallery", encoder=pixels)
    gallery.sync(few)
    return gallery


@pytest.fixture
def evaluation(small: Gallery) -> Evaluation:
    return la.evaluate(small, baselines=True)


@pytest.mark.slow
def test_the_other_baselines_stay_in_the_table(
    evaluation: Evaluation, small: Gallery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(evaluation.baselines) == {"chance", "pixels", "hog", "hog-fine", "untrained"}
    assert evaluation.baselines_left_out == {"pca": REASON}
    document = evaluation.as_dict()
    assert document["baselines_left_out"] == {"pca": REASON}
    assert "pca" not in document["baselines"]
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert f"\nbaseline pca left out: {REASON}\n" in shown
    assert "\nhog-fine " in shown
    page = render_page(report_page(evaluation, small))
    assert "baseline pca left out: " in page
    assert "there are 20." in page


def test_rows_that_cannot_be_read_are_missing_from_all_baselines(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is gone takes no baseline with it; the gallery itself still has its row."""
    encoder = open_encoder("color", [item.image() for item in open_source(folder)])
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(folder)
    (folder / "red" / "0.png").unlink()
    evaluation = la.evaluate(gallery, baselines=True)
    assert {"pixels", "hog", "untrained"} <= set(evaluation.baselines)
    assert [Path(failure.uri).name for failure in evaluation.baselines_unread] == ["0.png"]
    assert evaluation.as_dict()["baselines_unread"] == 1
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert "the baselines lack 1 row whose images cannot be read; the first: " in shown


def test_a_baseline_without_any_result_is_left_out(tmp_path: Path) -> None:
    """No figure of 0 for what is undefined: HOG sees nothing in images of one color."""
    for label in "ab":
        (tmp_path / "plain" / label).mkdir(parents=True)
        for number in range(3):
            plain = Image.new("RGB", (32, 32), (40 * number, 90, 10 * ord(label) % 256))
            plain.save(tmp_path / "plain" / label / f"{number}.png")
    source = open_source(tmp_path / "plain")
    encoder = open_encoder("color", [item.image() for item in source])
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source)
    evaluation = la.evaluate(gallery, baselines=True)
    assert {"chance", "pixels"} <= set(evaluation.baselines)
    for name in ("hog", "hog-fine"):
        assert name not in evaluation.baselines
        assert evaluation.baselines_left_out[name] == (
            f"encoder {name!r} has no result: its embeddings are zeros for all queries or all rows"
        )


def test_without_baselines_none_is_left_out(small: Gallery) -> None:
    assert la.evaluate(small).as_dict()["baselines_left_out"] == {}


def test_the_sanity_check_names_what_it_left_out() -> None:
    source = open_source("dataset:digits/train[:31]")
    encoder = open_encoder("pixels", [item.image() for item in source])
    result = sanity_check(encoder, source)
    assert result.comparison is not None
    assert set(result.comparison.baselines) == {"pixels", "hog", "hog-fine", "untrained"}
    reason = REASON.replace("20", "31")
    assert f"baseline pca left out: {reason}" in result.sentences()
    assert result.as_dict()["comparison"]["left_out"] == {"pca": reason}


def test_what_fails_while_a_baseline_runs_leaves_it_out(few: Source) -> None:
    class Failing(Hog):
        def encode_batch(self, images: object) -> Embeddings:
            raise ImageError(f"{type(images).__name__} too small")

    sample = [item.image() for item in few]
    hog, pixels = open_encoder("hog", sample), open_encoder("pixels", sample)
    assert isinstance(hog, Hog)
    failing = Failing("failing", hog.preprocessing, hog.orientations, hog.cell, hog.stride)
    encoded = encode_once(list(few), {"failing": failing, "pixels": pixels})
    assert set(encoded.embeddings) == {"pixels"}
    assert str(encoded.rejected["failing"]) == f"{few[0].uri}: list too small"
    fitted, left_out = fit_baselines(sample)
    assert set(fitted) == {"pixels", "hog", "hog-fine", "untrained"}
    assert left_out == {"pca": REASON}


def test_a_choice_of_one_encoder_is_compared_with_none(few: Source) -> None:
    options = ChooseOptions(encoders=("pixels", "pca"), train=False)
    chosen = choose(few, labels="own", options=options)
    assert chosen.not_tried == {"pca": REASON}
    assert chosen.verdict().endswith("; no other encoder was run")


def test_the_first_queries_have_an_interval(small: Gallery) -> None:
    """Ten queries say little: their interval contains their precision, and is wider."""
    scores = la.evaluate(small, "dataset:digits/test[:60]", first=10).scores
    first, every = scores.first.precision_estimate.interval, scores.precision.interval
    assert first.low <= scores.first.precision <= first.high
    assert first.high - first.low > every.high - every.low
    assert scores.as_dict()["first"]["precision_interval"] == [first.low, first.high]


def test_one_label_for_all_rows_is_said(tmp_path: Path, few: Source, pixels: Encoder) -> None:
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=pixels)
    gallery.sync(few)
    said = "all rows have the label '0': any ranking has the same figures"
    assert said not in cautions(la.evaluate(gallery))
    others = [each.id for each in gallery.store.records() if str(each.metadata["label"]) != "0"]
    assert 0 < gallery.remove(others) < len(few) - 1
    evaluation = la.evaluate(gallery)
    assert evaluation.scores.map.value == 1
    assert said in cautions(evaluation)
