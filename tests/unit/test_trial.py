"""One engine: the same embeddings and labels have the same figures wherever they are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.handcrafted import Pixels
from lookalike.evaluation.agreement import K, LabelJudgements
from lookalike.evaluation.comparison import Comparison, verdict
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.metrics import QueryScores
from lookalike.evaluation.sanity_check import sanity_check
from lookalike.evaluation.trial import EncodedRows, Trial, TrialQuery, known_item, leave_one_out
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Source, open_source
from lookalike.sources.labels import LabelSet, labels_of_items
from lookalike.types import Metric

SIDE = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Images of six pixels: with ties, copies in one class and across classes, and a black one."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows") / "photos"
    rows = [(f"c{number % 4}", rng.integers(0, 9, SIDE) * 28) for number in range(36)]
    rows += [
        ("c0", rows[0][1]),
        ("c0", rows[0][1]),
        ("c1", rows[0][1]),
        ("c2", np.zeros(SIDE, np.int64)),
    ]
    rows += [("alone", rows[5][1])]
    for number, (label, values) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(np.asarray(values, np.uint8)[None])
        pixels.save(folder / label / f"{number:02}.png")
    return open_source(folder)


@pytest.fixture(scope="module")
def encoder() -> Pixels:
    return Pixels("six", Preprocessing(1, SIDE, 1))


def slow_precision(
    embeddings: np.ndarray, ids: list[str], labels: list[str], k: int
) -> list[float]:
    """Precision@k of every query with a relevant row, by comparing all pairs."""
    values = []
    for query, vector in enumerate(embeddings.astype(np.float64)):
        others = [row for row in range(len(ids)) if row != query]
        if sum(labels[row] == labels[query] for row in others) == 0:
            continue

        def distance(row: int, vector: np.ndarray = vector) -> float:
            other = embeddings[row].astype(np.float64)
            norm = np.sqrt((vector @ vector) * (other @ other))
            return float(1 - (vector @ other) / norm) if norm else 1.0

        nearest = sorted(others, key=lambda row: (round(distance(row), 12), ids[row]))[:k]
        correct = sum(labels[row] == labels[query] for row in nearest) if vector.any() else 0
        values.append(correct / k)
    return values


def test_every_caller_has_the_same_precision_and_interval(
    source: Source, encoder: Pixels, tmp_path: Path
) -> None:
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source, progress=False)
    result = evaluate(gallery, k=K, progress=False)
    explicit = evaluate(gallery, source, k=K, progress=False)
    labels = labels_of_items("own", source)
    embeddings = encoder.encode_batch([item.image() for item in source])
    trial = leave_one_out(embeddings, labels, k=K)
    ids = list(labels.by_id)
    slow = slow_precision(embeddings, ids, [label for (label,) in labels.by_id.values()], K)
    assert len(trial.relevant) == len(source) - 1  # one has a label of its own
    np.testing.assert_allclose(np.sort(trial.scores.precision), np.sort(slow))
    assert sum(not hits for hits in trial.hits) == 1  # the black one
    checked = sanity_check(encoder, source, k=K, progress=False)
    assert checked.comparison is not None
    assert checked.queries == len(trial.relevant)
    for other in (result.scores.precision, explicit.scores.precision, checked.comparison.score):
        assert other.value == pytest.approx(trial.precision.value, abs=1e-12)
        assert other.interval.low == pytest.approx(trial.precision.interval.low, abs=1e-12)
        assert other.interval.high == pytest.approx(trial.precision.interval.high, abs=1e-12)
    quality = LabelJudgements(labels).compare({"six": embeddings})["six"]
    assert quality.estimate.value == pytest.approx(result.scores.map.value, abs=1e-12)
    assert quality.estimate.interval.low == pytest.approx(result.scores.map.interval.low)


def test_a_search_for_one_known_image_is_the_same_trial() -> None:
    """With one relevant row and no ties, robustness and labels measure alike."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((24, 4)).astype(np.float32)
    ids = [f"s:{number:02}" for number in range(len(rows))]
    labels = LabelSet("pairs", {row_id: (str(n // 2),) for n, row_id in enumerate(ids)})
    trial = leave_one_out(rows, labels, k=5)
    others = [np.flatnonzero(np.arange(len(rows)) != query) for query in range(len(rows))]
    correct = np.concatenate(
        [
            known_item(
                EncodedRows([ids[row] for row in kept], rows[kept]),
                [frozenset((ids[query ^ 1],))],
                rows[[query]],
                k=5,
                metric=Metric.COSINE,
            )
            for query, kept in enumerate(others)
        ]
    )
    assert 0 < correct.sum() < len(rows)
    known = QueryScores.of(correct, np.ones(len(rows), np.int64))
    for name in ("average_precision", "recall_at_1", "recall"):
        np.testing.assert_allclose(getattr(known, name), getattr(trial.scores, name))


def test_a_known_image_ranks_after_all_others_at_its_distance() -> None:
    same = EncodedRows(["a", "b", "c"], np.ones((3, 2), np.float32))
    correct = known_item(
        same, [frozenset("a")], np.ones((1, 2), np.float32), k=3, metric=Metric.COSINE
    )
    assert correct.tolist() == [[False, False, True]]


def test_ignored_rows_and_the_query_are_neither_correct_nor_incorrect() -> None:
    rows = EncodedRows(["d", "a", "b", "c"], np.array([[4.0], [1.0], [2.0], [3.0]], np.float32))
    query = TrialQuery("a", frozenset("ac"), 1, frozenset("b"))
    embedding = np.array([[1.0]], np.float32)
    trial = Trial.search(rows, [query], embedding, k=2, metric=Metric.L2)
    assert [hit.id for hit in trial.hits[0]] == ["c", "d"]
    assert trial.correct.tolist() == [[True, False]]


def test_images_of_several_labels_are_relevant_if_they_share_one() -> None:
    labels = LabelSet("tags", {"a": ("x", "y"), "b": ("y",), "c": ("x",), "d": ("z",)})
    trial = leave_one_out(np.eye(4, dtype=np.float32), labels, k=3)
    assert trial.relevant.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("shift", "text"),
    [(0.2, ", better than the"), (-0.2, ", worse than the"), (0, ", not significantly different")],
)
def test_the_verdict_is_about_the_difference_by_query(shift: float, text: str) -> None:
    """Both have wide intervals, which overlap; what counts is the difference, paired by query."""
    values = np.linspace(0.2, 0.8, 50)
    noise = np.where(np.arange(50) % 2, 0.01, -0.01)
    comparison = Comparison.of(
        "mAP@5", "mine", values + noise + shift, {"pixels": values, "hog": values - 0.1}
    )
    assert comparison.best == "pixels"
    assert verdict(comparison).startswith(f"mine: mAP@5 {0.5 + shift:.4f}{text}")
    assert "the best baseline, pixels (0.5000): " in verdict(comparison)


def test_without_baselines_nothing_is_compared() -> None:
    alone = Comparison.of("precision@7", "mine", np.array([0.5, 0.7]), {})
    assert verdict(alone) == "mine: precision@7 0.6000; not compared with baselines"
    failed = Comparison.of("precision@7", "mine", np.array([0.5, 0.7]), {}, {"pca": "too few"})
    assert verdict(failed).endswith("; no baseline could be run")
    one = Comparison.of("precision@7", "mine", np.array([0.5]), {"hog": np.array([0.2])})
    assert "one query, so it cannot be compared with the best baseline, hog" in verdict(one)


def test_the_package_shows_a_trial_in_two_lines(source: Source, encoder: Pixels) -> None:
    checked = sanity_check(encoder, source, labels={}, progress=False)
    assert len(repr(checked).splitlines()) <= 2
    assert la.sanity_check is sanity_check
