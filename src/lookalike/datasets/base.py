"""What a data set is: named splits of images in memory, and what is known of each image."""

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
    """Images ``(n, H, W)`` gray or ``(n, H, W, 3)`` RGB, uint8, and what is known of each.

    ``labels`` are ``(n,)`` uint8, indices into ``classes``; each of ``columns`` holds ``k`` texts.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Dataset(Protocol):
    """A named data set: facts for people, and :meth:`load`."""

    @property
    def name(self) -> str:
        """The name in ``dataset:NAME/SPLIT``."""
        ...

    @property
    def summary(self) -> str:
        """One line on what it holds."""
        ...

    @property
    def license(self) -> str:
        """Its license."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that :meth:`load` takes."""
        ...

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return one split, fetching it first where that is needed."""
        ...


def check_split(dataset: Dataset, split: str) -> None:
    """Raise UnknownNameError if a data set has no split of that name."""
    if split not in dataset.splits:
        raise UnknownNameError(f"split of dataset:{dataset.name}", split, dataset.splits)
