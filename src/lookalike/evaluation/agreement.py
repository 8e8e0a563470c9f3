"""What people said of images, labels or pairs alike or not, and how encoders agree with it.

Quality from labels is leave-one-out mAP@5 by cosine: each labeled image is asked for the other
labeled images. Five, and not all of them, since what a search shows are the nearest: over all
labeled images mAP was measured to prefer the wrong encoder however many labels there were
(HOG before fine HOG on MNIST, in each of 60 draws of 500 labels). Quality from pairs is the area
under the ROC curve of the cosine similarity. Both compare encoders on the same images.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.evaluation.metrics import (
    RESAMPLES,
    Estimate,
    Interval,
    average_precision_at_k,
    bootstrap_interval,
    bootstrap_batch_size,
)
from lookalike.types import Embeddings
from lookalike.vectors import unit_rows

N = 5
"""Hits that count for each labeled image."""

MIN_LABELED = 10
LEAST_PAIRS = 5
"""At least so many pairs alike, and as many that are not."""

_YES = frozenset(("yes", "y", "1", "true"))
_NO = frozenset(("no", "n", "0", "false"))
_OFFERED_AMONG = 20_000


@dataclass(frozen=True, slots=True)
class Quality:
    """An encoder's quality, and the 95 % interval of its difference to the best one's."""

    estimate: Estimate
    difference: Interval

    @property
    def within_noise(self) -> bool:
        """Whether the difference to the best may be none."""
        return self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, slots=True)
class Labels:
    """What is seen on images, by id."""

    of: Mapping[str, str]

    measure = f"leave-one-out mAP@{N}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The labeled images."""
        return tuple(self.of)

    @property
    def summary(self) -> str:
        """How many there are, in words."""
        return f"{len(self.of):,} labeled images of {len(set(self.of.values())):,} labels"

    def among(self, ids: frozenset[str]) -> Labels:
        """Return the labels of these images only."""
        return Labels({row_id: label for row_id, label in self.of.items() if row_id in ids})

    def check(self, name: str) -> None:
        """See that they are enough to compare encoders.

        Raises:
            InputError: too few, or of one label only; ``name`` is what the message calls them.
        """
        if len(self.of) < MIN_LABELED:
            raise InputError(
                f"{name}: {len(self.of)} images are labeled, at least {MIN_LABELED} are "
                f"needed: label {MIN_LABELED - len(self.of)} more"
            )
        counts = Counter(self.of.values())
        if len(counts) == 1:
            raise InputError(
                f"{name}: all {len(self.of)} images are labeled {next(iter(counts))!r}; label "
                "images of at least one other kind too"
            )
        paired = sum(count for count in counts.values() if count > 1)
        if paired < MIN_LABELED // 2:
            raise InputError(
                f"{name}: only {paired} images share their label with another one, at least "
                f"{MIN_LABELED // 2} must: label more images, or use fewer, broader labels"
            )

    def compare(self, embeddings: Mapping[str, Embeddings]) -> dict[str, Quality]:
        """Return each encoder's quality, from embeddings ``(ids, dim)`` in the order of ids.

        The intervals are bootstrapped over the images as queries; what they are asked among stays
        the same, which makes them somewhat narrow: with few labels a candidate that is truly as
        good as the best was outside the noise in up to 3 of 10 draws.
        """
        labels = np.array([self.of[row_id] for row_id in self.ids])
        values = {name: average_precisions(rows, labels) for name, rows in embeddings.items()}
        best = max(values, key=lambda name: float(values[name].mean()))
        return {
            name: Quality(
                Estimate(float(each.mean()), bootstrap_interval(each)),
                bootstrap_interval(each - values[best]),
            )
            for name, each in values.items()
        }


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of ids, and whether each was judged alike."""

    pairs: tuple[tuple[str, str], ...]
    alike: tuple[bool, ...]

    measure = "ROC AUC of alike against not"

    @property
    def ids(self) -> tuple[str, ...]:
        """The images in any of the pairs."""
        return tuple(dict.fromkeys(row_id for pair in self.pairs for row_id in pair))

    @property
    def summary(self) -> str:
        """How many there are, in words."""
        return f"{len(self.pairs):,} pairs, {sum(self.alike):,} of them alike"

    def among(self, ids: frozenset[str]) -> Pairs:
        """Return the pairs of these images only."""
        kept = [i for i, pair in enumerate(self.pairs) if ids.issuperset(pair)]
        return Pairs(tuple(self.pairs[i] for i in kept), tuple(self.alike[i] for i in kept))

    def check(self, name: str) -> None:
        """See that they are enough to compare encoders.

        Raises:
            InputError: too few alike or too few not; ``name`` is what the message calls them.
        """
        for word, count in (
            ("alike", sum(self.alike)),
            ("not alike", len(self.alike) - sum(self.alike)),
        ):
            if count < LEAST_PAIRS:
                raise InputError(
                    f"{name}: {count} pairs are judged {word}, at least {LEAST_PAIRS} are needed: "
                    f"judge {LEAST_PAIRS - count} more"
                )

    def compare(self, embeddings: Mapping[str, Embeddings]) -> dict[str, Quality]:
        """Return each encoder's quality, from embeddings ``(ids, dim)`` in the order of ids.

        The intervals are bootstrapped over the pairs, those alike and those not apart, with the
        same draws for every encoder.
        """
        from scipy.stats import bootstrap

        place = {row_id: row for row, row_id in enumerate(self.ids)}
        ends = np.array([[place[a], place[b]] for a, b in self.pairs])
        alike = np.array(self.alike)
        similarity = np.empty((len(embeddings), len(alike)))
        for number, rows in enumerate(embeddings.values()):
            unit = unit_rows(rows).astype(np.float64)
            similarity[number] = np.einsum("ij,ij->i", unit[ends[:, 0]], unit[ends[:, 1]])
        groups = similarity[:, alike], similarity[:, ~alike]
        values = roc_auc(*groups)
        # scipy draws the same pairs for every row, which keeps the differences paired.
        resampled = bootstrap(
            groups,
            roc_auc,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=bootstrap_batch_size(similarity.size),
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
        best = resampled[values.argmax()]
        return {
            name: Quality(Estimate(float(value), _interval(drawn)), _interval(drawn - best))
            for name, value, drawn in zip(embeddings, values, resampled, strict=True)
        }


Judgements = Labels | Pairs


def average_precisions(embeddings: Embeddings, labels: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return leave-one-out average precision at 5 of each image that shares its label.

    Args:
        embeddings: ``(n, dim)``.
        labels: ``(n,)``.

    Equal similarities are ordered by chance (the same for every encoder): the order of the images
    may follow their labels.
    """
    count = len(labels)
    order = np.random.default_rng(0).permutation(count)
    unit, names = unit_rows(embeddings[order]), labels[order]
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    n = min(N, count - 1)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :n]
    relevant = (names[:, None] == names).sum(axis=1) - 1
    found = average_precision_at_k(names[nearest] == names[:, None], relevant)
    values = np.empty(count)
    values[order] = found
    shared = np.empty(count, np.bool_)
    shared[order] = relevant > 0
    return values[shared]


