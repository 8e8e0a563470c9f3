"""Read CSV, JSON Lines, JSON and Parquet files as rows of named values.

Somebody else may have written them: a row that cannot be read is a problem of the table, and the
others are read; what a file may take of memory is bounded before it is read.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from abc import abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from lookalike.csv_text import unescape_cell
from lookalike.errors import SourceError, requiring
from lookalike.files import check_regular, open_regular, read_regular, valid_text
from lookalike.images.memory import BUDGET
from lookalike.metadata import (
    MAX_BYTES,
    MAX_DIGITS,
    NestingError,
    json_values,
    plain,
)
from lookalike.texts import repeated
from lookalike.types import Failure

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"})

MAX_ROW = 10 * MAX_BYTES
"""Bytes of a line of JSON, or characters of a cell of CSV: much more than metadata may have."""

_MEMORY_OF_CSV = 3
_MEMORY_OF_JSON = 4
"""Bytes of memory that a byte of a file may take while it is read."""

_MAX_REREAD = 1_000_000
"""Lines that are read again since the row before them is broken: each row of a file could be."""

_CHUNK_CELLS = 40_960
_MIN_CHUNK_ROWS = 16
"""Cells of CSV that are put together at a time, and rows at least."""

_UINT32 = 0xFFFFFFFF

_INTEGER = rf"-?(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,199})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?"
_BOOLEAN = r"true|false|True|False|TRUE|FALSE"
_LONG = re.compile(r"^-?[0-9]{16,}$", re.MULTILINE)
"""An integer that a float64 may not hold exactly."""

_JSON_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
"""A text, also one that does not end, or a character of the structure."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file; missing values, empty texts and NaN are left out of a row.

    ``problems`` are the rows that could not be read, and why. ``first`` is the number of the first
    row in the file, counted in ``unit``s (rows or lines); ``numbers`` has those of all rows, if
    they are not consecutive.
    """

    path: Path
    names: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    first: int = 1
    unit: str = "row"
    problems: tuple[Failure, ...] = ()
    numbers: Sequence[int] | None = None

    def place(self, row: int) -> str:
        """Return the location of a row for messages: the file and the line or row number."""
        number = row + self.first if self.numbers is None else self.numbers[row]
        return f"{self.path}, {self.unit} {number}"

    def only(self, *names: str) -> Sequence[Mapping[str, Any]]:
        """Return the rows with some of the columns, which costs nothing for the others."""
        return self.rows.only(names) if isinstance(self.rows, ColumnRows) else self.rows


class ColumnRows(Sequence[Mapping[str, Any]]):
    """Rows that are kept as columns, and made on access."""

    @abstractmethod
    def only(self, names: Sequence[str]) -> Self:
        """Return the rows with some of the columns."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[i] for i in range(len(self)))


def read_table(path: Path, *, without: Sequence[str] = (), texts: bool = False) -> Table:
    """Read a table. The types of CSV columns (int, float, bool, text) are inferred.

    Integers of any length are exact; those of over 1,000 digits stay texts.

    Args:
        path: ``.tsv``, ``.jsonl``, ``.ndjson``, ``.json`` (a list of objects), ``.parquet``, or
            CSV. The separator of CSV and TSV is a comma, semicolon or tab, the most frequent one
            of the header.
        without: columns of a Parquet file to skip.
        texts: keep the cells of CSV as texts, without the apostrophes of escaped formulas
            (:mod:`lookalike.csv_text`).

    Raises:
        SourceError: it cannot be read at all, or needs more memory than there is.
        MissingDependencyError: it is a Parquet file, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    try:
        check_regular(path)
        if suffix == ".parquet":
            from lookalike.sources.parquet import read_parquet

            return read_parquet(path, without)
        if suffix in (".json", ".jsonl", ".ndjson"):
            check_memory(path, path.stat().st_size * _MEMORY_OF_JSON)
            return _read_json(path) if suffix == ".json" else _read_json_lines(path)
        check_memory(path, path.stat().st_size * _MEMORY_OF_CSV)
        return _read_csv(path, texts=texts)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise SourceError(f"{path}: cannot be read (not enough memory); split it") from None


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Read CSV or TSV whose rows may have different lengths, as texts; return them by line number.

    There is no header; the separator is that of the first line. Cells are stripped, and
    apostrophes before formulas taken away, as by ``read_table(path, texts=True)``.

    Raises:
        SourceError: it cannot be read, or a row is broken; the message names the line.
    """
    try:
        check_regular(path)
        check_memory(path, path.stat().st_size * _MEMORY_OF_CSV)
        csv.field_size_limit(MAX_ROW)
        with open_regular(path) as file:
            lines = _Lines(_text_lines(file))
            rows = []
            first = lines.peek()
            separator = _separator(first) if re.search("[,;\t]", first) else ","
            for number, row, problem in _csv_rows(lines, separator, None):
                if problem:
                    raise SourceError(f"{path}, line {number}: {problem}")
                if any("\0" in cell for cell in row):
                    raise SourceError(f"{path}, line {number}: is not text; expected CSV")
                rows.append((number, [unescape_cell(cell.strip()) for cell in row]))
            return rows
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError:
        raise SourceError(f"{path}: cannot be read (not enough memory); split it") from None


