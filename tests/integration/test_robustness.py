"""Robustness: against a slow version, edge cases, and on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.handcrafted import Pixels
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.evaluation.robustness import MEANING, evaluate_encoder_robustness
from lookalike.gallery.gallery import Gallery
from lookalike.images.corruptions import CORRUPTIONS
from lookalike.sources import Source, open_source
from lookalike.types import Embeddings, ImageArray, Progress
from tests.integration.test_cli import lookalike, run
from tests.unit.test_idx import idx_bytes

Images = Sequence[ImageArray] | NDArray[np.uint8]


class MeanColor(Encoder):
    """Encodes an image as its mean color, invariant to any rearrangement of its pixels."""

    name = "mean-color"
    normalized = False
    fingerprint = "mean"
    dim = 3

    def __init__(self) -> None:
        self.batches: list[list[ImageArray]] = []

    def encode_batch(self, images: Images) -> Embeddings:
        self.batches.append(list(images))
        return np.array([np.asarray(i).reshape(-1, 3).mean(axis=0) for i in images], np.float32)

    def files(self) -> Mapping[str, bytes]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name}


class Same(MeanColor):
    """Encodes every image as the same embedding."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def encode_batch(self, images: Images) -> Embeddings:
        return np.full((len(images), self.dim), self.value, np.float32)


def plain_colors(count: int) -> list[ImageArray]:
    """Images of one hue each, all different, darker on the right side."""
    rng = np.random.default_rng(3)
    colors = rng.permutation(np.stack(np.meshgrid(*[(40, 120, 200)] * 3), -1).reshape(-1, 3))
    hues = {tuple(c / np.linalg.norm(c)): c for c in colors if len(set(c.tolist())) > 1}
    shade = np.where(np.arange(24) < 12, 1.2, 0.8)[None, :, None]
    images = [np.full((20, 24, 3), c) * shade for c in list(hues.values())[:count]]
    return [np.rint(image).astype(np.uint8) for image in images]


def photographs(count: int, *, seed: int = 5) -> list[ImageArray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(30, 220, (16, 16, 3), dtype=np.uint8) for _ in range(count)]


