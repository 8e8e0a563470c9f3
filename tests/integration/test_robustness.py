"""Self-retrieval: against a slow version, at its edges, and as the command line prints it."""

from __future__ import annotations

import importlib
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
from lookalike.evaluation.robustness import MEANING, evaluate_encoder_robustness, verdict
from lookalike.gallery.gallery import Gallery
from lookalike.images.corruptions import CORRUPTIONS
from lookalike.sources import Source, open_source
from lookalike.types import Embeddings, ImageArray, Progress
from tests.integration.test_cli import lookalike, run
from tests.unit.test_idx import idx_bytes

SAID = "what this encoder is invariant to, not how good it is"
Images = Sequence[ImageArray] | NDArray[np.uint8]


class MeanColor:
    """Knows an image by its mean color alone: blind to where anything is."""

    name = "mean-color"
    normalized = False
    fingerprint = "mean"
    dim = 3

    def __init__(self) -> None:
        self.seen: list[list[ImageArray]] = []

    def encode(self, images: Images) -> Embeddings:
        self.seen.append(list(images))
        return np.array([np.asarray(i).reshape(-1, 3).mean(axis=0) for i in images], np.float32)

    def files(self) -> Mapping[str, bytes]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name}


class Same(MeanColor):
    """Gives every image one embedding."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def encode(self, images: Images) -> Embeddings:
        return np.full((len(images), self.dim), self.value, np.float32)


def plain_colors(count: int) -> list[ImageArray]:
    """Images of one color each, all of different hue."""
    rng = np.random.default_rng(3)
    colors = rng.permutation(np.stack(np.meshgrid(*[(40, 120, 200)] * 3), -1).reshape(-1, 3))
    hues = {tuple(c / np.linalg.norm(c)): c for c in colors if len(set(c.tolist())) > 1}
    return [np.full((20, 24, 3), c, np.uint8) for c in list(hues.values())[:count]]


def photographs(count: int, *, seed: int = 5) -> list[ImageArray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(30, 220, (16, 16, 3), dtype=np.uint8) for _ in range(count)]


def test_an_invariant_encoder_finds_every_original() -> None:
    images = plain_colors(12)
    found = evaluate_encoder_robustness(MeanColor(), images, kinds=("crop", "rotation", "blur"))
    assert found.queries == found.rows == 12
    assert list(found.scores) == ["crop", "rotation", "blur"]
    for scores in found.scores.values():
        for estimate in (scores.map, scores.recall_at_1, scores.recall):
            assert (estimate.value, estimate.interval.low, estimate.interval.high) == (1, 1, 1)
    assert verdict(found).endswith("alike to crop, rotation, blur (mAP@7 1.0000)")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_encoder_that_cannot_tell_images_apart_finds_none(value: float) -> None:
    found = evaluate_encoder_robustness(Same(value), photographs(30))
    assert {scores.recall.value for scores in found.scores.values()} == {0}


def test_it_agrees_with_the_slow_way() -> None:
    images = photographs(40)
    encoder = MeanColor()
    n = 3
    found = evaluate_encoder_robustness(encoder, images, k=n)
    rows, *batches = encoder.seen
    assert len(rows) == 40
    assert len(batches) == len(CORRUPTIONS)
    embeddings = MeanColor().encode(images).astype(float)
    for (name, scores), batch in zip(found.scores.items(), batches, strict=True):
        shown = [example[name] for example in found.examples]
        np.testing.assert_array_equal(shown, [batch[i] for i in (0, 14, 27)])
        gains, firsts, recalls = [], [], []
        for own, image in enumerate(batch):
            query = MeanColor().encode([image])[0].astype(float)
            distances = [
                1 - query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in embeddings
            ]
            rank = 1 + sum(d <= distances[own] for i, d in enumerate(distances) if i != own)
            gains.append(1 / rank if rank <= n else 0.0)
            firsts.append(float(rank == 1))
            recalls.append(float(rank <= n))
        for estimate, values in (
            (scores.map, gains),
            (scores.recall_at_1, firsts),
            (scores.recall, recalls),
        ):
            assert estimate.value == pytest.approx(np.mean(values), abs=1e-12)
            interval = bootstrap_interval(np.array(values))
            assert estimate.interval.low == pytest.approx(interval.low, abs=1e-12)
            assert estimate.interval.high == pytest.approx(interval.high, abs=1e-12)
    assert 0.05 < found.scores["crop"].recall_at_1.value < 0.95, "so that there is a difference"


def test_gallery_and_array_agree(gallery: Gallery, digits: Source, pixels: Encoder) -> None:
    found = la.evaluate_robustness(gallery, queries=50)
    ordered = [item.image() for item in sorted(digits, key=lambda item: item.id)]
    again = evaluate_encoder_robustness(pixels, ordered, queries=50)
    assert found.scores == again.scores
    assert found.gallery == str(gallery.path)
    assert (found.queries, found.rows, found.skipped) == (50, 400, ())
    assert found.scores["jpeg"].map.value > found.scores["rotation"].map.value


def test_the_seed_decides_whatever_encoder_and_kinds() -> None:
    images = photographs(30)
    every = evaluate_encoder_robustness(MeanColor(), images, queries=10, seed=4)
    some = evaluate_encoder_robustness(MeanColor(), images, queries=10, seed=4, kinds=["noise"])
    assert dict(some.scores) == {"noise": every.scores["noise"]}
    other = evaluate_encoder_robustness(Same(1), images, queries=10, seed=4)
    differing = evaluate_encoder_robustness(MeanColor(), images, queries=10, seed=5)
    for name, image in every.examples[0].items():
        np.testing.assert_array_equal(image, other.examples[0][name])
    assert any((every.examples[0][k] != differing.examples[0][k]).any() for k in CORRUPTIONS)
    assert list(every.examples[0]) == ["original", *CORRUPTIONS]


def test_copies_count_as_the_original_and_are_asked_once() -> None:
    images = plain_colors(6)
    copied = [*images, *images[:4], *[images[0]] * 20]
    found = evaluate_encoder_robustness(MeanColor(), copied, k=2, kinds=["crop"])
    assert (found.rows, found.queries) == (30, 6)
    assert found.scores["crop"].recall_at_1.value == 1


def test_another_image_at_the_same_distance_counts_as_nearer() -> None:
    red, green, blue = plain_colors(3)
    twin = red.copy()
    twin[[0, 1], 0] = (red[0, 0] - 10, red[0, 0] + 10)  # other pixels of the same mean
    found = evaluate_encoder_robustness(MeanColor(), [red, twin, green, blue], k=4, kinds=["occlusion"])
    assert found.scores["occlusion"].recall.value == 1
    assert found.scores["occlusion"].recall_at_1.value == 0.5, "red and its twin are second"


def test_encoders_of_one_size_and_large_images_are_served(digits: Source) -> None:
    exact = Pixels("exact", Preprocessing(8, 8, 1, exact=True))
    images = [item.image() for item in digits][:40]
    assert evaluate_encoder_robustness(exact, images).scores["jpeg"].recall.value > 0.5
    rng = np.random.default_rng(0)
    large = [rng.integers(0, 256, (40, 1500, 3), dtype=np.uint8) for _ in range(2)]
    found = evaluate_encoder_robustness(MeanColor(), large)
    assert {image.shape for image in found.examples[0].values()} == {(27, 1024, 3)}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "0 rows hold 0"),
        (photographs(1), "1 rows hold 1"),
        (photographs(1) * 5, "5 rows hold 1"),
    ],
)
def test_one_image_alone_says_nothing(images: list[ImageArray], said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate_encoder_robustness(MeanColor(), images)


def test_settings_out_of_range_are_refused(gallery: Gallery) -> None:
    for setting in ({"k": 0}, {"queries": 0}, {"seed": -1}, {"metric": "l3"}, {"k": 20_000}):
        with pytest.raises(SettingError, match=f"{next(iter(setting))}"):
            la.evaluate_robustness(gallery, **setting)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="at least one distortion"):
        evaluate_encoder_robustness(MeanColor(), photographs(3), kinds=[])
    with pytest.raises(UnknownNameError, match="did you mean 'noise'"):
        evaluate_encoder_robustness(MeanColor(), photographs(3), kinds=["nois"])
    assert la.evaluate_robustness(gallery, k=1_000, queries=5).scores["jpeg"].recall.value == 1


def test_progress_comes_to_its_end(gallery: Gallery) -> None:
    told: list[Progress] = []
    la.evaluate_robustness(gallery, queries=100, on_progress=told.append)
    assert [p.done for p in told] == [0, 64, 100]
    assert {(p.task, p.total) for p in told} == {("self-retrieval", 100)}


def test_the_function_is_not_hidden_by_a_module() -> None:
    for name in ("invariance", "originals", "self_report", "corruptions"):
        importlib.import_module(f"lookalike.{name}")
    assert callable(la.evaluate_robustness)
    assert SAID in (la.evaluate_robustness.__doc__ or "").replace("the encoder", "this encoder")


@pytest.fixture
def unlabeled(tmp_path: Path) -> Path:
    """A gallery of twelve files without labels, one of them twice; its images lie beside it."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(photographs(12)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    shutil.copy(tmp_path / "photos" / "0.png", tmp_path / "photos" / "copy.png")
    run("index", "p.gallery", "photos", "--encoder", "pixels", cwd=tmp_path)
    return tmp_path


