"""Model selection: estimators against slow versions, ranking, label sheets, damaged files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import lookalike as la
from lookalike.encoders.base import Encoder
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation.agreement import (
    K,
    LabelJudgements,
    PairJudgements,
    read_judgements,
    roc_auc,
)
from lookalike.evaluation.candidates import Candidate, ChooseOptions, candidate_names
from lookalike.evaluation.label_sheet import draw_rows, write_label_sheet
from lookalike.evaluation.model_selection import OWN, choose, rank_candidates
from lookalike.evaluation.trial import leave_one_out
from lookalike.sources import FolderSource, Source
from lookalike.sources.labels import LabelSet, read_labels
from lookalike.types import Embeddings

QUICK = ChooseOptions(encoders=("pixels", "hog"), train=False)
IDS = tuple(f"s:{i}" for i in range(40))


class Named(Encoder):
    """An encoder that is never run."""

    normalized = True
    fingerprint = "none"
    dim = 2
    name: str

    def __init__(self, name: str) -> None:
        self.name = name

    def encode_batch(self, images: object) -> Embeddings:
        raise AssertionError(f"{images} were encoded")

    def files(self) -> Mapping[str, bytes]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {}


def labeled(labels: dict[str, str]) -> LabelJudgements:
    return LabelJudgements(read_labels(labels))


def candidate(name: str, embeddings: NDArray[np.floating], rate: float) -> Candidate:
    return Candidate(name, Named(name), embeddings.astype(np.float32), rate)


def clustered(labels: Sequence[str], noise: float, seed: int = 0) -> Embeddings:
    """Vectors around one center per label."""
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    centers = np.eye(len(names), 8)
    rows = np.stack([centers[names.index(label)] for label in labels])
    return (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)


def label_set(labels: Sequence[str]) -> LabelSet:
    return LabelSet("labels", {f"{i:03}": (label,) for i, label in enumerate(labels)})


def slow_average_precision(query: int, rows: Embeddings, labels: Sequence[str]) -> float | None:
    others = [i for i in range(len(labels)) if i != query]
    relevant = sum(labels[i] == labels[query] for i in others)
    if not relevant:
        return None

    def cosine(i: int) -> float:
        a, b = rows[query].astype(float), rows[i].astype(float)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    correct = total = 0.0
    for rank, i in enumerate(sorted(others, key=cosine, reverse=True)[:K], 1):
        if labels[i] == labels[query]:
            correct += 1
            total += correct / rank
    return total / min(K, relevant)


@pytest.mark.parametrize("count", [4, 30])
def test_leave_one_out_matches_a_slow_version(count: int) -> None:
    rng = np.random.default_rng(count)
    labels = [*rng.choice(list("abc"), count - 1), "alone"]
    rows = rng.standard_normal((count, 6)).astype(np.float32)
    slow = [slow_average_precision(i, rows, labels) for i in range(count)]
    expected = [value for value in slow if value is not None]
    assert len(expected) < count
    values = leave_one_out(rows, label_set(labels), k=K).scores.average_precision
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_ties_do_not_profit_from_the_order_of_the_labels() -> None:
    same = leave_one_out(np.ones((200, 3), np.float32), label_set(["a"] * 100 + ["b"] * 100), k=K)
    assert same.map.value < 0.6


def test_area_under_the_curve_matches_a_slow_version() -> None:
    positive, negative = np.array([0.9, 0.5, 0.5]), np.array([0.5, 0.1])
    pairs = [(a, b) for a in positive for b in negative]
    slow = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert roc_auc(positive, negative) == pytest.approx(slow)
    assert roc_auc(np.ones(5), np.ones(6)) == 0.5


def test_area_under_the_curve_matches_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, (3, 40)).round(1), rng.normal(0, 1, (3, 60)).round(1)
    truth = np.repeat([1, 0], [40, 60])
    theirs = [
        roc_auc_score(truth, np.concatenate(row)) for row in zip(positive, negative, strict=True)
    ]
    np.testing.assert_allclose(roc_auc(positive, negative), theirs)
    np.testing.assert_allclose(roc_auc(positive.T, negative.T, axis=0), theirs)


def test_differences_between_encoders_are_paired() -> None:
    rng = np.random.default_rng(7)
    ids = tuple(f"s:{i}" for i in range(200))
    rows = rng.standard_normal((200, 2)).astype(np.float32)
    pairs = tuple((ids[i], ids[i + 100]) for i in range(100))
    rows[100:150] = rows[:50] + 0.5 * rng.standard_normal((50, 2))
    judgements = PairJudgements(pairs, tuple(i < 50 for i in range(100)))
    place = {row_id: i for i, row_id in enumerate(ids)}
    rows = rows[[place[row_id] for row_id in judgements.ids]]
    quality = judgements.compare({"one": rows, "rotated": rows @ np.array([[0, 1], [-1, 0]], "f4")})
    assert quality["one"].estimate.interval.low < quality["one"].estimate.interval.high - 0.05
    for each in quality.values():  # the same similarities but for rounding
        assert abs(each.difference.low) < 1e-3
        assert abs(each.difference.high) < 1e-3


def test_pairs_rank_the_encoder_that_separates_them_first() -> None:
    labels = [str(i % 4) for i in range(40)]
    rng = np.random.default_rng(3)
    pairs = tuple((IDS[a], IDS[b]) for a, b in rng.permuted(np.arange(40)).reshape(20, 2))
    pairs += tuple((IDS[i], IDS[i + 4]) for i in range(20))
    place = {row_id: i for i, row_id in enumerate(IDS)}
    judgements = PairJudgements(
        pairs, tuple(labels[place[a]] == labels[place[b]] for a, b in pairs)
    )
    rows = [place[row_id] for row_id in judgements.ids]
    good, bad = clustered(labels, 0.05)[rows], clustered(labels, 3)[rows]
    result = judgements.compare({"bad": bad, "good": good})
    assert result["good"].estimate.value == 1.0
    assert (result["good"].difference.low, result["good"].difference.high) == (0, 0)
    assert not result["bad"].tied
    low, high = result["bad"].estimate.interval.low, result["bad"].estimate.interval.high
    assert low < result["bad"].estimate.value < high


def test_the_best_and_the_fastest_tied_with_it_are_marked() -> None:
    labels = [str(i % 4) for i in range(40)]
    judgements = labeled(dict(zip(IDS, labels, strict=True)))
    good = clustered(labels, 0.1)
    candidates = [
        candidate("bad but fast", clustered(labels, 9), 1000),
        candidate("good", good, 10),
        candidate("as good, faster", good.copy(), 100),
        candidate("as good, slow", good.copy(), 1),
    ]
    result = rank_candidates(candidates, judgements, IDS)
    assert [c.name for c in result] == ["as good, faster", "good", "as good, slow", "bad but fast"]
    assert [c.name for c in result if c.best] == ["as good, faster"]
    assert [c.name for c in result if c.cheapest] == ["as good, faster"]
    assert [c.quality.tied for c in result if c.quality] == [True, True, True, False]


def test_the_cheapest_may_differ_from_the_best() -> None:
    labels = [str(i % 4) for i in range(40)]
    judgements = labeled(dict(zip(IDS, labels, strict=True)))
    worse = clustered(labels, 0.1)
    worse[0] = -1  # one of forty images is far from the others of its label
    result = rank_candidates(
        [candidate("slow", clustered(labels, 0.1), 1), candidate("fast", worse, 9)], judgements, IDS
    )
    assert [(c.name, c.best, c.cheapest) for c in result] == [
        ("slow", True, False),
        ("fast", False, True),
    ]


def test_drawn_rows_are_deterministic_distinct_and_unlabeled() -> None:
    first = draw_rows(60, 20, exclude={3, 7}, seed=1)
    assert first == draw_rows(60, 20, exclude={3, 7}, seed=1)
    assert len(set(first)) == 20
    assert not {3, 7} & set(first)
    assert first != draw_rows(60, 20, exclude={3, 7}, seed=2)
    assert sorted(draw_rows(60, 60)) == list(range(60))
    for count in (1, 59):
        with pytest.raises(SettingError, match=f"ask={count} must be from 2 to 58"):
            draw_rows(60, count, exclude={3, 7})


def test_label_sheets_are_read_back(digits: Source, tmp_path: Path) -> None:
    items = [digits[i] for i in range(30)]
    labels = {item.id: str(item.metadata["label"]) for item in items[:20]}
    path = write_label_sheet(tmp_path / "ask", items, labels)
    result = read_judgements(path, [item.id for item in digits])
    assert isinstance(result, LabelJudgements)
    assert result.labels.texts == labels


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_files_of_spreadsheets_are_read(tmp_path: Path) -> None:
    rows = "".join(f"{IDS[i]} ; {'ab'[i % 2]}\n" for i in range(12))
    path = written(tmp_path / "l.csv", "id;label\n" + rows + f"{IDS[20]};\n", "utf-8-sig")
    result = read_judgements(path, IDS)
    assert isinstance(result, LabelJudgements)
    assert len(result.labels) == 12
    assert result.labels.by_id[IDS[1]] == ("b",)


def test_pairs_are_read_with_any_word_for_yes_and_no(tmp_path: Path) -> None:
    answers = ["yes", "1", "TRUE", "y", "Yes", "no", "0", "false", "n", "No", ""]
    rows = "".join(f"{IDS[i]},{IDS[i + 12]},{word},x\n" for i, word in enumerate(answers))
    result = read_judgements(written(tmp_path / "p.csv", "id_a,id_b,similar,why\n" + rows), IDS)
    assert isinstance(result, PairJudgements)
    assert result.similar == (True,) * 5 + (False,) * 5


MANY = "".join(f"{IDS[i]},{'ab'[i % 2]}\n" for i in range(12))
BAD = {
    "no columns": ("name,kind\nx,y\n", r"line 1: the columns are kind, name; expected id"),
    "nothing": ("", r"line 1: expected a header"),
    "no rows": ("id,label\n", r"0 labeled images, at least 10 needed"),
    "unknown id": (
        f"id,label\ns:4O,a\n{MANY}",
        r"line 2: no image has the id 's:4O'; did you mean 's:4",
    ),
    "strange id": ("id,label\n????,a\n", r"line 2: .*ids look like 's:0'"),
    "contradiction": (
        f"id,label\n{MANY}s:0,b\n",
        r"line 14: s:0 has the label 'b' here and 'a' above",
    ),
    "one label": (
        "id,label\n" + "".join(f"{i},a\n" for i in IDS[:12]),
        r"all 12 images have the label 'a'",
    ),
    "too few": ("id,label\ns:0,a\ns:1,b\ns:2,\n", r"2 labeled images.* label 8 more"),
    "all empty": ("id,label\ns:0,\n", r"0 labeled images.* label 10 more"),
    "all different": (
        "id,label\n" + "".join(f"{i},{i}\n" for i in IDS),
        r"images that share their label with another: 0",
    ),
    "no judgement": (
        "id_a,id_b,similar\ns:0,s:1,maybe\n",
        r"line 2, column similar: 'maybe'; expected",
    ),
    "itself": ("id_a,id_b,similar\ns:0,s:0,yes\n", r"line 2, column id_b: s:0, the same as id_a"),
    "unknown second": ("id_a,id_b,similar\ns:0,s:99,yes\n", r"line 2, column id_b: no image"),
    "both ways": (
        "id_a,id_b,similar\ns:0,s:1,yes\ns:1,s:0,no\n",
        r"line 3, column similar: contradicts a row above",
    ),
    "few pairs": ("id_a,id_b,similar\ns:0,s:1,yes\n", r"1 similar pair,.* judge 4 more"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_line_and_column(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(InputError, match=message) as caught:
        read_judgements(path, IDS)
    assert str(caught.value).startswith(str(path))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_judgements(written(tmp_path / "l.csv", "id,label\né,a\n", "latin-1"), IDS)
    with pytest.raises(InputError, match="cannot be read"):
        read_judgements(tmp_path / "none.csv", IDS)


def test_without_labels_nothing_is_ranked(digits: Source) -> None:
    result = choose(digits, options=QUICK)
    assert [c.name for c in result.candidates] == ["pixels", "hog"]
    assert all(
        c.quality is None and set(c.robustness) == {"noise", "jpeg"} for c in result.candidates
    )
    assert "without labels, quality is unknown" in result.verdict()
    assert result.as_dict()["best"] is None
    with pytest.raises(InputError, match="without labels, quality is unknown"):
        result.select()


def test_own_labels_are_used_on_request(digits: Source) -> None:
    result = la.choose(digits, labels=OWN, options=QUICK)
    assert result.judgements is not None
    assert result.judgements.summary == "400 labeled images, 10 labels"
    values = [c.quality.estimate.value for c in result.candidates if c.quality]
    assert values == sorted(values, reverse=True)
    assert result.select().best
    assert result.select(cheapest=True).cheapest
    assert result.verdict().startswith(f"{result.candidates[0].name} is best on 400")


def test_encoders_that_cannot_be_run_are_listed(folder: Path, digits: Source) -> None:
    source = FolderSource.scan(folder)
    few = choose(source, options=ChooseOptions(encoders=("pca", "pixels"), train=False))
    assert [c.name for c in few.candidates] == ["pixels"]
    assert "needs at least 32 images to fit 32 components; there are 12" in few.not_tried["pca"]
    with pytest.raises(InputError, match=r"no encoder could be run: .*time limit reached"):
        choose(digits, options=ChooseOptions(minutes=1e-9))
    short = choose(digits, options=ChooseOptions(minutes=0.2, encoders=("pixels",)))
    assert "too little time left for training" in short.not_tried["contrastive"]


def test_unreadable_images_are_skipped(folder: Path) -> None:
    (folder / "red" / "broken.png").write_bytes(b"x")
    result = choose(FolderSource.scan(folder), labels=OWN, options=QUICK)
    assert [Path(f.uri).name for f in result.skipped] == ["broken.png"]
    assert result.judgements is not None
    assert result.judgements.summary == "12 labeled images, 3 labels"


def test_settings_are_checked(digits: Source) -> None:
    with pytest.raises(SettingError, match="minutes=0 must be above 0"):
        choose(digits, options=ChooseOptions(minutes=0))
    with pytest.raises(UnknownNameError, match="did you mean 'hog'"):
        choose(digits, options=ChooseOptions(encoders=("hgo",)))
    assert candidate_names()[0] == "pixels"
