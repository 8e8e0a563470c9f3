"""Ground-truth files: CSV of queries and their relevant rows, and how names are resolved."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import InputError
from lookalike.images.formats import supported_suffixes
from lookalike.sources import Source
from lookalike.sources.names import item_names, resolve_names
from lookalike.sources.tables import read_lines

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

    Lines may have different lengths; empty fields and lines are ignored. The separator is a comma,
    a semicolon or a tab. The first line may be a header (see :func:`is_header`).

    Raises:
        InputError: it cannot be read, is empty, has one column only, or a line has no query.
    """
    lines = []
    for number, (query, *names) in read_lines(path):
        relevant = tuple(name for name in names if name)
        if query or relevant:
            lines.append(GroundTruthLine(number, query, relevant))
    for line in lines[1:]:
        if not line.query:
            raise InputError(f"{path}, line {line.number}: no query; {_EXPECTED}")
    if not lines:
        raise InputError(f"{path}: empty; {_EXPECTED}")
    if not any(line.relevant for line in lines):
        raise InputError(f"{path}: only one column; {_EXPECTED}")
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


def resolve_items(path: Path, source: Source, lines: Mapping[str, int]) -> dict[str, str]:
    """Return the item id that each name stands for; names that match nothing are left out.

    The id has precedence, then the value of the metadata column ``id``, then the id without the
    source's name, the file name, and the file name without suffix (:mod:`lookalike.sources.names`).

    Args:
        path: the file with the names, for messages.
        source: the items.
        lines: the number of the first line with each name.

    Raises:
        InputError: two items match a name equally well.
    """
    suffixes = supported_suffixes()
    items = (
        (item.id, item_names(item.id, suffixes, item.uri, item.metadata.get("id")))
        for item in source
    )
    matches = resolve_names(lines, items)
    for name, ids in matches.items():
        if len(ids) > 1:
            raise InputError(
                f"{path}, line {lines[name]}: {name!r} is ambiguous: {ids[0]} or {ids[1]} "
                f"({len(ids):,} matches in {source.spec}); use the full id"
            )
    return {name: ids[0] for name, ids in matches.items()}