def test_images_that_are_gone_are_skipped_and_named(unlabeled: Path) -> None:
    gallery = Gallery.open(unlabeled / "p.gallery")
    whole = la.evaluate_robustness(gallery)
    assert (whole.queries, whole.rows) == (12, 13)
    assert whole.scores["jpeg"].recall_at_1.value == 1
    (unlabeled / "photos" / "3.png").unlink()
    (unlabeled / "photos" / "7.png").write_bytes(b"x")
    found = la.evaluate_robustness(gallery)
    assert found.queries == 10
    assert [Path(failure.uri).name for failure in found.skipped] == ["3.png", "7.png"]
    assert found.skipped[0].reason.startswith("cannot be read")
    assert found.as_dict()["skipped"] == 2
    done = lookalike("evaluate", "robustness", "p.gallery", "--json", cwd=unlabeled)
    assert done.returncode == 1
    assert "3.png: cannot be read" in done.stderr
    assert "2 images skipped" in done.stderr
    assert json.loads(done.stdout)["queries"] == 10
    shutil.rmtree(unlabeled / "photos")
    gone = lookalike("evaluate", "robustness", "p.gallery", cwd=unlabeled)
    assert gone.returncode == 2
    assert "not one of the 12 images drawn can be read; the first, " in gone.stderr


