"""A selection of rows as a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.filters.conditions import Columns


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A filter that matches rows by their numbers, in the columns of one snapshot.

    Args:
        rows: row numbers, in any order, the most important first.
        columns: of the snapshot.
    """

    rows: NDArray[np.int64]
    columns: Columns

    def mask(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows these are.

        Raises:
            ValueError: the columns are of another snapshot, where the numbers mean other rows.
        """
        if columns is not self.columns:
            raise ValueError("row numbers are valid in one snapshot only")
        mask = np.zeros(len(columns), np.bool_)
        mask[self.rows] = True
        return mask
