"""Which rows are the right answers to a query: those of its label, of another column, or of a file.

``evaluation.py`` asks one :class:`Relevance` about each query and counts; nothing else there knows
what makes a hit right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lookalike.errors import InputError, SettingError
from lookalike.evaluation.ground_truth import resolve_names, is_header, read_ground_truth
from lookalike.sources import Item, Source
from lookalike.types import Hit

LABEL = "label"

_FEW = 3
_LISTED = 12


@dataclass(frozen=True, slots=True)
class GroundTruthCoverage:
    """How a truth file fitted: what it does not name, and what it names that is not there.

    ``left_out`` counts queries of the source that the file does not name. ``unknown_queries`` are
    names of its queries that the source does not have, ``unknown_rows`` of its right answers that
    the gallery does not have, as they are written.
    """

    file: str
    left_out: int
    unknown_queries: tuple[str, ...]
    unknown_rows: tuple[str, ...]

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each that there are any of, with the first few names."""
        if self.left_out:
            yield f"{self.file} does not name {self.left_out:,} of the queries: left out"
        for names, what in (
            (self.unknown_queries, "of its queries are not in the source"),
            (self.unknown_rows, "of its right answers are not in the gallery"),
        ):
            if names:
                yield f"{self.file}: {len(names):,} {what}: {_first(names)}"


@dataclass(frozen=True, slots=True)
class RelevanceCriterion:
    """What made hits right: a column with the query's value, or a truth file.

    ``labeled`` says that the column is the label, as without any choice: then results are also
    summed up by it.
    """

    column: str | None = LABEL
    ground_truth: GroundTruthCoverage | None = None
    labeled: bool = True

    @property
    def description(self) -> str:
        """What right hits do, in words."""
        if self.ground_truth is not None:
            return f"are named by {Path(self.ground_truth.file).name}"
        return f"have the query's {self.column}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        if self.ground_truth is None:
            return {"by": "label" if self.labeled else "match", "column": self.column}
        return {
            "by": "ground_truth",
            "file": self.ground_truth.file,
            "left_out": self.ground_truth.left_out,
            "unknown_queries": list(self.ground_truth.unknown_queries),
            "unknown_rows": list(self.ground_truth.unknown_rows),
        }


@dataclass(frozen=True, slots=True)
class RelevantSet:
    """The right answers to one query, or why it cannot be asked.

    ``ids`` are those of the right rows (the query's own may be among them), ``relevant`` how many
    these are without itself, and ``name`` what the query is called where it is shown.
    """

    ids: frozenset[str]
    relevant: int
    name: str
    why_not: str = ""

    @classmethod
    def to(cls, query: Item, ids: frozenset[str], name: str) -> RelevantSet:
        """Return these right answers to a query."""
        return cls(ids, len(ids) - (query.id in ids), name)

    @classmethod
    def none(cls, why_not: str) -> RelevantSet:
        """Return that a query cannot be asked."""
        return cls(frozenset(), 0, "", why_not)


class Relevance(Protocol):
    """Tells which rows are right for a query."""

    @property
    def criterion(self) -> RelevanceCriterion:
        """What makes a hit right."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each row that has one, by id, where results are summed up by label."""
        ...

    def right(self, query: Item) -> RelevantSet | None:
        """Return the right answers to a query; None if it is not one of those to be asked."""
        ...


def build_relevance(
    rows: Source,
    queries: Source,
    *,
    match: str | None = None,
    ground_truth: str | Path | None = None,
) -> Relevance:
    """Return what judges the hits among rows of a gallery: labels, unless told otherwise.

    Args:
        rows: the gallery's.
        queries: what will be asked.
        match: a column of metadata: rows with the query's value in it are right.
        ground_truth: a file of queries and their right answers (see :func:`truths.read_ground_truth`).

    Raises:
        SettingError: both were given.
        InputError: no row has a label or a value in the column, or the truth file cannot be used.
    """
    if ground_truth is None:
        return ColumnRelevance.of(rows, match)
    if match is not None:
        raise SettingError(
            f"--match {match} cannot be combined with --ground-truth {ground_truth}: each says "
            "which hits are right; leave out one of the two"
        )
    return GroundTruthRelevance.of(Path(ground_truth), rows, queries)


