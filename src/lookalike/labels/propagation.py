"""Label propagation: labels for all images from those of a few, with calibrated confidences."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.errors import InputError, MissingRowError, SettingError
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.neighbors import NeighborGraph, neighbor_graph
from lookalike.gallery.notebook import table_html, text_html
from lookalike.gallery.state import GalleryState
from lookalike.labels.cross_validation import (
    HeldOutPredictions,
    cross_validate,
    make_folds,
    select_method,
)
from lookalike.labels.gallery_labels import labels_for
from lookalike.labels.propagation_methods import (
    DEFAULT,
    LabelMatrix,
    Method,
    check_installed,
    methods_for,
)
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.labels import (
    LABELED,
    PROPAGATED,
    SEPARATOR,
    STATUSES,
    UNKNOWN,
    LabelSet,
    LabelSource,
)
from lookalike.sources.tables import data_frame
from lookalike.types import Progress, ProgressCallback, ignore_progress

if TYPE_CHECKING:
    import pandas as pd

MIN_HELD_OUT = 20
"""With fewer labels to hold out, confidence cannot be calibrated."""


@dataclass(frozen=True, slots=True)
class PropagatedLabel:
    """What propagation says of one image.

    ``labels`` are empty where unknown, ``prediction`` are the likeliest ones in any case.
    ``confidence`` is the probability that the prediction is correct, NaN without one. ``status`` is
    ``labeled``, ``propagated`` or ``unknown``.
    """

    id: str
    labels: tuple[str, ...]
    confidence: float
    status: str
    prediction: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Propagation:
    """Labels of all rows of a gallery, sorted by id; ``result[id]`` is that of one.

    ``predictions`` are the likeliest labels of every row, empty where there is none: no label
    reaches the row along the graph, or its embedding is zero (``zero_embeddings`` rows, where the
    metric is cosine). ``labels`` are the accepted ones, empty where unknown. ``confidence``
    ``(n,)`` is the calibrated probability that the prediction is correct, NaN without one, 1 for
    labeled rows (``labeled`` ``(n,)``). A prediction is accepted if its confidence
    reaches ``threshold``, which is set by the target ``precision``. ``accuracies`` maps each
    method to its cross-validated accuracy. With too few labels ``calibrated`` is false,
    ``accuracies`` is empty, and confidences only rank the images. ``state`` is that of the gallery
    when its graph was computed.
    """

    ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    predictions: tuple[tuple[str, ...], ...]
    confidence: NDArray[np.float64]
    labeled: NDArray[np.bool_]
    method: str
    accuracies: Mapping[str, float]
    threshold: float
    precision: float | None
    calibrated: bool
    state: GalleryState | None = None
    zero_embeddings: int = 0
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        counts = Counter(self.status(row) for row in range(len(self)))
        numbers = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)
        return f"<Propagation to {format_count(len(self), 'image')}: {numbers}, {self.method}>"

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, row_id: object) -> bool:
        return isinstance(row_id, str) and self._place(row_id) is not None

    def __getitem__(self, row_id: str) -> PropagatedLabel:
        """Return what is known of one image.

        Raises:
            MissingRowError: there is no row with that id.
        """
        row = self._place(row_id)
        if row is None:
            raise MissingRowError(f"no image has the id {row_id!r}")
        return PropagatedLabel(
            row_id,
            self.labels[row],
            float(self.confidence[row]),
            self.status(row),
            self.predictions[row],
        )

    def _place(self, row_id: str) -> int | None:
        row = bisect_left(self.ids, row_id)
        return row if row < len(self.ids) and self.ids[row] == row_id else None

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each image, in order of id.

        Its columns are ``id``, ``label`` (null where unknown), ``confidence`` (0 to 1, NaN without
        a prediction), ``status`` and ``prediction``; several labels are separated by semicolons.
        Read as labels again, only rows of status ``labeled`` count.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        columns = {
            "id": list(self.ids),
            "label": [SEPARATOR.join(each) or None for each in self.labels],
            "confidence": self.confidence,
            "status": [self.status(row) for row in range(len(self))],
            "prediction": [SEPARATOR.join(each) or None for each in self.predictions],
        }
        return data_frame("Propagation.to_pandas", columns)

    def write(self, column: str) -> None:
        """Write labels, confidences and statuses into the metadata of the gallery.

        The columns are ``column``, ``column_confidence`` and ``column_status``. They stay with an
        image as long as its content does, also when its source is synced again. Rows that were
        removed since are left out.

        Args:
            column: a new one, or one that was written so before.

        Raises:
            SettingError: the name cannot be that of a column.
            InputError: the gallery has such a column from elsewhere.
            ReplacedError: another gallery was put in its place.
            StorageError: the write failed, or another process is writing.
        """
        from lookalike.labels.write_back import check_column, write_labels

        if self.gallery is None:
            raise InputError("this propagation has no gallery to be written to")
        check_column(self.gallery, column)
        write_labels(self.gallery, self, column)

    def _repr_html_(self) -> str:
        """Return the counts by label for a notebook."""
        rows = [
            (
                each["label"],
                f"{each['labeled']:,}",
                f"{each['propagated']:,}",
                "" if each["confidence"] is None else f"{each['confidence']:.3f}",
            )
            for each in self.summary()
        ]
        table = table_html(("label", "labeled", "propagated", "mean confidence"), rows)
        return f"<p>{text_html(self)}</p>{table}"

    def status(self, row: int) -> str:
        """Return ``labeled``, ``propagated`` or ``unknown``."""
        if self.labeled[row]:
            return LABELED
        return PROPAGATED if self.labels[row] else UNKNOWN

    @property
    def coverage(self) -> float | None:
        """The share of unlabeled rows that got a label; None if all rows are labeled."""
        rest = np.flatnonzero(~self.labeled)
        return sum(bool(self.labels[row]) for row in rest) / len(rest) if len(rest) else None

    @property
    def expected_precision(self) -> float | None:
        """The expected share of correct labels among the propagated; None if there are none."""
        accepted = [row for row in np.flatnonzero(~self.labeled) if self.labels[row]]
        return float(self.confidence[accepted].mean()) if accepted else None

    @property
    def unreached(self) -> int:
        """The number of rows without a prediction."""
        return sum(not each for each in self.predictions)

    def summary(self) -> list[dict[str, Any]]:
        """Return counts of labeled and propagated images and the mean confidence, by label."""
        labeled: Counter[str] = Counter()
        confidences: dict[str, list[float]] = {}
        for row, labels in enumerate(self.labels):
            for label in labels:
                propagated = confidences.setdefault(label, [])
                if self.labeled[row]:
                    labeled[label] += 1
                else:
                    propagated.append(float(self.confidence[row]))
        return [
            {
                "label": label,
                "labeled": labeled[label],
                "propagated": len(values),
                "confidence": float(np.mean(values)) if values else None,
            }
            for label, values in sorted(confidences.items())
        ]

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a CSV row for each image, in order of id."""
        for row, row_id in enumerate(self.ids):
            yield {
                "id": row_id,
                "label": SEPARATOR.join(self.labels[row]) or UNKNOWN,
                "confidence": f"{self.confidence[row]:.4f}" if self.predictions[row] else "",
                "status": self.status(row),
                "prediction": SEPARATOR.join(self.predictions[row]),
            }

    def metadata(self, column: str) -> Sequence[dict[str, Any]]:
        """Return label, confidence and status as metadata of each row, in order of id."""
        return [
            {
                column: SEPARATOR.join(self.labels[row]) or None,
                f"{column}_confidence": (
                    round(float(self.confidence[row]), 4) if self.predictions[row] else None
                ),
                f"{column}_status": self.status(row),
            }
            for row in range(len(self.ids))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike label propagate --json``."""
        return {
            "images": len(self.ids),
            "labeled": int(self.labeled.sum()),
            "propagated": sum(self.status(row) == PROPAGATED for row in range(len(self.ids))),
            "unreached": self.unreached,
            "zero_embeddings": self.zero_embeddings,
            "coverage": self.coverage,
            "expected_precision": self.expected_precision if self.calibrated else None,
            "target_precision": self.precision,
            "threshold": self.threshold,
            "method": self.method,
            "accuracies": dict(self.accuracies),
            "calibrated": self.calibrated,
            "labels": self.summary(),
        }


@checked
def propagate_labels(
    gallery: Gallery,
    labels: LabelSource,
    *,
    precision: float | None = None,
    seed: int = 0,
    progress: ProgressOption = True,
) -> Propagation:
    """Propagate a few labels to all images of a gallery, with confidences.

    The method is chosen, and the confidence calibrated, by cross-validation (:func:`propagate`).
    Labels that are passed never change. Nothing is written; :meth:`Propagation.write` does.

    Args:
        gallery: whose images are labeled.
        labels: what :func:`~lookalike.sources.labels.read_labels` takes: a label file, a mapping
            from id to a label or a list of labels, a pandas Series or DataFrame.
        precision: the target precision, e.g. 0.99; the uncertain become unknown. None accepts all.
        seed: of the cross-validation.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        InputError: no labels, only one class, an unknown id, too few labels for a target precision,
            or fewer than two rows.
        SettingError: ``precision`` is not between 0 and 1.
        MissingDependencyError: scikit-learn is not installed.
    """
    check_installed()
    view = as_gallery(gallery).snapshot()
    label_set = labels_for(view, labels)
    label_set.validate()
    check_precision(precision)
    with reporting(progress) as on_progress:
        graph = neighbor_graph(view, on_progress=on_progress)
        result = propagate(
            graph, label_set, precision=precision, seed=seed, on_progress=on_progress
        )
    return replace(result, gallery=gallery)


def check_precision(precision: float | None) -> None:
    """Check a target precision.

    Raises:
        SettingError: it is not between 0 and 1.
    """
    is_number = isinstance(precision, int | float | np.floating) and not isinstance(precision, bool)
    if precision is not None and not (is_number and 0 < precision < 1):
        raise SettingError("{precision} must be between 0 and 1, e.g. 0.99", precision=precision)


def propagate(
    graph: NeighborGraph,
    labels: LabelSet,
    *,
    precision: float | None = None,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> Propagation:
    """Propagate the labels of some rows to all rows of a gallery.

    Methods are propagation on the neighbor graph (10, 5 or 20 neighbors) and a vote of the 1, 3
    or 5 nearest labeled rows. Ten-fold cross-validation, repeated twice, selects one of them
    (:func:`lookalike.labels.cross_validation.select_method`), and the same held-out predictions
    calibrate its confidence (:meth:`HeldOutPredictions.calibrate`).

    Args:
        graph: neighbor graph of the gallery.
        labels: labels by id.
        precision: the target precision; predictions below the confidence that it needs are
            unknown. None accepts all.
        seed: of the division into folds.
        on_progress: called after each method.

    Raises:
        InputError: no labels, only one class, too few labels for a target precision, or none of a
            row with an embedding but zeros.
        SettingError: ``precision`` is not between 0 and 1.
    """
    labels.validate()
    check_precision(precision)
    matrix = LabelMatrix.of(graph, labels)
    if not len(matrix.labeled):
        raise InputError(
            f"{labels.name}: every labeled image has an embedding of zeros, which has no "
            "neighbors; label others, or use another encoder"
        )
    folds = make_folds(matrix, seed)
    held_out = int(folds.scored.sum())
    calibrated = held_out >= MIN_HELD_OUT
    if precision is not None and not calibrated:
        raise InputError(
            f"{labels.name}: too few labels for a target precision: {held_out} of {len(labels):,} "
            f"can be held out for calibration, {MIN_HELD_OUT} are needed; label more images, or "
            "omit {precision}",
            precision=None,
        )
    methods = methods_for(graph)
    results: dict[str, HeldOutPredictions] = {}
    for number, name in enumerate(methods, 1):
        results[name] = cross_validate(matrix, methods[name], folds)
        on_progress(Progress("cross-validation", number, len(methods), "methods", name))
    method = select_method(results) if calibrated else DEFAULT
    predicted, confidence = _predict(matrix, methods[method])
    if calibrated:
        confidence = results[method].calibrate(confidence)
    confidence[matrix.labeled] = 1
    labeled = np.zeros(len(graph), np.bool_)
    labeled[matrix.labeled] = True
    threshold = 0.0 if precision is None else _threshold(confidence[~labeled], precision)
    predictions = matrix.names(predicted)
    for row in matrix.labeled:
        predictions[row] = labels.by_id[graph.ids[row]]
    accepted = labeled | (confidence >= threshold)
    result = Propagation(
        ids=graph.ids,
        labels=tuple(each if accepted[row] else () for row, each in enumerate(predictions)),
        predictions=tuple(predictions),
        confidence=confidence,
        labeled=labeled,
        method=method,
        accuracies={name: each.accuracy.value for name, each in results.items()}
        if calibrated
        else {},
        threshold=threshold,
        precision=precision,
        calibrated=calibrated,
        state=graph.state,
    )
    return _with_rows(result, graph.zero_embeddings, labels) if graph.zero_embeddings else result


def _with_rows(result: Propagation, ids: tuple[str, ...], labels: LabelSet) -> Propagation:
    """Return a propagation with rows that are not in the graph: with their own labels, or none."""
    own = tuple(labels.by_id.get(row_id, ()) for row_id in ids)
    labeled = np.array([bool(each) for each in own])
    every = (*result.ids, *ids)
    order = sorted(range(len(every)), key=every.__getitem__)
    every_label, predictions = (*result.labels, *own), (*result.predictions, *own)
    confidence = np.concatenate([result.confidence, np.where(labeled, 1.0, np.nan)])
    return replace(
        result,
        ids=tuple(every[row] for row in order),
        labels=tuple(every_label[row] for row in order),
        predictions=tuple(predictions[row] for row in order),
        confidence=confidence[order],
        labeled=np.concatenate([result.labeled, labeled])[order],
        zero_embeddings=len(ids),
    )


def raw_confidence(graph: NeighborGraph, labels: LabelSet) -> NDArray[np.float32]:
    """Return uncalibrated confidences of propagated labels, ``(n,)``, 1 for labeled rows.

    0 where no label reaches a row.

    Raises:
        InputError: no labels, or only one class.
    """
    labels.validate()
    matrix = LabelMatrix.of(graph, labels)
    _, confidence = _predict(matrix, methods_for(graph)[DEFAULT])
    confidence[matrix.labeled] = 1
    return np.nan_to_num(confidence, nan=0).astype(np.float32)


def _predict(labels: LabelMatrix, method: Method) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Predict all rows from all labeled ones; return classes and raw confidences."""
    return labels.predict(method(labels, labels.labeled, np.arange(len(labels.graph))))


def _threshold(confidence: NDArray[np.float64], precision: float) -> float:
    """Return the lowest threshold whose accepted predictions reach a precision in expectation."""
    falling = np.sort(confidence[np.isfinite(confidence)])[::-1]
    errors = np.cumsum(1 - falling) / np.arange(1, len(falling) + 1)
    fits = np.flatnonzero(errors <= 1 - precision)
    return float(falling[fits[-1]]) if len(fits) else float(np.nextafter(1, 2))