def check_memory(path: Path, size: int) -> None:
    """Refuse to read a table that may need more bytes of memory than there are."""
    limit = BUDGET.limit()
    if size > limit:
        raise SourceError(
            f"{path}: may need {size / 1e9:.1f} GB of memory, more than the {limit / 1e9:.1f} GB "
            "that may be used; split it"
        )


class _Texts:
    """The texts of a column of CSV, in two objects for each chunk of as many rows."""

    def __init__(self, chunk_rows: int) -> None:
        self._chunk_rows = chunk_rows
        self._chunks: list[tuple[str, array[int]]] = []
        self._kinds = {kind: re.compile(rf"(?:(?:{kind})?\n)*+") for kind in _PARSERS}
        self._empty = True
        self._long = False

    def add(self, cells: Sequence[str]) -> None:
        """Add the cells of the next chunk; only the last one may have fewer."""
        cells = [cell.strip() for cell in cells]
        text = "".join(cells)
        code = "I" if len(text) <= _UINT32 else "Q"
        self._chunks.append((text, array(code, accumulate(map(len, cells), initial=0))))
        self._empty = self._empty and not text
        if self._kinds:
            lines = "\n".join([*cells, ""])
            single = "\n" not in text
            self._kinds = {k: p for k, p in self._kinds.items() if single and p.fullmatch(lines)}
            self._long = self._long or (_NUMBER in self._kinds and bool(_LONG.search(lines)))

    def parser(self) -> Callable[[str], Any]:
        """Return the function that makes values of the texts: the first that fits all of them."""
        if self._empty or not self._kinds:
            return plain
        kind = next(iter(self._kinds))
        return _number if kind == _NUMBER and self._long else _PARSERS[kind]

    def __getitem__(self, row: int) -> str:
        chunk, place = divmod(row, self._chunk_rows)
        text, ends = self._chunks[chunk]
        return text[ends[place] : ends[place + 1]]


class _Columns(ColumnRows):
    """The rows of columns of texts, each with the function that makes values of its texts."""

    def __init__(
        self, columns: Mapping[str, tuple[_Texts, Callable[[str], Any]]], count: int
    ) -> None:
        self._columns = columns
        self._count = count

    def only(self, names: Sequence[str]) -> Self:
        """Return the rows with some of the columns."""
        columns = {name: self._columns[name] for name in names if name in self._columns}
        return type(self)(columns, self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        row = range(self._count)[index]
        pairs = ((name, texts[row], parse) for name, (texts, parse) in self._columns.items())
        return {name: parse(text) for name, text, parse in pairs if text}


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _boolean(text: str) -> bool:
    return text.lower() == "true"


def _unescaped(text: str) -> Any:
    return plain(unescape_cell(text))


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    _INTEGER: int,
    _NUMBER: float,
    _BOOLEAN: _boolean,
}
"""The kinds of columns of CSV, in the order in which they are tried, and what parses their texts.

Integers of any length are exact; beside a long one, those of a column of numbers are, too."""


