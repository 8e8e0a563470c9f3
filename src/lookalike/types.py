"""Results, and the arrays that cross package boundaries; their shapes are checked on entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError
from lookalike.formatting import format_distance, format_metadata, printable

ImageArray = NDArray[np.uint8]
"""``(H, W)`` gray or ``(H, W, 3)`` RGB, uint8, upright."""

Embeddings = NDArray[np.float32]
"""``(n, dim)`` float32, finite."""

MAX_DIM = 1_000_000
"""Longest embedding."""

Metadata = Mapping[str, Any]
"""The metadata of an image, as JSON values. Evaluation reads the column ``label`` by default."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that was skipped, and why."""

    uri: str
    reason: str


class Metric(StrEnum):
    """Distance between two embeddings; smaller is nearer.

    ``l2`` is the Euclidean distance (not its square). ``cosine`` is 1 - cosine similarity, in
    [0, 2]; a zero vector is at distance 1 from everything.
    """

    L2 = "l2"
    COSINE = "cosine"

    @classmethod
    def _missing_(cls, value: object) -> None:
        """Refuse other names like any other setting out of range."""
        raise SettingError(f"{{metric}} must be {' or '.join(cls)}", metric=value)


@dataclass(frozen=True, slots=True, repr=False)
class Hit:
    """One retrieved row. ``rank`` counts from 1; ``distance`` is in the metric's own units."""

    rank: int
    id: str
    uri: str
    distance: float
    metadata: Metadata

    def __hash__(self) -> int:
        return hash((self.rank, self.id))  # not of the metadata, which may have lists

    def __repr__(self) -> str:
        place = f"{printable(self.id)!r} at {format_distance(self.distance)}"
        return f"<Hit {self.rank}: {place}, {format_metadata(self.metadata)}>"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a long task: ``done`` of ``total`` units (None if unknown), and a note."""

    task: str
    done: int
    total: int | None
    unit: str
    note: str = ""


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Ignore progress."""


def check_embeddings(values: object, *, dim: int | None = None, what: str) -> Embeddings:
    """Return ``values`` as contiguous ``(n, dim)`` float32.

    Args:
        values: the embeddings.
        dim: required dimensions; any by default.
        what: names the input in messages.

    Raises:
        InputError: not two-dimensional, of another ``dim``, or with NaN or Inf.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise InputError(f"{what}: expected embeddings of shape (n, dim), got {array.shape}")
    if dim is not None and array.shape[1] != dim:
        raise InputError(f"{what}: expected {dim} dimensions, got {array.shape[1]}")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"{what}: row {row} has NaN or Inf (rows affected: {int((~finite).sum())} "
            f"of {len(array)}); its distances are undefined"
        )
    return array
