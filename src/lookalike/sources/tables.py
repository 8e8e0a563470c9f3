"""Read CSV, JSON Lines and Parquet files as rows of named values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from lookalike.errors import SourceError

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})

_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"
_BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file; missing values, empty texts and NaN are left out of a row.

    ``first`` is the number of the first row in the file, counted in ``unit``s (rows or lines).
    """

    path: Path
    names: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    first: int = 1
    unit: str = "row"

    def place(self, row: int) -> str:
        """Return the location of a row for messages: the file and the line or row number."""
        return f"{self.path}, {self.unit} {row + self.first}"


def read_table(path: Path, *, without: Sequence[str] = ()) -> Table:
    """Read a table. The types of CSV columns (int, float, bool, text) are inferred.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet``.
        without: columns of a Parquet file to skip.

    Raises:
        SourceError: it cannot be read; the message names the line if there is one.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            return _read_csv(path)
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, without)
        return _read_json_lines(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error


def plain(value: Any) -> Any:
    """Convert a value to a JSON value; None if that is not possible."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None


class _ArrowRows(Sequence[Mapping[str, Any]]):
    """The rows of an Arrow table, converted on access."""

    def __init__(self, table: Any) -> None:
        self._names = table.column_names
        self._columns = [table.column(i).combine_chunks() for i in range(table.num_columns)]
        self._count = table.num_rows

    def __len__(self) -> int:
        return int(self._count)

    def __getitem__(self, index: Any) -> Any:
        row = range(self._count)[index]
        values = (plain(column[row].as_py()) for column in self._columns)
        pairs = zip(self._names, values, strict=True)
        return {name: value for name, value in pairs if value is not None and value != ""}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[i] for i in range(self._count))


def _read_csv(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}, line {line}: is not UTF-8 text; save it in UTF-8") from None
    header = text.partition("\n")[0]
    names = [name.strip() for name in _separated(header)]
    if not header.strip():
        raise SourceError(f"{path}, line 1: expected a header with the names of the columns")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path}, line 1: duplicate column {duplicate!r}")
    ragged: list[Any] = []

    def skip(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            parse_options=csv.ParseOptions(
                delimiter=_separator(header), newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path}: broken CSV ({str(error).splitlines()[0]})") from None
    if ragged:
        row = ragged[0]
        raise SourceError(
            f"{path}, line {row.number}: has {row.actual_columns} columns, the header has "
            f"{row.expected_columns}"
        )
    columns = [_typed(table.column(i).combine_chunks()) for i in range(table.num_columns)]
    return Table(path, tuple(names), _ArrowRows(pa.table(columns, names=names)), 2, "line")


def _separator(header: str) -> str:
    return max("\t", ";", ",", key=header.count)


def _separated(header: str) -> list[str]:
    import csv

    return next(csv.reader([header.rstrip("\r")], delimiter=_separator(header)), [])


def _typed(column: Any) -> Any:
    """Convert a text column to int64, float64 or bool if all its values parse as such."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    empty = pc.equal(texts, "")
    filled = texts.filter(pc.invert(empty))
    if not len(filled):
        return texts
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64()), (_BOOLEAN, pa.bool_())):
        if pc.all(pc.match_substring_regex(filled, pattern)).as_py():
            return pc.if_else(empty, None, texts).cast(kind)
    return texts


def _read_json_lines(path: Path) -> Table:
    rows = []
    names: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise SourceError(f"{path}, line {number}: expected an object, as in {{...}}")
            cleaned = {key: plain(value) for key, value in row.items()}
            rows.append({k: v for k, v in cleaned.items() if v is not None and v != ""})
            names |= dict.fromkeys(row)
    return Table(path, tuple(names), rows, 1, "line")


def _read_parquet(path: Path, without: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name not in without]
            table = file.read(columns=names)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: broken Parquet ({str(error).splitlines()[0]})") from None
    return Table(path, tuple(names), _ArrowRows(table))