def test_the_command_line_prints_table_json_and_report(unlabeled: Path) -> None:
    shown = run("evaluate", "robustness", "p.gallery", "-k", 3, cwd=unlabeled)
    assert "12 corrupted images, each to find its original among 13 rows, cosine" in shown
    assert f"pixels: {SAID}" in shown
    for name, kind in CORRUPTIONS.items():
        assert f"\n{name} " in shown
        assert kind.summary in shown
    for column in ("mAP@3", "R@1", "recall@3"):
        assert column in shown
    arguments = ("evaluate", "robustness", "p.gallery", "--metric", "l2", "--report", "r/self.html")
    found = json.loads(run(*arguments, "--json", cwd=unlabeled))
    corruptions = found.pop("corruptions")
    assert found == {
        "measures": SAID,
        "k": 7,
        "seed": 0,
        "queries": 12,
        "skipped": 0,
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
    page = (unlabeled / "r" / "self.html").read_text()
    assert page.count(SAID) >= 2
    assert page.count("data:image/png;base64,") == 2
    assert "What pixels is invariant to, in p.gallery" in page


def test_the_help_says_what_it_is_not() -> None:
    assert SAID in " ".join(run("evaluate", "robustness", "--help").split())
    assert SAID == MEANING


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos"], "unexpected argument photos"),
        (["--baselines"], "no such option --baselines"),
        (["--first", "50"], "no such option --first"),
        (["-k", "0"], "n = 0"),
        (["--metric", "dot"], "--metric dot"),
    ],
)
def test_options_of_evaluate_are_refused(
    unlabeled: Path, arguments: list[str], said: str
) -> None:
    done = lookalike("evaluate", "robustness", "p.gallery", *arguments, cwd=unlabeled)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("error:") == 1
    assert done.stdout == ""


def test_empty_and_lonely_galleries_are_refused(tmp_path: Path, pixels: Encoder) -> None:
    Gallery.create(tmp_path / "e.gallery", encoder=pixels)
    empty = lookalike("evaluate", "robustness", "e.gallery", cwd=tmp_path)
    assert empty.returncode == 2
    assert "e.gallery: self-retrieval needs at least 2 distinct images" in empty.stderr
    lonely = Gallery.create(tmp_path / "l.gallery", encoder=pixels)
    (tmp_path / "one-images-idx3-ubyte").write_bytes(idx_bytes(np.ones((1, 8, 8), np.uint8)))
    lonely.sync(open_source(tmp_path / "one-images-idx3-ubyte"))
    alone = lookalike("evaluate", "robustness", "l.gallery", cwd=tmp_path)
    assert alone.returncode == 2
    assert "1 rows hold 1" in alone.stderr
