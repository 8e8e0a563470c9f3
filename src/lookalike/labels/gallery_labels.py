"""The labels of a gallery: those that somebody passes for its images, or of its metadata."""

from __future__ import annotations

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.sources.labels import LABEL, LabelSet, LabelSource, labels_of_items, read_labels


def labels_for(gallery: Gallery, labels: LabelSource) -> LabelSet:
    """Read labels of images of a gallery; see :func:`~lookalike.sources.labels.read_labels`.

    Raises:
        InputError: they cannot be read, or name an image that the gallery has not.
    """
    return read_labels(labels, gallery.store.ids())


def gallery_labels(gallery: Gallery, column: str = LABEL) -> LabelSet:
    """Return the labels in a metadata column of a gallery.

    Raises:
        InputError: no row has a value in that column.
    """
    records = list(gallery.store.records())
    if not any(column in record.metadata for record in records):
        raise InputError(
            f"{gallery.path}: no metadata column {column!r}; pass another {{column}} or {{labels}}",
            column=None,
            labels=None,
        )
    return labels_of_items(f"{gallery.path}, column {column}", records, column=column)
