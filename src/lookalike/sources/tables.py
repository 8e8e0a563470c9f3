"""CSV, JSON lines and Parquet files, as rows of named values."""

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
_TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a file. A value that is missing, empty or not a number is left out of its row."""

    path: Path
    names: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    first: int = 1
    unit: str = "row"

    def place(self, row: int) -> str:
        """Say where a row stands: the file and the line."""
        return f"{self.path}, {self.unit} {row + self.first}"


def read_table(path: Path, *, without: Sequence[str] = ()) -> Table:
    """Read a table. Numbers and truth values are told from a CSV column's texts.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet``.
        without: columns of a Parquet file that are not read.

    Raises:
        SourceError: it cannot be read; the line is named where there is one.
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
    """Return a value as a JSON value, None if it has none."""
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
    """The rows of an Arrow table, made when they are asked for."""

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
    first = text.partition("\n")[0]
    names = [name.strip() for name in _separated(first)]
    if not first.strip():
        raise SourceError(f"{path}, line 1: expected the names of the columns")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path}, line 1: the column {twice!r} is there twice")
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            parse_options=csv.ParseOptions(
                delimiter=_separator(first), newlines_in_values=True, invalid_row_handler=note
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
            f"{path}, line {row.number}: has {row.actual_columns} columns, the first line has "
            f"{row.expected_columns}"
        )
    columns = [_typed(table.column(i).combine_chunks()) for i in range(table.num_columns)]
    return Table(path, tuple(names), _ArrowRows(pa.table(columns, names=names)), 2, "line")


def _separator(first: str) -> str:
    return max("\t", ";", ",", key=first.count)


def _separated(first: str) -> list[str]:
    import csv

    return next(csv.reader([first.rstrip("\r")], delimiter=_separator(first)), [])


def _typed(column: Any) -> Any:
    """Return texts as whole numbers, numbers or truth values where all of them are written so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    empty = pc.equal(texts, "")
    filled = texts.filter(pc.invert(empty))
    if not len(filled):
        return texts
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64()), (_TRUTH, pa.bool_())):
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