def test_an_invariant_encoder_retrieves_every_original() -> None:
    images = plain_colors(12)
    result = evaluate_encoder_robustness(
        MeanColor(), images, corruptions=("crop", "rotation", "blur")
    )
    assert result.queries == result.rows == 12
    assert list(result.scores) == ["crop", "rotation", "blur"]
    for scores in result.scores.values():
        for estimate in (scores.map, scores.recall_at_1, scores.recall):
            assert (estimate.value, estimate.interval.low, estimate.interval.high) == (1, 1, 1)
    assert result.verdict() == (
        "mean-color is equally robust to crop, rotation, blur (mAP@7 1.0000); this measures "
        f"{MEANING}"
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_encoder_retrieves_nothing(value: float) -> None:
    result = evaluate_encoder_robustness(Same(value), photographs(30))
    assert {scores.recall.value for scores in result.scores.values()} == {0}


def test_scores_match_a_slow_version() -> None:
    images = photographs(40)
    encoder = MeanColor()
    k = 3
    result = evaluate_encoder_robustness(encoder, images, k=k)
    rows, *batches = encoder.batches
    assert len(rows) == 40
    assert len(batches) == len(CORRUPTIONS)
    embeddings = MeanColor().encode(images).astype(float)
    for (name, scores), batch in zip(result.scores.items(), batches, strict=True):
        examples = [example[name] for example in result.examples]
        np.testing.assert_array_equal(examples, [batch[i] for i in (0, 14, 27)])
        gains, firsts, recalls = [], [], []
        for own, image in enumerate(batch):
            query = MeanColor().encode([image])[0].astype(float)
            distances = [
                1 - query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in embeddings
            ]
            rank = 1 + sum(d <= distances[own] for i, d in enumerate(distances) if i != own)
            gains.append(1 / rank if rank <= k else 0.0)
            firsts.append(float(rank == 1))
            recalls.append(float(rank <= k))
        for estimate, values in (
            (scores.map, gains),
            (scores.recall_at_1, firsts),
            (scores.recall, recalls),
        ):
            assert estimate.value == pytest.approx(np.mean(values), abs=1e-12)
            interval = bootstrap_interval(np.array(values))
            assert estimate.interval.low == pytest.approx(interval.low, abs=1e-12)
            assert estimate.interval.high == pytest.approx(interval.high, abs=1e-12)
    assert 0.05 < result.scores["crop"].recall_at_1.value < 0.95


def test_gallery_and_array_agree(gallery: Gallery, digits: Source, pixels: Encoder) -> None:
    result = la.evaluate_robustness(gallery, queries=50)
    ordered = [item.image() for item in sorted(digits, key=lambda item: item.id)]
    again = evaluate_encoder_robustness(pixels, ordered, queries=50)
    assert result.scores == again.scores
    assert result.gallery == str(gallery.path)
    assert (result.queries, result.rows, result.skipped) == (50, 400, ())
    assert result.scores["jpeg"].map.value > result.scores["rotation"].map.value


def test_queries_depend_on_the_seed_only() -> None:
    images = photographs(30)
    every = evaluate_encoder_robustness(MeanColor(), images, queries=10, seed=4)
    some = evaluate_encoder_robustness(
        MeanColor(), images, queries=10, seed=4, corruptions=["noise"]
    )
    assert dict(some.scores) == {"noise": every.scores["noise"]}
    other = evaluate_encoder_robustness(Same(1), images, queries=10, seed=4)
    differing = evaluate_encoder_robustness(MeanColor(), images, queries=10, seed=5)
    for name, image in every.examples[0].items():
        np.testing.assert_array_equal(image, other.examples[0][name])
    assert any((every.examples[0][k] != differing.examples[0][k]).any() for k in CORRUPTIONS)
    assert list(every.examples[0]) == ["original", *CORRUPTIONS]


def test_copies_count_as_the_original_and_as_one_query() -> None:
    images = plain_colors(6)
    images_and_copies = [*images, *images[:4], *[images[0]] * 20]
    result = evaluate_encoder_robustness(MeanColor(), images_and_copies, k=2, corruptions=["crop"])
    assert (result.rows, result.queries) == (30, 6)
    assert result.scores["crop"].recall_at_1.value == 1


def test_ties_rank_before_the_original() -> None:
    red, green, blue = plain_colors(3)
    twin = red.copy()
    twin[[0, 1], 0] = (red[0, 0] - 10, red[0, 0] + 10)  # other pixels of the same mean
    result = evaluate_encoder_robustness(
        MeanColor(), [red, twin, green, blue], k=4, corruptions=["occlusion"]
    )
    assert result.scores["occlusion"].recall.value == 1
    assert result.scores["occlusion"].recall_at_1.value == 0.5  # red and its twin are second


def test_encoders_of_a_fixed_size_and_large_images_are_supported(digits: Source) -> None:
    exact = Pixels("exact", Preprocessing(8, 8, 1, exact=True))
    images = [item.image() for item in digits][:40]
    assert evaluate_encoder_robustness(exact, images).scores["jpeg"].recall.value > 0.5
    rng = np.random.default_rng(0)
    large = [rng.integers(0, 256, (40, 1500, 3), dtype=np.uint8) for _ in range(2)]
    result = evaluate_encoder_robustness(MeanColor(), large)
    assert {image.shape for image in result.examples[0].values()} == {(27, 1024, 3)}


@pytest.mark.parametrize(
    ("images", "distinct"), [([], 0), (photographs(1), 1), (photographs(1) * 5, 1)]
)
def test_two_distinct_images_are_needed(images: list[ImageArray], distinct: int) -> None:
    with pytest.raises(InputError, match=f"at least 2 distinct images, not {distinct}"):
        evaluate_encoder_robustness(MeanColor(), images)


def test_settings_out_of_range_are_refused(gallery: Gallery) -> None:
    for setting in ({"k": 0}, {"queries": 0}, {"seed": -1}, {"metric": "l3"}, {"k": 20_000}):
        with pytest.raises(SettingError, match=f"{next(iter(setting))}"):
            la.evaluate_robustness(gallery, **setting)
    with pytest.raises(SettingError, match=r"corruptions=\[\] must name at least one"):
        evaluate_encoder_robustness(MeanColor(), photographs(3), corruptions=[])
    with pytest.raises(UnknownNameError, match="did you mean 'noise'"):
        evaluate_encoder_robustness(MeanColor(), photographs(3), corruptions=["nois"])
    assert la.evaluate_robustness(gallery, k=1_000, queries=5).scores["jpeg"].recall.value == 1


def test_progress_is_reported_to_the_end(gallery: Gallery) -> None:
    reports: list[Progress] = []
    la.evaluate_robustness(gallery, queries=100, progress=reports.append)
    assert [p.done for p in reports] == [0, 64, 100]
    assert {(p.task, p.total) for p in reports} == {("robustness", 100)}


def test_the_docstring_says_what_is_measured() -> None:
    assert MEANING in (la.evaluate_robustness.__doc__ or "")


@pytest.fixture
def unlabeled(tmp_path: Path) -> Path:
    """A folder with a gallery and its twelve unlabeled images, one of them twice."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(photographs(12)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    shutil.copy(tmp_path / "photos" / "0.png", tmp_path / "photos" / "copy.png")
    run("index", "p.gallery", "photos", "--encoder", "pixels", cwd=tmp_path)
    return tmp_path


def test_missing_images_are_skipped_and_listed(unlabeled: Path) -> None:
    gallery = Gallery.open(unlabeled / "p.gallery")
    whole = la.evaluate_robustness(gallery)
    assert (whole.queries, whole.rows) == (12, 13)
    assert whole.scores["jpeg"].recall_at_1.value == 1
    (unlabeled / "photos" / "3.png").unlink()
    (unlabeled / "photos" / "7.png").write_bytes(b"x")
    result = la.evaluate_robustness(gallery)
    assert result.queries == 10
    assert [Path(failure.uri).name for failure in result.skipped] == ["3.png", "7.png"]
    assert result.skipped[0].reason.startswith("cannot be read")
    assert result.as_dict()["skipped"] == 2
    process = lookalike("evaluate", "robustness", "p.gallery", "--json", cwd=unlabeled)
    assert process.returncode == 1
    assert "3.png: cannot be read" in process.stderr
    assert "2 images skipped" in process.stderr
    assert json.loads(process.stdout)["queries"] == 10
    shutil.rmtree(unlabeled / "photos")
    missing = lookalike("evaluate", "robustness", "p.gallery", cwd=unlabeled)
    assert missing.returncode == 2
    assert "none of the 12 sampled images can be read; the first, " in missing.stderr


def test_blank_images_are_counted_and_in_no_score(unlabeled: Path) -> None:
    for level in (3, 90, 250):
        Image.new("RGB", (64, 64), (level,) * 3).save(unlabeled / "photos" / f"blank {level}.png")
    run("index", "p.gallery", "photos", cwd=unlabeled)
    result = la.evaluate_robustness(Gallery.open(unlabeled / "p.gallery"))
    assert (result.queries, result.rows, len(result.no_content)) == (12, 16, 3)
    assert result.skipped == ()
    assert result.as_dict()["no_content"] == 3
    text = run("evaluate", "robustness", "p.gallery", cwd=unlabeled)
    assert "3 images without content (blank or nearly of one color): in no score" in text
    shutil.rmtree(unlabeled / "photos")
    blank = [np.full((32, 32), level, np.uint8) for level in (0, 9)]
    with pytest.raises(InputError, match="none of the 2 sampled images has content"):
        evaluate_encoder_robustness(Gallery.open(unlabeled / "p.gallery").encoder, blank)


def test_the_command_line_prints_table_json_and_report(unlabeled: Path) -> None:
    table = run("evaluate", "robustness", "p.gallery", "-k", 3, cwd=unlabeled)
    assert "12 corrupted images, each to find its original among 13 rows, cosine" in table
    assert f"; this measures {MEANING}" in table
    for name, corruption in CORRUPTIONS.items():
        assert f"\n{name} " in table
        assert corruption.summary in table
    for column in ("mAP@3", "R@1", "recall@3"):
        assert column in table
    arguments = (
        "evaluate",
        "robustness",
        "p.gallery",
        "--metric",
        "l2",
        "--report",
        "r/robustness.html",
    )
    result = json.loads(run(*arguments, "--json", cwd=unlabeled))
    corruptions = result.pop("corruptions")
    assert result == {
        "measures": MEANING,
        "k": 7,
        "seed": 0,
        "queries": 12,
        "skipped": 0,
        "no_content": 0,
        "gallery": "p.gallery",
        "rows": 13,
        "encoder": "pixels",
        "metric": "l2",
    }
    assert list(corruptions) == list(CORRUPTIONS)
    for scores in corruptions.values():
        names = {"map", "recall_at_1", "recall"}
        assert set(scores) == {"summary", *names, *(f"{name}_interval" for name in names)}
        for name in names:
            low, high = scores[f"{name}_interval"]
            assert 0 <= low <= scores[name] <= high <= 1
        assert scores["recall_at_1"] <= scores["map"] <= scores["recall"]
    page = (unlabeled / "r" / "robustness.html").read_text()
    assert page.count(MEANING) >= 2
    assert page.count("<picture") == page.count("data:image/png;base64,") == 1
    assert "Robustness of pixels in p.gallery" in page


def test_the_help_says_what_is_measured() -> None:
    assert MEANING in " ".join(run("evaluate", "robustness", "--help").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "unexpected argument photos"),
        (["--baselines"], "no such option --baselines"),
        (["--first", "50"], "no such option --first"),
        (["-k", "0"], "-k 0 must be at least 1"),
        (["--metric", "dot"], "--metric dot"),
    ],
)
def test_options_of_evaluate_are_refused(
    unlabeled: Path, arguments: list[str], message: str
) -> None:
    process = lookalike("evaluate", "robustness", "p.gallery", *arguments, cwd=unlabeled)
    assert process.returncode == 2
    assert message in process.stderr
    assert process.stderr.count("error:") == 1
    assert process.stdout == ""


def test_galleries_without_two_distinct_images_are_refused(tmp_path: Path, pixels: Encoder) -> None:
    Gallery.create(tmp_path / "e.gallery", encoder=pixels)
    empty = lookalike("evaluate", "robustness", "e.gallery", cwd=tmp_path)
    assert empty.returncode == 2
    assert "e.gallery: robustness needs at least 2 distinct images, not 0" in empty.stderr
    single = Gallery.create(tmp_path / "l.gallery", encoder=pixels)
    (tmp_path / "one-images-idx3-ubyte").write_bytes(idx_bytes(np.ones((1, 8, 8), np.uint8)))
    single.sync(open_source(tmp_path / "one-images-idx3-ubyte"))
    process = lookalike("evaluate", "robustness", "l.gallery", cwd=tmp_path)
    assert process.returncode == 2
    assert "at least 2 distinct images, not 1" in process.stderr