class _CsvTable:
    """Collects the rows of CSV by column."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, names
        self._chunk_rows = max(_MIN_CHUNK_ROWS, _CHUNK_CELLS // len(names))
        self._columns = [_Texts(self._chunk_rows) for _ in names]
        self._waiting: list[Sequence[str]] = []
        self._count = 0

    def add(self, row: Sequence[str]) -> None:
        """Add a row."""
        self._waiting.append(row)
        if len(self._waiting) == self._chunk_rows:
            self._add_waiting()

    def _add_waiting(self) -> None:
        for column, cells in zip(self._columns, zip(*self._waiting, strict=True), strict=True):
            column.add(cells)
        self._count += len(self._waiting)
        self._waiting = []

    def table(
        self,
        *,
        texts: bool,
        problems: Sequence[Failure] = (),
        numbers: Sequence[int] | None = None,
    ) -> Table:
        """Return the table of the rows."""
        if self._waiting:
            self._add_waiting()
        columns = {
            name: (column, _unescaped if texts else column.parser())
            for name, column in zip(self._names, self._columns, strict=True)
        }
        rows = _Columns(columns, self._count)
        return Table(self._path, tuple(self._names), rows, 2, "line", tuple(problems), numbers)


def _read_csv(path: Path, *, texts: bool) -> Table:
    csv.field_size_limit(MAX_ROW)
    return _read_csv_at_once(path, texts=texts) or _read_csv_by_row(path, texts=texts)


def _read_csv_at_once(path: Path, *, texts: bool) -> Table | None:
    """Return a table in UTF-8 without broken rows, which takes a fifth of the time; else None."""
    numbers = array("Q")
    try:
        with open_regular(path) as file:
            lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
            header = next(lines, "")
            names = _header(path, header.rstrip("\r\n"))
            rows = csv.reader(lines, delimiter=_separator(header), strict=True)
            table, number, columns = _CsvTable(path, names), 2, len(names)
            for row in rows:
                if len(row) == columns:
                    numbers.append(number)
                    table.add(row)
                elif row:
                    return None
                number = rows.line_num + 2
    except (csv.Error, UnicodeDecodeError):
        return None
    consecutive = not numbers or numbers[-1] == len(numbers) + 1
    return table.table(texts=texts, numbers=None if consecutive else numbers)


def _read_csv_by_row(path: Path, *, texts: bool) -> Table:
    """Read a table row by row; broken rows are problems."""
    numbers: list[int] = []
    problems: list[Failure] = []
    with open_regular(path) as file:
        lines = _Lines(_text_lines(file))
        header = next(lines, "")
        names = _header(path, header.rstrip("\r\n"))
        table = _CsvTable(path, names)
        for number, row, problem in _csv_rows(lines, _separator(header), len(names)):
            if problem:
                problems.append(Failure(f"{path}, line {number}", problem))
            else:
                numbers.append(number)
                table.add(row)
    return table.table(texts=texts, problems=problems, numbers=numbers)


class _Lines(Iterator[str]):
    """Lines of a file that can be put back, with their numbers."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0
        self.ended = False
        self._reread = 0

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        return line

    def peek(self) -> str:
        """Return the next line without taking it; empty at the end."""
        line = self._again[0] if self._again else next(self._lines, "")
        if line and not self._again:
            self._again.append(line)
        return line

    def put_back(self) -> bool:
        """Put back all lines that were taken but the first; not if too many were already."""
        self._reread += len(self.taken) - 1
        if self._reread > _MAX_REREAD:
            return False
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        self.ended = False
        return True


def _csv_rows(
    lines: _Lines, separator: str, columns: int | None
) -> Iterator[tuple[int, list[str], str]]:
    """Yield the line, cells and problem of each row; a broken row ends with its first line.

    Without a number of ``columns``, rows may have any; they may have spaces before quoted texts.
    """
    while not lines.ended:
        lines.taken = []
        number = lines.number + 1
        row: list[str] = []
        problem = ""
        try:
            spaces = columns is None
            row = next(csv.reader(lines, delimiter=separator, skipinitialspace=spaces), [])
            if lines.ended and lines.taken:
                problem = "has a quoted text that is not closed"
        except csv.Error as error:
            problem = f"broken CSV ({error})"
        problem = problem or _row_problem(row, columns)
        if problem and not lines.put_back():
            problem += f"; the lines to {lines.number} are not read either"
        if problem or row:
            yield number, row, problem


def _text_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text in UTF-8, or UTF-16 with its mark, as spreadsheets write it.

    Bytes that are not of the encoding become lone surrogates.
    """
    wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    file.seek(0)
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    return iter(io.TextIOWrapper(file, encoding, errors, newline=""))


def _row_problem(row: Sequence[str], columns: int | None) -> str:
    """Return what is wrong with a row of CSV; empty if it is right, or an empty line."""
    if row and columns is not None and len(row) != columns:
        return f"has {len(row)} columns, the header has {columns}"
    if any(not cell.isascii() and valid_text(cell) != cell for cell in row):
        return "is not UTF-8 text; save the file in UTF-8"
    return ""


def _header(path: Path, header: str) -> list[str]:
    """Return the names of the columns.

    Raises:
        SourceError: there are none, or a name occurs twice.
    """
    names = [valid_text(name.strip()) for name in _separated(header, path)]
    if not header.strip():
        raise SourceError(f"{path}, line 1: expected a header with the names of the columns")
    if (duplicate := repeated(names)) is not None:
        raise SourceError(f"{path}, line 1: duplicate column {duplicate!r}")
    return names


def _separator(header: str) -> str:
    return max("\t", ";", ",", key=header.count)


def _separated(header: str, path: Path) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=_separator(header)), [])
    except csv.Error as error:
        raise SourceError(f"{path}, line 1: broken CSV ({error})") from None


def data_frame(purpose: str, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return a pandas DataFrame of columns.

    Raises:
        MissingDependencyError: pandas is not installed; the message begins with ``purpose``.
    """
    with requiring("pandas", purpose, "pandas"):
        import pandas as pd

    return pd.DataFrame(columns)


