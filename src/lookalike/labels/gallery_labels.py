"""The labels of a gallery: those that somebody passes for its images, or of its metadata."""

from __future__ import annotations

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.sources.labels import LABEL, LabelSet, LabelSource, read_labels, split_labels


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
    store = gallery.snapshot().store
    columns = store.columns()
    if column not in columns.names:
        raise InputError(
            f"{gallery.path}: no metadata column {column!r}; pass another {{column}} or {{labels}}",
            column=None,
            labels=None,
        )
    ids, encoded = store.ids(), columns.encoded(column)
    codes = encoded.codes[store.row_numbers(ids)].tolist()
    labels_by_code = {code: split_labels(encoded.values[code]) for code in {*codes} - {-1}}
    pairs = ((row_id, labels_by_code.get(code)) for row_id, code in zip(ids, codes, strict=True))
    by_id = {row_id: labels for row_id, labels in pairs if labels}
    return LabelSet(f"{gallery.path}, column {column}", by_id)