def roc_auc(
    alike: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    """Return the area under the ROC curve: how often a similarity alike is the higher one.

    It is the Mann-Whitney statistic as a share, ties counting one half (Hanley and McNeil 1982).
    scikit-learn's ``roc_auc_score`` gives the same for one sample at a time; this takes all
    resamples at once.
    """
    from scipy.stats import mannwhitneyu

    wins = mannwhitneyu(alike, other, axis=axis, method="asymptotic").statistic
    return np.asarray(wins / (alike.shape[axis] * other.shape[axis]))


def read_judgements(path: Path, known: Sequence[str]) -> Judgements:
    """Read a CSV of labels (columns ``id``, ``label``) or pairs (``id_a``, ``id_b``, ``alike``).

    Other columns are passed over, and so are rows whose label or judgement is empty. ``alike`` is
    yes or no, 1 or 0, true or false. Columns may be separated by semicolons, as some spreadsheets
    write them.

    Args:
        path: the file.
        known: the ids of the source.

    Raises:
        InputError: it cannot be read, lacks columns, names an unknown id or contradicts itself
            (line and column are named), or holds too few judgements.
    """
    rows = _rows(path)
    columns = rows[0][1].keys() if rows else ()
    ids = frozenset(known)
    found: Judgements
    if {"id_a", "id_b", "alike"} <= set(columns):
        found = _pairs(path, rows, ids)
    else:
        found = _labels(path, rows, ids)
    found.check(str(path))
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers, cells stripped of spaces."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    first = text.split("\n", 1)[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=separator, restval="")
    names = {name.strip() for name in reader.fieldnames or ()}
    if not (names >= {"id", "label"} or names >= {"id_a", "id_b", "alike"}):
        raise InputError(
            f"{path}, line 1: its columns are {', '.join(sorted(names)) or 'none'}; expected "
            "id and label, or id_a, id_b and alike"
        )
    try:
        rows = [
            (reader.line_num, {k.strip(): v.strip() for k, v in row.items() if isinstance(k, str)})
            for row in reader
        ]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error
    if not rows:
        raise InputError(f"{path}: has no rows below its first line")
    return rows


def _labels(
    path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], known: frozenset[str]
) -> Labels:
    found: dict[str, str] = {}
    for line, row in rows:
        if not row["label"]:
            continue
        row_id = _known(path, line, "id", row["id"], known)
        if found.setdefault(row_id, row["label"]) != row["label"]:
            raise InputError(
                f"{path}, line {line}, column label: {row_id} is {row['label']!r} here and "
                f"{found[row_id]!r} above; keep one of the two rows"
            )
    return Labels(found)


def _pairs(
    path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], known: frozenset[str]
) -> Pairs:
    found: dict[tuple[str, str], bool] = {}
    for line, row in rows:
        said = row["alike"].lower()
        if not said:
            continue
        if said not in _YES | _NO:
            raise InputError(
                f"{path}, line {line}, column alike: {row['alike']!r}; expected yes or no, 1 or 0"
            )
        one, other = (_known(path, line, name, row[name], known) for name in ("id_a", "id_b"))
        if one == other:
            raise InputError(f"{path}, line {line}, column id_b: {other} is id_a as well")
        pair = min(one, other), max(one, other)
        if found.setdefault(pair, said in _YES) != (said in _YES):
            raise InputError(
                f"{path}, line {line}, column alike: the same two images are judged otherwise "
                "above; keep one of the two rows"
            )
    return Pairs(tuple(found), tuple(found.values()))


def _known(path: Path, line: int, column: str, row_id: str, known: frozenset[str]) -> str:
    if row_id in known:
        return row_id
    among = sorted(known)[:_OFFERED_AMONG]
    near = difflib.get_close_matches(row_id, among, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else f"; an id looks like {among[0]!r}"
    raise InputError(f"{path}, line {line}, column {column}: no image has the id {row_id!r}{hint}")


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))