def add_metadata(columns: dict[str, Any], metadata: Sequence[Mapping[str, Any]]) -> None:
    """Add metadata to the columns of a table, one value per row, None where it has none.

    A column of the metadata that is called like one of the table becomes ``metadata.NAME``.
    """
    for key in dict.fromkeys(key for fields in metadata for key in fields):
        name = key
        while name in columns:
            name = f"metadata.{name}"
        columns[name] = [fields.get(key) for fields in metadata]


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first of some columns that a table has, in any case of letters; None if none."""
    for each in wanted:
        for name in (each, *names):
            if name in names and name.lower() == each:
                return name
    return None


class _Objects:
    """Collects the rows of JSON; what is no object is a problem."""

    def __init__(self, path: Path, unit: str) -> None:
        self._path, self._unit = path, unit
        self._names: dict[str, None] = {}
        self._rows: list[Mapping[str, Any]] = []
        self._numbers: list[int] = []
        self._problems: list[Failure] = []

    def add_text(self, number: int, text: str | bytes) -> None:
        """Add the row in a JSON text."""
        try:
            self.add(number, json_values(text))
        except ValueError as error:
            self.fail(number, f"is not JSON ({error})")

    def add(self, number: int, value: object) -> None:
        """Add a row."""
        if not isinstance(value, dict):
            self.fail(number, "expected an object, as in {...}")
            return
        row = _without_missing(value)
        self._names |= dict.fromkeys(row)
        self._rows.append(row)
        self._numbers.append(number)

    def fail(self, number: int, reason: str) -> None:
        """Add a row that cannot be read."""
        self._problems.append(Failure(f"{self._path}, {self._unit} {number}", reason))

    def table(self) -> Table:
        """Return the table of the rows."""
        fields = (self._path, tuple(self._names), self._rows, 1, self._unit)
        return Table(*fields, tuple(self._problems), self._numbers)


def _read_json(path: Path) -> Table:
    """Read a JSON document that is a list of objects."""
    data = read_regular(path)
    objects = _Objects(path, "row")
    try:
        rows = json_values(data)
    except NestingError:
        for number, text in enumerate(_elements(path, data), 1):
            objects.add_text(number, text)
        return objects.table()
    except ValueError as error:
        raise SourceError(f"{path}: is not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows[:1]):
        raise SourceError(f"{path}: expected a list of objects, as in [{{...}}, {{...}}]")
    for number, row in enumerate(rows, 1):
        objects.add(number, row)
    return objects.table()


def _elements(path: Path, data: bytes) -> Iterator[str]:
    """Yield the elements of a JSON list that is nested too deep to be parsed as a whole."""
    text = data.decode("utf-8-sig", "surrogateescape")
    level = start = 0
    if not text.lstrip().startswith("["):
        raise SourceError(f"{path}: expected a list of objects, as in [{{...}}, {{...}}]")
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "[{":
            level += 1
            start = start if level > 1 else token.end()
        elif token[0] in "]}":
            level -= 1
        if (token[0] == "," and level == 1) or (token[0] in "]}" and level == 0):
            yield text[start : token.start()]
            start = token.end()


def _without_missing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an object, without those that are missing."""
    cleaned = {valid_text(key): plain(value) for key, value in row.items()}
    return {key: value for key, value in cleaned.items() if value is not None and value != ""}


def _read_json_lines(path: Path) -> Table:
    objects = _Objects(path, "line")
    with open_regular(path) as file:
        number = 0
        while line := file.readline(MAX_ROW):
            number += 1
            if len(line) == MAX_ROW and not line.endswith(b"\n"):
                objects.fail(number, f"is longer than {MAX_ROW:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_ROW)
            elif line.strip():
                objects.add_text(number, line)
    return objects.table()