@dataclass(frozen=True, slots=True)
class ColumnRelevance:
    """A hit is right when it has the query's value in a column, both taken as texts."""

    criterion: RelevanceCriterion
    groups: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, rows: Source, match: str | None) -> ColumnRelevance:
        """Group rows by a column, or by label.

        Raises:
            InputError: no row has a value in it.
        """
        column = LABEL if match is None else match
        groups: dict[str, set[str]] = {}
        columns: Counter[str] = Counter()
        for item in rows:
            columns.update(item.metadata.keys())
            if item.metadata.get(column) is not None:
                groups.setdefault(str(item.metadata[column]), set()).add(item.id)
        if not groups and match is None:
            raise InputError(
                f"{rows.spec}: none of its {len(rows):,} rows has a label to judge by; put the "
                "images into sub-folders named by label and index them again, or say what else "
                "makes a hit right (--match COLUMN, --ground-truth FILE)"
            )
        if not groups:
            there = ", ".join(name for name, _ in columns.most_common(_LISTED)) or "none"
            raise InputError(
                f"{rows.spec}: none of its {len(rows):,} rows has a value in the column "
                f"{match!r}; its columns are {there}"
            )
        named = {value: frozenset(ids) for value, ids in groups.items()}
        return cls(RelevanceCriterion(column, labeled=match is None), named)

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each row that has one, by id; empty for another column."""
        if not self.criterion.labeled:
            return {}
        return {row_id: label for label, ids in self.groups.items() for row_id in ids}

    def right(self, query: Item) -> RelevantSet:
        """Return the rows with the query's value.

        A label that no other row has scores 0, as the report's protocol has it; a value of another
        column that no other row has cannot be found and is not asked for.
        """
        value = query.metadata.get(self.criterion.column or LABEL)
        if value is None:
            return RelevantSet.none(f"has no {self.criterion.column}")
        right = RelevantSet.to(query, self.groups.get(str(value), frozenset()), str(value))
        if right.relevant or self.criterion.labeled:
            return right
        return RelevantSet.none(f"no other row has its {self.criterion.column}, {str(value)!r}")


@dataclass(frozen=True, slots=True)
class GroundTruthRelevance:
    """A hit is right when a file says so. ``answers`` and ``gone`` are by the id of the query."""

    criterion: RelevanceCriterion
    answers: Mapping[str, frozenset[str]]
    gone: Mapping[str, Sequence[str]]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, rows: Source, queries: Source) -> GroundTruthRelevance:
        """Read a truth file and find what it names.

        Raises:
            InputError: it cannot be read, names none of the queries, or a name is ambiguous.
        """
        lines = read_ground_truth(path)
        if not len(rows):
            raise InputError(f"{rows.spec}: has no rows to find anything among")
        latest = lines[::-1]  # so that a name stands for its first line
        asked = resolve_names(path, queries, {line.query: line.number for line in latest})
        wanted = {name: line.number for line in latest for name in line.right}
        found = resolve_names(path, rows, wanted)
        if is_header(lines[0], asked, found):
            lines = lines[1:]
        answers: dict[str, set[str]] = {}
        gone: dict[str, list[str]] = {}
        for line in lines:
            if line.query in asked:
                query = asked[line.query]
                answers.setdefault(query, set()).update(found[n] for n in line.right if n in found)
                gone.setdefault(query, []).extend(n for n in line.right if n not in found)
        if not answers:
            said = f"its first is {lines[0].query!r}" if lines else "it has a header only"
            raise InputError(
                f"{path}: names none of the {len(queries):,} queries of {queries.spec}; {said}, "
                f"the source's is {queries[0].id!r}"
            )
        use = GroundTruthCoverage(
            str(path),
            left_out=len(queries) - len(answers),
            unknown_queries=_missing([line.query for line in lines], asked),
            unknown_rows=_missing([name for line in lines for name in line.right], found),
        )
        criterion = RelevanceCriterion(None, use, labeled=False)
        return cls(criterion, {q: frozenset(ids) for q, ids in answers.items()}, gone, {})

    def right(self, query: Item) -> RelevantSet | None:
        """Return the rows that the file names for a query; None if it does not name the query."""
        if query.id not in self.answers:
            return None
        right = RelevantSet.to(query, self.answers[query.id], short_name(query.id))
        if right.relevant:
            return right
        gone = self.gone[query.id]
        if right.ids:
            return RelevantSet.none("the truth names no other row than itself")
        if not gone:
            return RelevantSet.none("the truth names no right answer")
        return RelevantSet.none(f"its right answers are not in the gallery: {_first(gone)}")


def mark_correct(
    hits: Iterable[Hit], value: object, column: str = LABEL
) -> tuple[bool | None, ...]:
    """Return for each hit whether it has a value in a column, both taken as texts.

    None where that is not known: the hit has nothing in the column, or ``value`` is None.
    """
    return tuple(
        None
        if value is None or hit.metadata.get(column) is None
        else str(hit.metadata[column]) == str(value)
        for hit in hits
    )


def short_name(row_id: str) -> str:
    """Return the last part of an id, for where there is little room."""
    return row_id.partition(":")[2].rpartition("/")[2] or row_id


def _missing(names: Sequence[str], found: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name not in found))


def _first(names: Sequence[str]) -> str:
    few = ", ".join(names[:_FEW])
    return few if len(names) <= _FEW else f"{few} and {len(names) - _FEW:,} more"
