"""Files of queries and their right answers, and what such a file means by a name."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from lookalike.errors import InputError
from lookalike.images.decode import suffixes
from lookalike.sources import Item, Source

_HEADERS = frozenset(("query", "query_id", "id", "image", "image_id", "name", "file", "filename"))
_EXPECTED = "expected CSV, on each line a query and the ids of its right answers"


@dataclass(frozen=True, slots=True)
class GroundTruthLine:
    """A query and its right answers as a file names them, and the line's number."""

    number: int
    query: str
    right: tuple[str, ...]


def read_ground_truth(path: Path) -> list[GroundTruthLine]:
    """Read a CSV file ``query,right,right,...``, as the AI Meets Beauty challenge has it.

    Lines may have different lengths; empty fields and lines are passed over. Semicolons may stand
    for the commas. The first line may be a header (see :func:`is_header`).

    Raises:
        InputError: it cannot be read, is empty, has one column only, or a line names no query.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; {_EXPECTED}") from None
    if "\0" in text:
        raise InputError(f"{path}: is not text; {_EXPECTED}")
    start = text.partition("\n")[0]
    separator = ";" if start.count(";") > start.count(",") else ","
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    lines = []
    try:
        for fields in reader:
            query, *right = [field.strip() for field in fields] or [""]
            named = tuple(name for name in right if name)
            if query or named:
                lines.append(GroundTruthLine(reader.line_num, query, named))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error
    for line in lines[1:]:
        if not line.query:
            raise InputError(f"{path}, line {line.number}: names no query; {_EXPECTED}")
    if not lines:
        raise InputError(f"{path}: is empty; {_EXPECTED}")
    if not any(line.right for line in lines):
        raise InputError(f"{path}: has one column only; {_EXPECTED}")
    return lines


def is_header(first: GroundTruthLine, queries: Container[str], rows: Container[str]) -> bool:
    """Tell whether a file's first line holds names of columns.

    It does if its first field is empty, as pandas writes an index, or is no query's name and a
    word for one. Other words without a digit or a dot are taken for a column's name as long as no
    other field names a row.
    """
    if first.query in queries:
        return False
    if not first.query or first.query.casefold() in _HEADERS:
        return True
    like_a_name = any(c.isdigit() or c in ".:/" for c in first.query)
    return not like_a_name and not any(name in rows for name in first.right)


def resolve_names(path: Path, source: Source, wanted: Mapping[str, int]) -> dict[str, str]:
    """Return the ids of the items that names mean; a name that means none is left out.

    An item is named by its id, before all others, then by the column ``id`` of its metadata, and
    then by its id without the source's name, by its file's name, or by that without the suffix.

    Args:
        path: the file that has the names, for messages.
        source: the items.
        wanted: the names and the first lines they stand on.

    Raises:
        InputError: two items answer to one name equally well.
    """
    found: dict[str, tuple[int, dict[str, None]]] = {}
    images = suffixes()
    for item in source:
        for rank, name in _names(item, images):
            if name in wanted:
                best, ids = found.setdefault(name, (rank, {}))
                if rank < best:
                    found[name] = (rank, {item.id: None})
                elif rank == best:
                    ids[item.id] = None
    for name, (_, ids) in found.items():
        if len(ids) > 1:
            one, other = list(ids)[:2]
            raise InputError(
                f"{path}, line {wanted[name]}: {name!r} may be {one} or {other} "
                f"({len(ids):,} of {source.spec} answer to it); name it by its whole id"
            )
    return {name: next(iter(ids)) for name, (_, ids) in found.items()}


def _names(item: Item, images: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield what an item answers to; smaller numbers come before larger ones."""
    yield 0, item.id
    given = item.metadata.get("id")
    if given is not None:
        yield 1, str(given)
    key = item.id.partition(":")[2] or item.id
    yield 2, key
    # The end of an address beside an id is a shop's own number more often than a file's name.
    places = [key] if item.uri.startswith(("http://", "https://")) else [key, item.uri]
    for file in {place.rpartition("/")[2] for place in places}:
        yield 2, file
        stem, dot, suffix = file.rpartition(".")
        if f"{dot}{suffix}".lower() in images:
            yield 2, stem
