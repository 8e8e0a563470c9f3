"""The interface of a data set: named splits of images in memory, with labels and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import UnknownNameError
from lookalike.types import ProgressCallback, ignore_progress


@dataclass(frozen=True, slots=True)
class Split:
    """Images ``(n, H, W)`` gray or ``(n, H, W, 3)`` RGB, uint8, with labels and metadata.

    ``labels`` are ``(n,)`` uint8, indices into ``classes``; ``columns`` holds further metadata,
    ``n`` texts each.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Dataset(Protocol):
    """A named data set."""

    @property
    def name(self) -> str:
        """The name in ``dataset:NAME/SPLIT``."""
        ...

    @property
    def summary(self) -> str:
        """A one-line description."""
        ...

    @property
    def license(self) -> str:
        """Its license."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The split names for :meth:`load`."""
        ...

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return one split, downloading it if it is not cached."""
        ...


def check_split(dataset: Dataset, split: str) -> None:
    """Check that a data set has a split.

    Raises:
        UnknownNameError: it has not.
    """
    if split not in dataset.splits:
        raise UnknownNameError(f"split of dataset:{dataset.name}", split, dataset.splits)
