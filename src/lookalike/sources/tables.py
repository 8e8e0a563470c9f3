"""Read CSV, JSON Lines, JSON and Parquet files as rows of named values."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import SourceError
from lookalike.files import check_regular, read_regular, valid_text
from lookalike.metadata import MAX_DIGITS, parse_json, plain

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"})

_INT64 = r"^-?(0|[1-9][0-9]{0,17})$"
_INTEGER = rf"^-?(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})$"
_NUMBER = r"^-?(0|[1-9][0-9]{0,199})(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"
_LONG = r"^-?[0-9]{16,}$"
"""Integers that a float64 may not hold exactly."""

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

    Integers of any length are exact; those of over 1,000 digits stay texts.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.json`` (a list of objects) or
            ``.parquet``.
        without: columns of a Parquet file to skip.

    Raises:
        SourceError: it cannot be read; the message names the line if there is one.
    """
    suffix = path.suffix.lower()
    try:
        check_regular(path)
        if suffix in (".csv", ".tsv"):
            return _read_csv(path)
        if suffix == ".parquet":
            return _read_parquet(path, without)
        return _read_json(path) if suffix == ".json" else _read_json_lines(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Columns(Sequence[Mapping[str, Any]]):
    """The rows of columns of one length, which are Arrow arrays or lists; converted on access."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns
        self._count = len(next(iter(columns.values()), ()))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        row = range(self._count)[index]
        pairs = ((name, _cell(column[row])) for name, column in self._columns.items())
        return {name: value for name, value in pairs if value is not None and value != ""}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[i] for i in range(self._count))


def _cell(value: Any) -> Any:
    return plain(value.as_py() if hasattr(value, "as_py") else value)


def _read_csv(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    text = _text_of(path)
    header = text.partition("\n")[0]
    names = [name.strip() for name in _separated(header, path)]
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
    return Table(path, tuple(names), _Columns(dict(zip(names, columns, strict=True))), 2, "line")


def _text_of(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with its mark, as spreadsheets write it."""
    data = read_regular(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}, line {line}: is not UTF-8 text; save it in UTF-8") from None
    return text if "\n" in text else text.replace("\r", "\n")


def _separator(header: str) -> str:
    return max("\t", ";", ",", key=header.count)


def _separated(header: str, path: Path) -> list[str]:
    import csv

    try:
        return next(csv.reader([header.rstrip("\r")], delimiter=_separator(header)), [])
    except csv.Error as error:
        raise SourceError(f"{path}, line 1: broken CSV ({error})") from None


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first of some columns that a table has, in any case of letters; None if none."""
    for each in wanted:
        for name in (each, *names):
            if name in names and name.lower() == each:
                return name
    return None


def _typed(column: Any) -> Any:
    """Convert a text column to integers, float64 or bool if all its values parse as such."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    empty = pc.equal(texts, "")
    filled = texts.filter(pc.invert(empty))
    if not len(filled):
        return texts
    for pattern, kind in (
        (_INT64, pa.int64()),
        (_INTEGER, None),
        (_NUMBER, pa.float64()),
        (_BOOLEAN, pa.bool_()),
    ):
        if pc.all(pc.match_substring_regex(filled, pattern)).as_py():
            long = kind != pa.int64() and pc.any(pc.match_substring_regex(filled, _LONG)).as_py()
            if kind is None or long:
                return [_number(text) if text else None for text in texts.to_pylist()]
            return pc.if_else(empty, None, texts).cast(kind)
    return texts


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _read_json(path: Path) -> Table:
    """Read a JSON document that is a list of objects."""
    try:
        rows = parse_json(read_regular(path))
    except ValueError as error:
        raise SourceError(f"{path}: is not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{path}: expected a list of objects, as in [{{...}}, {{...}}]")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, tuple(names), [_without_missing(row) for row in rows])


def _without_missing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an object, without those that are missing."""
    cleaned = {valid_text(key): plain(value) for key, value in row.items()}
    return {key: value for key, value in cleaned.items() if value is not None and value != ""}


def _read_json_lines(path: Path) -> Table:
    rows = []
    names: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise SourceError(f"{path}, line {number}: expected an object, as in {{...}}")
            rows.append(_without_missing(row))
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
    columns = {name: table.column(name).combine_chunks() for name in names}
    return Table(path, tuple(names), _Columns(columns))
