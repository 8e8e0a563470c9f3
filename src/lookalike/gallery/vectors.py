"""Rows of embeddings that were made elsewhere, with what their owner says of their images."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import InputError
from lookalike.files import escape_name, expand_home, is_url
from lookalike.gallery.ids import can_be_id, check_distinct, id_text
from lookalike.metadata import check_metadata, is_missing, metadata_rows
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, check_embeddings
from lookalike.vectors import as_numbers

_BATCH = 8_192

_SHAPE = "expected an array (n, dim) of numbers, with at least one row"


class TemporaryFolder:
    """A folder that is deleted with this object, or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="lookalike-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class ExternalRows:
    """Embeddings ``(n, dim)`` float32 and, for each, an id, a URI and metadata."""

    embeddings: Embeddings
    ids: list[str]
    uris: list[str]
    metadata: list[dict[str, Any]]

    @classmethod
    def of(cls, embeddings: object, ids: object, uris: object, metadata: object) -> ExternalRows:
        """Check the arguments of :meth:`lookalike.Gallery.from_embeddings`.

        Raises:
            InputError: one of them has another form or another length; it is named.
        """
        matrix = _matrix(embeddings)
        names = _ids(ids, len(matrix))
        rows = metadata_rows(metadata, len(matrix), of="embeddings")
        for number, row in enumerate(rows):
            check_metadata(row, what=f"metadata[{number}]")
        return cls(matrix, names, _uris(uris, len(matrix)), rows)

    def batches(self) -> Iterator[Rows]:
        """Yield the rows; the content hash of each is that of its embedding."""
        for start in range(0, len(self.ids), _BATCH):
            part = slice(start, start + _BATCH)
            matrix = self.embeddings[part]
            hashes = [hashlib.sha256(row.tobytes()).hexdigest() for row in matrix]
            yield Rows(self.ids[part], self.uris[part], matrix, self.metadata[part], hashes)


def _matrix(embeddings: object) -> Embeddings:
    try:
        with np.errstate(over="ignore"):  # what is too large is not finite, and refused
            matrix = as_numbers(embeddings).astype(np.float32)
    except ValueError as error:
        raise InputError(f"embeddings: {_SHAPE}; got {type(embeddings).__name__}") from error
    if matrix.ndim != 2 or not matrix.size:
        raise InputError(f"embeddings: {_SHAPE}; got the shape {matrix.shape}")
    return check_embeddings(matrix, what="embeddings")


def _listed(values: object, count: int, name: str) -> list[Any]:
    unordered = isinstance(values, str | bytes | Mapping | set | frozenset) or hasattr(
        values, "columns"
    )
    if unordered or not isinstance(values, Iterable):
        raise InputError(f"{name}: expected a list with one per row, got {type(values).__name__}")
    listed = list(values)
    if len(listed) != count:
        raise InputError(
            f"{name}: got {len(listed):,} for {count:,} rows of embeddings; expected one each"
        )
    return listed


def _ids(ids: object, count: int) -> list[str]:
    """Return the ids of rows, as they are given: texts, or integers as texts."""
    if ids is None:
        return [str(number) for number in range(count)]
    chosen = []
    for value in _listed(ids, count, "ids"):
        text = id_text(value)
        if not isinstance(text, str):
            raise InputError(f"ids: expected texts or integers, got {type(value).__name__}")
        if not can_be_id(text):
            raise InputError(
                f"ids: {text[:80]!r} is empty, or has characters that cannot be stored"
            )
        chosen.append(text)
    check_distinct(chosen)
    return chosen


def _uris(uris: object, count: int) -> list[str]:
    if uris is None:
        return [""] * count
    return [_uri(value) for value in _listed(uris, count, "uris")]


def _uri(value: object) -> str:
    """Return the URI of an image: a path becomes absolute; empty for a missing one."""
    if is_missing(value):
        return ""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"uris: expected paths or URLs, got {type(value).__name__}")
    from lookalike.sources import DATASET_PREFIX

    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"uris: {text!r:.80} is no path or URL")
    if not text or is_url(text) or text.startswith(DATASET_PREFIX):
        return text
    return escape_name(str(Path(expand_home(text)).absolute()))
