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
        self._check(columns)
        mask = np.zeros(len(columns), np.bool_)
        mask[self.rows] = True
        return mask

    def ascending(self, columns: Columns) -> NDArray[np.int64]:
        """Return the row numbers, ascending and each once.

        Raises:
            ValueError: the columns are of another snapshot, where the numbers mean other rows.
        """
        self._check(columns)
        is_ascending = (self.rows[1:] > self.rows[:-1]).all()
        return self.rows if is_ascending else np.unique(self.rows)

    def _check(self, columns: Columns) -> None:
        if columns is not self.columns:
            raise ValueError("row numbers are valid in one snapshot only")
