"""Suggestion, propagation and checking of labels, on clusters whose classes are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, InputError, SettingError
from lookalike.gallery.derived import Origin
from lookalike.gallery.neighbors import graph_from_embeddings
from lookalike.gallery.state import GalleryState
from lookalike.labels import (
    LabelingSession,
    LabelSet,
    NeighborGraph,
    Propagation,
    propagate,
    rank_labels,
    suggest,
)
from lookalike.labels.homogeneity import homogeneity, homogeneity_threshold

CLASSES = 6
PER_CLASS = 60
PRECISION = 0.95


def clusters(noise: float = 0.25, seed: int = 0) -> tuple[NeighborGraph, list[str]]:
    """Return a graph of Gaussian clusters and the class of each row."""
    rng = np.random.default_rng(seed)
    centers = np.eye(CLASSES, 16) * 3
    numbers = np.repeat(np.arange(CLASSES), PER_CLASS)
    values = centers[numbers] + rng.normal(0, noise, (len(numbers), 16))
    ids = tuple(f"x:{row:03d}" for row in range(len(numbers)))
    return graph_from_embeddings(ids, values.astype(np.float32)), [
        f"class {number}" for number in numbers
    ]


def labels_of(graph: NeighborGraph, truth: list[str], rows: list[int]) -> LabelSet:
    """Return the true labels of some rows."""
    return LabelSet("labels.csv", {graph.ids[row]: (truth[row],) for row in rows})


def correct(result: Propagation, truth: list[str]) -> np.ndarray:
    """Return which predictions are correct, ``(n,)``."""
    return np.array(
        [predicted == (label,) for predicted, label in zip(result.predictions, truth, strict=True)]
    )


def test_graph_equals_brute_force() -> None:
    graph, _ = clusters()
    values = graph.embeddings[:]
    all_pairs = np.linalg.norm(values[:, None] - values[None], axis=2)
    np.fill_diagonal(all_pairs, np.inf)
    np.testing.assert_array_equal(np.sort(all_pairs.argsort(1)[:, :20]), np.sort(graph.rows))
    np.testing.assert_allclose(graph.distances, np.sort(all_pairs, 1)[:, :20], rtol=1e-4)


def test_identical_images_are_neighbors_of_each_other_but_not_of_themselves() -> None:
    graph = graph_from_embeddings(tuple("abcdef"), np.ones((6, 3), np.float32))
    assert all(row not in neighbors for row, neighbors in enumerate(graph.rows))
    assert np.isfinite(graph.affinity(5).toarray()).all()
    assert len(set(suggest(graph, 4))) == 4


def test_as_many_suggestions_as_classes_include_every_class() -> None:
    graph, truth = clusters()
    rows = suggest(graph, CLASSES)
    assert {truth[row] for row in rows} == set(truth)


def test_suggestions_are_distinct_and_unlabeled() -> None:
    graph, truth = clusters()
    first = suggest(graph, 10)
    labels = labels_of(graph, truth, first)
    second = suggest(graph, 10, labels)
    assert len(set(first) | set(second)) == 20
    assert sorted(suggest(graph, len(graph))) == list(range(len(graph)))
    with pytest.raises(SettingError, match="k=351 must be from 1 to 350"):
        suggest(graph, 351, labels)


def test_unlabeled_class_is_suggested_next() -> None:
    graph, truth = clusters()
    labeled = [row for row in range(len(graph)) if truth[row] in ("class 0", "class 1")][::12]
    next_row = suggest(graph, 4, labels_of(graph, truth, labeled))[0]
    assert truth[next_row] not in ("class 0", "class 1")


def test_one_label_per_class_labels_all_images() -> None:
    graph, truth = clusters()
    labels = labels_of(graph, truth, suggest(graph, CLASSES))
    assert correct(propagate(graph, labels), truth).all()


def test_labels_are_kept_even_if_all_neighbors_disagree() -> None:
    graph, truth = clusters()
    rows = suggest(graph, 40)
    labels = labels_of(graph, truth, rows)
    wrong = LabelSet("labels.csv", {**labels.by_id, graph.ids[rows[0]]: ("another",)})
    result = propagate(graph, wrong)
    assert result.labels[rows[0]] == ("another",)
    assert result.confidence[rows[0]] == 1
    assert result.status(rows[0]) == "labeled"


def test_target_precision_is_reached_and_the_rest_is_unknown() -> None:
    graph, truth = clusters(noise=0.9)
    labels = labels_of(graph, truth, suggest(graph, 80))
    result = propagate(graph, labels, precision=PRECISION)
    is_correct = correct(result, truth)
    rest = np.flatnonzero(~result.labeled)
    accepted = [row for row in rest if result.status(int(row)) == "propagated"]
    assert all(result.labels[row] == result.predictions[row] for row in accepted)
    assert is_correct[rest].mean() < PRECISION <= is_correct[accepted].mean()
    assert result.coverage is not None
    assert 0.3 < result.coverage < 1
    assert result.coverage == len(accepted) / len(rest)
    assert result.expected_precision is not None
    assert result.expected_precision >= PRECISION
    statuses = {row["status"] for row in result.rows()}
    assert statuses == {"labeled", "propagated", "unknown"}


def test_images_that_no_label_reaches_are_unknown() -> None:
    graph, truth = clusters()  # a component of the graph for each class
    rows = [row for row in range(0, len(graph), 4) if truth[row] < "class 3"]
    labels = labels_of(graph, truth, rows)
    result = propagate(graph, labels)
    assert result.method == "graph-10"
    far = np.array([label >= "class 3" for label in truth])
    assert result.unreached == far.sum() == result.as_dict()["unreached"]
    assert {result.labels[row] for row in np.flatnonzero(far)} == {()}
    assert np.isnan(result.confidence[far]).all()
    assert np.isfinite(result.confidence[~far]).all()
    assert result.expected_precision is not None
    assert result.expected_precision > 0.9
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["coverage"] < 0.5
    cells = {row["id"]: row for row in result.rows()}["x:359"]
    assert (cells["status"], cells["confidence"], cells["prediction"]) == ("unknown", "", "")
    assert result.metadata("kind")[359]["kind_confidence"] is None
    assert set(suggest(graph, 3, labels)) <= set(np.flatnonzero(far).tolist())


def test_zero_embeddings_get_no_label_but_their_own() -> None:
    graph, truth = clusters()
    graph = replace(graph, zero_embeddings=("a:1", "x:000b", "z:1"))
    by_id = labels_of(graph, truth, suggest(graph, 40)).by_id
    result = propagate(graph, LabelSet("labels.csv", {**by_id, "z:1": ("class 1",)}))
    assert list(result.ids) == sorted(result.ids)
    by_row = {row_id: result.status(row) for row, row_id in enumerate(result.ids)}
    assert (by_row["a:1"], by_row["x:000b"], by_row["z:1"]) == ("unknown", "unknown", "labeled")
    assert (result.zero_embeddings, result.unreached) == (3, 2)
    assert result.as_dict()["labeled"] == 41
    only = LabelSet("labels.csv", {"a:1": ("one",), "z:1": ("two",)})
    with pytest.raises(InputError, match="every labeled image has an embedding of zeros"):
        propagate(graph, only)


def test_shares_of_nothing_are_undefined() -> None:
    graph, truth = clusters()
    result = propagate(graph, labels_of(graph, truth, list(range(len(graph)))))
    assert (result.coverage, result.expected_precision) == (None, None)


def test_confidence_is_calibrated() -> None:
    gaps = []
    for seed in range(5):
        graph, truth = clusters(noise=1.1, seed=seed)
        result = propagate(graph, labels_of(graph, truth, suggest(graph, 80)))
        rest = ~result.labeled
        gaps.append(float(result.confidence[rest].mean() - correct(result, truth)[rest].mean()))
    assert abs(np.mean(gaps)) < 0.06


def test_summary_counts_labels_and_averages_confidence() -> None:
    graph, truth = clusters()
    result = propagate(graph, labels_of(graph, truth, suggest(graph, 40)))
    summary = result.summary()
    assert [each["label"] for each in summary] == sorted(set(truth))
    assert sum(each["labeled"] for each in summary) == 40
    assert sum(each["labeled"] + each["propagated"] for each in summary) == len(graph)
    rows = [r for r in np.flatnonzero(~result.labeled) if result.labels[r] == ("class 0",)]
    assert summary[0]["confidence"] == pytest.approx(result.confidence[rows].mean())


def test_images_with_several_labels() -> None:
    graph, truth = clusters()
    several = {each: (each, "round") if each < "class 3" else (each,) for each in set(truth)}
    rows = range(0, len(graph), 5)
    labels = LabelSet("labels.csv", {graph.ids[row]: several[truth[row]] for row in rows})
    result = propagate(graph, labels)
    expected = [tuple(sorted(several[each])) for each in truth]
    assert np.mean([a == b for a, b in zip(result.predictions, expected, strict=True)]) > 0.98


def test_few_labels_are_propagated_without_calibration() -> None:
    graph, truth = clusters()
    labels = labels_of(graph, truth, suggest(graph, CLASSES))
    assert not propagate(graph, labels).calibrated
    with pytest.raises(InputError, match="too few labels for a target precision"):
        propagate(graph, labels, precision=0.9)


def test_precision_out_of_range_is_rejected() -> None:
    graph, truth = clusters()
    with pytest.raises(SettingError, match="precision=99 must be between 0 and 1"):
        propagate(graph, labels_of(graph, truth, suggest(graph, CLASSES)), precision=99)


def test_wrong_labels_rank_first() -> None:
    graph, truth = clusters()
    wrong = [5, 100, 200, 300]
    labels = {row_id: (truth[row],) for row, row_id in enumerate(graph.ids)}
    labels |= {graph.ids[row]: ("class 5" if row < 300 else "class 0",) for row in wrong}
    result = rank_labels(graph, LabelSet("labels.csv", labels))
    assert {issue.row for issue in result.ranking[:4]} == set(wrong)
    assert {issue.row for issue in result.issues} == set(wrong)
    assert result.issues[0].suggested == (truth[result.issues[0].row],)
    assert result.issues[0].neighbors == 10
    assert all(each.disagreement == 0 for each in result.ranking if each.agreeing == 10)


def test_three_images_are_enough() -> None:
    graph = graph_from_embeddings(tuple("abc"), np.array([[0, 1], [0, 1.1], [5, 5]], np.float32))
    assert len(suggest(graph, 2)) == 2
    result = propagate(graph, LabelSet("labels.csv", {"a": ("x",), "c": ("y",)}))
    assert result.predictions[1] == ("x",)
    labels = LabelSet("labels.csv", {"a": ("x",), "b": ("y",), "c": ("y",)})
    assert rank_labels(graph, labels).labeled == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "no image has a label"),
        ({"a": ("x",), "b": ("x",)}, r"the only label is 'x' \(2 images\)"),
    ],
)
@pytest.mark.parametrize("function", [propagate, rank_labels])
def test_fewer_than_two_classes_are_rejected(
    labels: dict[str, tuple[str, ...]],
    message: str,
    function: Callable[[NeighborGraph, LabelSet], object],
) -> None:
    graph = graph_from_embeddings(tuple("abc"), np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match=message):
        function(graph, LabelSet("labels.csv", labels))


def session_of(graph: NeighborGraph) -> LabelingSession:
    origin = Origin(GalleryState("identity", "1-a"), "now")
    return LabelingSession(
        graph=graph, groups=(), homogeneity=(), min_homogeneity=0.0, labels={}, origin=origin
    )


def test_homogeneity_is_the_mean_similarity_of_all_pairs() -> None:
    graph, _ = clusters(noise=0.9)
    unit = graph.embeddings[:] / np.linalg.norm(graph.embeddings[:], axis=1, keepdims=True)
    rows = [0, 3, 70, 200]
    pairs = (unit[rows] @ unit[rows].T)[np.triu_indices(len(rows), 1)]
    assert homogeneity(graph, rows) == pytest.approx(pairs.mean(), abs=1e-6)
    assert homogeneity(graph, [5]) == 1
    opposite = graph_from_embeddings(("a", "b"), np.array([[1, 0], [-1, 0]], np.float32))
    assert homogeneity(opposite, [0, 1]) == 0
    same = graph_from_embeddings(tuple("abc"), np.ones((3, 2), np.float32))
    assert homogeneity(same, [0, 1, 2]) == pytest.approx(1)
    assert homogeneity_threshold(same) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.25, 0.6])
@pytest.mark.parametrize("offset", [0, 20])
def test_groups_of_one_class_are_homogeneous_and_mixed_ones_not(noise: float, offset: int) -> None:
    """Also where all embeddings are similar, as those of some encoders are."""
    graph, _ = clusters(noise)
    graph = graph_from_embeddings(graph.ids, graph.embeddings[:] + np.float32(offset))
    threshold = homogeneity_threshold(graph)
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        own = number * PER_CLASS + rng.choice(PER_CLASS, 8, replace=False)
        other = (own[:4] + PER_CLASS) % len(graph)
        assert homogeneity(graph, own.tolist()) >= threshold
        assert homogeneity(graph, [*own[:4].tolist(), *other.tolist()]) < threshold


@pytest.mark.parametrize("several", [False, True])
def test_coverage_in_chunks_equals_that_of_all_labels(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, truth = clusters()
    labels = {
        graph.ids[row]: (truth[row], *(["also"] if several and row < 3 * PER_CLASS else []))
        for row in range(0, len(graph), 12)
    }
    session = session_of(graph)
    expected = session.coverage(labels)
    assert (expected.images, expected.labeled) == (len(graph), len(labels))
    assert expected.covered > len(labels)
    assert len(expected.labels) == CLASSES + several
    for values in (1, 700, 1_500):
        monkeypatch.setattr("lookalike.labels.propagation_methods._CHUNK_VALUES", values)
        assert session_of(graph).coverage(labels) == expected


def test_labels_times_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = clusters()
    session = session_of(graph)
    many = {graph.ids[row]: tuple(f"{row} {n}" for n in range(20)) for row in range(100)}
    with pytest.raises(InputError, match=r"2,000 different labels; the limit .* is 1,000"):
        session.coverage(many)
    monkeypatch.setattr("lookalike.labels.session.MAX_CELLS", 360 * 30)
    with pytest.raises(InputError, match="40 different labels; the limit for 360 images is 30"):
        session.coverage(dict([*many.items()][:2]))


def test_propagation_can_be_cancelled() -> None:
    graph, truth = clusters()
    cancellation = Cancellation()
    cancellation.cancel()
    labels = labels_of(graph, truth, list(range(0, len(graph), 12)))
    session = session_of(graph)
    for work in (
        lambda: session.coverage(labels.by_id),
        lambda: propagate(graph, labels),
        lambda: rank_labels(graph, labels),
        lambda: suggest(graph, 5, labels),
        lambda: graph_from_embeddings(graph.ids, graph.embeddings[:]),
    ):
        with cancellable(cancellation), pytest.raises(CancelledError):
            work()
    with cancellable(cancellation), session._estimating, pytest.raises(CancelledError):
        session.coverage(labels.by_id)  # and so can one that waits for another
    assert session.coverage(labels.by_id).covered
