"""Read Parquet files, with pyarrow, which the extra ``parquet`` installs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from lookalike.errors import SourceError, requiring
from lookalike.files import check_regular, valid_text
from lookalike.metadata import MAX_COLUMNS, MAX_LEVELS, plain
from lookalike.sources.tables import ColumnRows, Table, check_memory
from lookalike.texts import repeated
from lookalike.types import Failure

_BATCH_ROWS = 4_096
_BYTES_PER_VALUE = 16
_MAX_LEAVES = 10 * MAX_COLUMNS


def read_parquet(path: Path, without: Sequence[str]) -> Table:
    """Return the rows of a Parquet file that can be read, without some columns.

    Raises:
        SourceError: it is broken, or needs more memory than there is.
        MissingDependencyError: pyarrow is not installed.
    """
    with open_parquet(path) as file:
        names, problems = _columns_to_read(path, file, without)
    rows = _Batches()
    with open_parquet(path, read_dictionary=_texts_of(path)) as file:
        numbers = _read_row_groups(path, file, names, rows, problems)
    return Table(path, tuple(names), rows, 1, "row", tuple(problems), numbers)


class _Batches(ColumnRows):
    """The rows of batches of Arrow columns; converted on access."""

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._ends: list[int] = []

    def only(self, names: Sequence[str]) -> Self:
        """Return the rows with some of the columns."""
        rows = type(self)()
        for batch in self._batches:
            known = [name for name in dict.fromkeys(names) if name in batch.schema.names]
            rows.append(batch.select(known))
        return rows

    def append(self, batch: Any) -> None:
        """Add the rows of a batch."""
        self._batches.append(batch)
        self._ends.append(len(self) + batch.num_rows)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        row = range(len(self))[index]
        place = bisect_right(self._ends, row)
        batch, row = self._batches[place], row - (self._ends[place - 1] if place else 0)
        pairs = ((name, _cell(batch.column(name)[row])) for name in batch.schema.names)
        return {name: value for name, value in pairs if value is not None and value != ""}


def _cell(value: Any) -> Any:
    """Return a value of a column as a JSON value; None for what has none."""
    try:
        return plain(value.as_py() if hasattr(value, "as_py") else value)
    except UnicodeDecodeError as error:  # text that is none
        return plain(bytes(error.object).decode("utf-8", "surrogateescape"))
    except Exception:  # noqa: BLE001 - one value must not cost a row
        return _as_text(value)


def _as_text(value: Any) -> str | None:
    """Return a value that Python has not, such as a time in nanoseconds, as text."""
    try:
        return valid_text(value.cast("string").as_py())
    except Exception:  # noqa: BLE001 - one value must not cost a row
        return None


def open_parquet(path: Path, **options: Any) -> Any:
    """Return an open Parquet file, of which only the footer was read.

    Raises:
        SourceError: it is nested too deep, or broken.
        MissingDependencyError: pyarrow is not installed.
        OSError: it is no regular file.
    """
    check_regular(path)
    with requiring("pyarrow", f"{path}: reading Parquet", "parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        return pq.ParquetFile(path, **options)
    except (pa.ArrowException, OSError, ValueError) as error:  # names may be no text
        raise SourceError(f"{path}: broken Parquet ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _columns_to_read(
    path: Path, file: Any, without: Sequence[str]
) -> tuple[list[str], list[Failure]]:
    """Return the columns of a Parquet file that can be stored, and what is wrong with the others.

    Raises:
        SourceError: they may need more memory than there is.
    """
    metadata, names = file.metadata, [n for n in file.schema_arrow.names if n not in without]
    if metadata.num_columns > _MAX_LEAVES:
        raise SourceError(f"{path}: has {metadata.num_columns:,} columns, over {_MAX_LEAVES:,}")
    if (duplicate := repeated(names)) is not None:
        raise SourceError(f"{path}: duplicate column {duplicate!r}")
    leaves = [metadata.schema.column(i).path.split(".") for i in range(metadata.num_columns)]
    deep = {leaf[0] for leaf in leaves if len(leaf) > 2 * MAX_LEVELS}
    problems = [
        Failure(str(path), f"column {name!r} is nested over {MAX_LEVELS} levels deep, not read")
        for name in names
        if name in deep
    ]
    names = [name for name in names if name not in deep]
    wanted = [i for i, leaf in enumerate(leaves) if leaf[0] in frozenset(names)]
    size = metadata.num_rows * len(wanted) * _BYTES_PER_VALUE
    if not without:
        # The sizes of single columns would be in ``row_group(n).column(i)``, which ends the process
        # if a footer is broken. What they add up to is checked again while rows are read.
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        size += sum(max(0, group.total_byte_size) for group in groups)
    check_memory(path, size)
    return names, problems


def _texts_of(path: Path) -> list[str]:
    """Return the columns of texts of a Parquet file: a text that is repeated is kept once."""
    with open_parquet(path) as file:
        schema = file.metadata.schema
        columns = [schema.column(i) for i in range(file.metadata.num_columns)]
    return [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]


def _read_row_groups(
    path: Path, file: Any, names: Sequence[str], rows: _Batches, problems: list[Failure]
) -> list[int]:
    """Add the rows that can be read, and what is wrong with others; return their numbers.

    Raises:
        SourceError: they need more memory than there is, which the footer did not say.
    """
    import pyarrow as pa

    numbers: list[int] = []
    size, first = 0, 1
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        start = len(numbers)
        try:
            for batch in file.iter_batches(_BATCH_ROWS, [group], names, use_threads=False):
                size += batch.nbytes
                check_memory(path, size)
                rows.append(batch)
                begin = first + len(numbers) - start
                numbers += range(begin, begin + batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            begin = first + len(numbers) - start
            place = f"{path}, rows {begin:,} to {first + count - 1:,}"
            problems.append(Failure(place, f"broken Parquet ({_first_line(error)})"))
        first += count
    return numbers


def image_column(path: Path) -> str | None:
    """Return the column of a Parquet file that holds image bytes, or None."""
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    import pyarrow as pa

    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    return None
