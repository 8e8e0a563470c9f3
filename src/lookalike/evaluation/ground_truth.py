"""Ground-truth files: CSV of queries and their relevant rows, and how names are resolved."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from lookalike.csv_text import unescape_cell
from lookalike.errors import InputError
from lookalike.files import normalize_name, read_text
from lookalike.images.formats import supported_suffixes
from lookalike.sources import Item, Source

_HEADERS = frozenset(("query", "query_id", "id", "image", "image_id", "name", "file", "filename"))
_EXPECTED = "expected CSV, on each line a query and the ids of its relevant rows"


@dataclass(frozen=True, slots=True)
class GroundTruthLine:
    """A query and its relevant rows, by the names in the file; ``number`` is the line's."""

    number: int
    query: str
    relevant: tuple[str, ...]


def read_ground_truth(path: Path) -> list[GroundTruthLine]:
    """Read a CSV file ``query,relevant,relevant,...``, the format of the AI Meets Beauty challenge.

    Lines may have different lengths; empty fields and lines are ignored. The separator is a comma
    or a semicolon. The first line may be a header (see :func:`is_header`).

    Raises:
        InputError: it cannot be read, is empty, has one column only, or a line has no query.
    """
    lines = _parse(path, _read_text(path))
    for line in lines[1:]:
        if not line.query:
            raise InputError(f"{path}, line {line.number}: no query; {_EXPECTED}")
    if not lines:
        raise InputError(f"{path}: empty; {_EXPECTED}")
    if not any(line.relevant for line in lines):
        raise InputError(f"{path}: only one column; {_EXPECTED}")
    return lines


def _read_text(path: Path) -> str:
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; {_EXPECTED}") from None
    if "\0" in text:
        raise InputError(f"{path}: not a text file; {_EXPECTED}")
    return text


def _parse(path: Path, text: str) -> list[GroundTruthLine]:
    start = re.split("[\r\n]", text, maxsplit=1)[0]
    separator = ";" if start.count(";") > start.count(",") else ","
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    lines = []
    try:
        for fields in reader:
            query, *names = [unescape_cell(field.strip()) for field in fields] or [""]
            relevant = tuple(name for name in names if name)
            if query or relevant:
                lines.append(GroundTruthLine(reader.line_num, query, relevant))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error
    return lines


def is_header(first: GroundTruthLine, queries: Container[str], rows: Container[str]) -> bool:
    """Return whether the first line of a file holds column names.

    It does if its first field is empty, as pandas writes an index, or is a usual name of a query
    column and not a query. Other words without a digit or a dot count as a column name if no other
    field of the line names a row.
    """
    if first.query in queries:
        return False
    if not first.query or first.query.casefold() in _HEADERS:
        return True
    like_a_name = any(c.isdigit() or c in ".:/" for c in first.query)
    return not like_a_name and not any(name in rows for name in first.relevant)


def resolve_names(path: Path, source: Source, lines: Mapping[str, int]) -> dict[str, str]:
    """Return the item id that each name stands for; names that match nothing are left out.

    A name may be an item's id, the value of its metadata column ``id``, its id without the source's
    name, its file name, or its file name without suffix. The id has precedence, then the column,
    then the others. A name in another Unicode form (NFC, NFD), or with backslashes, matches last.

    Args:
        path: the file with the names, for messages.
        source: the items.
        lines: the number of the first line with each name.

    Raises:
        InputError: two items match a name equally well.
    """
    matches: dict[str, tuple[int, dict[str, None]]] = {}
    image_suffixes = supported_suffixes()
    spellings = {normalize_name(name): name for name in lines}
    for item in source:
        for rank, spelling in _names(item, image_suffixes):
            name = spelling if spelling in lines else spellings.get(normalize_name(spelling))
            rank += 0 if name == spelling else _OTHER_SPELLING
            if name is not None:
                best, ids = matches.setdefault(name, (rank, {}))
                if rank < best:
                    matches[name] = (rank, {item.id: None})
                elif rank == best:
                    ids[item.id] = None
    for name, (_, ids) in matches.items():
        if len(ids) > 1:
            one, other = list(ids)[:2]
            raise InputError(
                f"{path}, line {lines[name]}: {name!r} is ambiguous: {one} or {other} "
                f"({len(ids):,} matches in {source.spec}); use the full id"
            )
    return {name: next(iter(ids)) for name, (_, ids) in matches.items()}


_OTHER_SPELLING = 10
"""Added to the precedence of names that are spelled otherwise."""


def _names(item: Item, image_suffixes: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield the names of an item with their precedence, 0 first."""
    yield 0, item.id
    column = item.metadata.get("id")
    if column is not None:
        yield 1, str(column)
    key = item.id.partition(":")[2] or item.id
    yield 2, key
    # The end of a URL beside an id is a shop's own number more often than a file's name.
    paths = [key] if item.uri.startswith(("http://", "https://")) else [key, item.uri]
    for file in {path.rpartition("/")[2] for path in paths}:
        yield 2, file
        stem, dot, suffix = file.rpartition(".")
        if f"{dot}{suffix}".lower() in image_suffixes:
            yield 2, stem
