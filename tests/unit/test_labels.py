"""Labels suggested, spread and checked, on clusters whose labels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import InputError, SettingError
from lookalike.gallery.neighbors import graph_of
from lookalike.labels import Graph, LabelSet, check, read_given, separate, spread, suggest
from lookalike.labels.propagation import SPREAD

KINDS = 6
EACH = 60
PRECISION = 0.95


def clusters(spread_by: float = 0.25, seed: int = 0) -> tuple[Graph, list[str]]:
    """Return a graph of blobs, the first ones larger, and what each row is."""
    rng = np.random.default_rng(seed)
    centers = np.eye(KINDS, 16) * 3
    kinds = np.repeat(np.arange(KINDS), EACH)
    values = centers[kinds] + rng.normal(0, spread_by, (len(kinds), 16))
    ids = tuple(f"x:{row:03d}" for row in range(len(kinds)))
    return graph_of(ids, values.astype(np.float32)), [f"kind {kind}" for kind in kinds]


def named(graph: Graph, truth: list[str], rows: list[int]) -> LabelSet:
    return LabelSet("labels.csv", {graph.ids[row]: (truth[row],) for row in rows})


def accuracy(graph: Graph, truth: list[str], given: LabelSet) -> float:
    found = spread(graph, given)
    return float(np.mean([guess == (t,) for guess, t in zip(found.guesses, truth, strict=True)]))


def test_the_graph_is_that_of_computing_every_distance() -> None:
    graph, _ = clusters()
    all_pairs = np.linalg.norm(graph.embeddings[:, None] - graph.embeddings[None], axis=2)
    np.fill_diagonal(all_pairs, np.inf)
    np.testing.assert_array_equal(np.sort(all_pairs.argsort(1)[:, :20]), np.sort(graph.rows))
    np.testing.assert_allclose(graph.distances, np.sort(all_pairs, 1)[:, :20], rtol=1e-4)


def test_identical_images_are_each_others_neighbors_and_never_their_own() -> None:
    graph = graph_of(tuple("abcdef"), np.ones((6, 3), np.float32))
    assert all(row not in near for row, near in enumerate(graph.rows))
    assert np.isfinite(graph.affinity(5).toarray()).all()
    assert len(set(suggest(graph, 4))) == 4


def test_as_many_suggestions_as_kinds_show_every_kind() -> None:
    graph, truth = clusters()
    rows = suggest(graph, KINDS)
    assert {truth[row] for row in rows} == set(truth)


def test_suggestions_are_never_twice_and_never_labeled_ones() -> None:
    graph, truth = clusters()
    first = suggest(graph, 10)
    given = named(graph, truth, first)
    second = suggest(graph, 10, given)
    assert len(set(first) | set(second)) == 20
    assert sorted(suggest(graph, len(graph))) == list(range(len(graph)))
    with pytest.raises(SettingError, match="must be from 1 to 350"):
        suggest(graph, 351, given)


def test_a_kind_that_nobody_named_is_suggested_next() -> None:
    graph, truth = clusters()
    known = [row for row in range(len(graph)) if truth[row] in ("kind 0", "kind 1")][::12]
    assert truth[suggest(graph, 4, named(graph, truth, known))[0]] not in ("kind 0", "kind 1")


def test_one_label_a_kind_labels_all() -> None:
    graph, truth = clusters()
    rows = suggest(graph, KINDS)
    assert accuracy(graph, truth, named(graph, truth, rows)) == 1


def test_given_labels_are_kept_even_if_all_neighbors_say_otherwise() -> None:
    graph, truth = clusters()
    rows = suggest(graph, 40)
    given = named(graph, truth, rows)
    wrong = LabelSet("labels.csv", {**given.of, graph.ids[rows[0]]: ("another",)})
    found = spread(graph, wrong)
    assert found.labels[rows[0]] == ("another",)
    assert found.confidence[rows[0]] == 1
    assert found.status(rows[0]) == "given"


def test_what_is_accepted_at_a_precision_is_as_precise_and_the_rest_unknown() -> None:
    graph, truth = clusters(spread_by=0.9)
    given = named(graph, truth, suggest(graph, 80))
    found = spread(graph, given, precision=PRECISION)
    rest = [row for row in range(len(graph)) if not found.given[row]]
    accepted = [row for row in rest if found.status(row) == SPREAD]
    right = np.mean([found.labels[row] == (truth[row],) for row in accepted])
    all_right = np.mean([found.guesses[row] == (truth[row],) for row in rest])
    assert all_right < PRECISION <= right
    assert 0.3 < found.coverage < 1
    assert found.coverage == len(accepted) / len(rest)
    assert found.expected >= PRECISION
    statuses = {row["status"] for row in found.rows()}
    assert statuses == {"given", "spread", "unknown"}


def test_confidence_is_calibrated() -> None:
    gaps = []
    for seed in range(5):
        graph, truth = clusters(spread_by=1.1, seed=seed)
        found = spread(graph, named(graph, truth, suggest(graph, 80)))
        rest = ~found.given
        right = np.array([g == (t,) for g, t in zip(found.guesses, truth, strict=True)])[rest]
        gaps.append(float(found.confidence[rest].mean() - right.mean()))
    assert abs(np.mean(gaps)) < 0.06


def test_several_labels_an_image() -> None:
    graph, truth = clusters()
    both = {kind: (kind, "round") if kind < "kind 3" else (kind,) for kind in set(truth)}
    given = LabelSet("g", {graph.ids[row]: both[truth[row]] for row in range(0, len(graph), 5)})
    found = spread(graph, given)
    want = [tuple(sorted(both[kind])) for kind in truth]
    assert np.mean([a == b for a, b in zip(found.guesses, want, strict=True)]) > 0.98


def test_too_few_labels_are_spread_but_promise_nothing() -> None:
    graph, truth = clusters()
    given = named(graph, truth, suggest(graph, KINDS))
    assert not spread(graph, given).calibrated
    with pytest.raises(InputError, match="too few to promise a precision"):
        spread(graph, given, precision=0.9)


def test_wrong_labels_are_ranked_first() -> None:
    graph, truth = clusters()
    planted = [5, 100, 200, 300]
    said = {i: (truth[row],) for row, i in enumerate(graph.ids)}
    said |= {graph.ids[row]: ("kind 5" if row < 300 else "kind 0",) for row in planted}
    found = check(graph, LabelSet("g", said))
    assert {suspect.row for suspect in found.suspects[:4]} == set(planted)
    assert {suspect.row for suspect in found.contradicted} == set(planted)
    assert found.suspects[0].proposed == (truth[found.suspects[0].row],)


def test_three_images_are_enough() -> None:
    graph = graph_of(tuple("abc"), np.array([[0, 1], [0, 1.1], [5, 5]], np.float32))
    assert len(suggest(graph, 2)) == 2
    found = spread(graph, LabelSet("g", {"a": ("x",), "c": ("y",)}))
    assert found.guesses[1] == ("x",)
    assert check(graph, LabelSet("g", {"a": ("x",), "b": ("y",), "c": ("y",)})).labeled == 3


def test_cells_are_separated() -> None:
    assert separate(" b; a ;b;; unknown") == ("a", "b")
    assert separate("unknown") == separate("") == ()


def test_files_of_labels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("\ufeffid,label,other\na,Öl; 猫,1\nb,,2\nc,unknown,3\n", encoding="utf-8")
    assert read_given(path, "abc").of == {"a": ("Öl", "猫")}
    path.write_text("id,label,status\na,x,given\nb,x,spread\nc,unknown,unknown\n")
    assert read_given(path, "abc").of == {"a": ("x",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\nabx,1\n", "line 2: no image of the gallery has the id 'abx'; did you mean"),
        ("id,label\nabc,1\nabc,2\n", "line 3: abc is '2' here and '1' above"),
        ("name,label\nabc,1\n", "line 1: its columns are label, name; expected id and label"),
        ("", "line 1: its columns are none"),
    ],
)
def test_files_that_are_not_usable_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="csv") as raised:
        read_given(path, ["abc", "abd"])
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("of", "said"),
    [({}, "no image has a label"), ({"a": ("x",), "b": ("x",)}, "all 2 labeled images are 'x'")],
)
def test_labels_that_tell_nothing_apart_are_refused(
    of: dict[str, tuple[str, ...]], said: str
) -> None:
    graph = graph_of(tuple("abc"), np.eye(3, dtype=np.float32))
    for work in (spread, check):
        with pytest.raises(InputError, match=said):
            work(graph, LabelSet("g.csv", of))
