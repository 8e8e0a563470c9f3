"""A selection of rows: as a filter, and as columns of these rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.filters.conditions import Columns
from lookalike.filters.encoded import EncodedColumn


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


@dataclass(frozen=True, slots=True)
class SelectedColumns:
    """The metadata of some rows by column.

    Args:
        columns: of all rows.
        rows: row numbers, in the order that rows have here.
    """

    columns: Columns
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Sequence[str]:
        """All columns, also those that only other rows have."""
        return self.columns.names

    def encoded(self, name: str) -> EncodedColumn:
        """Return the codes and values of a column, also values that only other rows have."""
        column = self.columns.encoded(name)
        return EncodedColumn(column.codes[self.rows], column.values)
