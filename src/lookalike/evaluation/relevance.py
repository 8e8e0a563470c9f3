"""Relevance: which rows are relevant to a query, by label, by a metadata column or by a file.

An evaluation asks one :class:`Relevance` for the relevant rows of each query and counts hits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lookalike.errors import InputError, SettingError
from lookalike.evaluation.ground_truth import is_header, read_ground_truth, resolve_items
from lookalike.formatting import format_count
from lookalike.sources import Item, Source
from lookalike.sources.labels import (
    LABEL,
    SEPARATOR,
    LabelSet,
    LabelSource,
    labels_of_items,
    read_labels,
    split_labels,
)
from lookalike.types import Hit

_MAX_NAMES = 3
_MAX_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class GroundTruthCoverage:
    """How a ground-truth file matches the queries and the gallery.

    ``left_out`` is the number of queries that the file does not list. ``unknown_queries`` and
    ``unknown_rows`` are names in the file that match no query and no row.
    """

    file: str
    left_out: int
    unknown_queries: tuple[str, ...]
    unknown_rows: tuple[str, ...]

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each mismatch, with the first few names."""
        if self.left_out:
            queries = format_count(self.left_out, "query", "queries")
            yield f"{self.file}: {queries} left out, not listed in the file"
        for names, singular, plural, place in (
            (self.unknown_queries, "query", "queries", "source"),
            (self.unknown_rows, "relevant row", "relevant rows", "gallery"),
        ):
            if names:
                noun = f"1 {singular} is" if len(names) == 1 else f"{len(names):,} {plural} are"
                yield f"{self.file}: {noun} not in the {place}: {_listed(names)}"


@dataclass(frozen=True, slots=True)
class RelevanceCriterion:
    """What makes a row relevant: the query's value in a column, or a ground-truth file.

    ``labeled``: the column is the label, the default; results are then also reported by label.
    """

    column: str | None = LABEL
    ground_truth: GroundTruthCoverage | None = None
    labeled: bool = True

    @property
    def description(self) -> str:
        """What relevant rows do, as the end of a sentence: ``have the query's label``."""
        if self.ground_truth is not None:
            return f"are listed in {Path(self.ground_truth.file).name}"
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
    """The relevant rows of one query, or the reason to skip the query.

    ``ids`` may hold the query's own row; ``count`` does not include it. ``name`` is the query's
    label, value or short name, for display. ``irrelevant``: it is skipped because no row is
    relevant to it, so that recall and average precision are undefined.
    """

    ids: frozenset[str]
    count: int
    name: str
    skip_reason: str = ""
    irrelevant: bool = False

    @classmethod
    def of(cls, query: Item, ids: frozenset[str], name: str) -> RelevantSet:
        """Return the set of these rows for a query."""
        return cls(ids, len(ids) - (query.id in ids), name)

    @classmethod
    def skip(cls, reason: str, *, irrelevant: bool = False) -> RelevantSet:
        """Return that a query is skipped."""
        return cls(frozenset(), 0, "", reason, irrelevant)

    def without(self, rows: frozenset[str]) -> RelevantSet:
        """Return the set without some rows, of which none is the query's own."""
        ids = self.ids - rows
        count = self.count - len(self.ids & rows)
        if self.count and not count:
            return self.skip("its relevant rows are duplicates of it", irrelevant=True)
        return replace(self, ids=ids, count=count)


class Relevance(Protocol):
    """Decides which rows are relevant to a query."""

    @property
    def criterion(self) -> RelevanceCriterion:
        """What makes a row relevant."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each row by id; empty if results are not reported by label."""
        ...

    def relevant(self, query: Item) -> RelevantSet | None:
        """Return the relevant rows; None if the query is not part of the evaluation."""
        ...


def build_relevance(
    rows: Source,
    queries: Source,
    *,
    labels: LabelSource | None = None,
    match: str | None = None,
    ground_truth: str | Path | None = None,
) -> Relevance:
    """Return the relevance of a gallery's rows to queries; by label, unless an option is given.

    Args:
        rows: the gallery's rows.
        queries: the query images.
        labels: of rows and queries (see :func:`~lookalike.sources.labels.read_labels`), instead
            of the metadata column ``label``.
        match: a metadata column: rows with the query's value are relevant.
        ground_truth: a CSV file of queries and relevant rows (see :func:`read_ground_truth`).

    Raises:
        SettingError: more than one option was given.
        InputError: no row has a label or a value in the column, or a file cannot be used.
    """
    given = {"labels": labels, "match": match, "ground_truth": ground_truth}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        one, other = list(given)[:2]
        raise SettingError(
            f"{{{one}}} cannot be combined with {{{other}}}: each defines relevance; use one",
            **{one: given[one] if one != "labels" else None, other: given[other]},
        )
    if ground_truth is not None:
        return GroundTruthRelevance.of(Path(ground_truth), rows, queries)
    if match is not None:
        return ColumnRelevance.of(rows, match)
    return LabelRelevance.of(rows, queries, labels)


@dataclass(frozen=True, slots=True)
class LabelRelevance:
    """Rows that share a label with the query are relevant.

    ``row_labels`` and ``query_labels`` are by id, the latter None if they are in the queries'
    metadata; ``groups`` are the ids of the rows with each label.
    """

    criterion: RelevanceCriterion
    row_labels: LabelSet
    query_labels: LabelSet | None
    groups: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, rows: Source, queries: Source, labels: LabelSource | None = None) -> LabelRelevance:
        """Group rows by label: those of ``labels``, or of the metadata.

        Raises:
            InputError: the labels cannot be read, or no row has one.
        """
        query_labels = None
        if labels is None:
            row_labels = labels_of_items(rows.spec, rows)
        else:
            row_ids, query_ids = [item.id for item in rows], [item.id for item in queries]
            both = read_labels(labels, list(dict.fromkeys((*row_ids, *query_ids))))
            row_labels, query_labels = both.restrict(row_ids), both.restrict(query_ids)
        if not len(row_labels) and labels is None:
            raise InputError(
                f"{rows.spec}: no labels among {format_count(len(rows), 'row')}; index images from "
                "sub-folders named by label, or define relevance by {match} or {ground_truth}",
                match=None,
                ground_truth=None,
            )
        if not len(row_labels):
            raise InputError(f"{row_labels.name}: no row has a label")
        groups: dict[str, set[str]] = {}
        for row_id, names in row_labels.by_id.items():
            for name in names:
                groups.setdefault(name, set()).add(row_id)
        ids = {name: frozenset(ids) for name, ids in groups.items()}
        return cls(RelevanceCriterion(LABEL), row_labels, query_labels, ids)

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each row by id; several are one text."""
        return self.row_labels.texts

    def relevant(self, query: Item) -> RelevantSet:
        """Return the rows that share a label; if no other row does, the query is skipped."""
        if self.query_labels is None:
            names = split_labels(query.metadata.get(LABEL))
        else:
            names = self.query_labels.by_id.get(query.id, ())
        if not names:
            return RelevantSet.skip(f"has no {LABEL}")
        ids = frozenset[str]().union(*(self.groups.get(name, frozenset()) for name in names))
        text = SEPARATOR.join(names)
        relevant = RelevantSet.of(query, ids, text)
        if relevant.count:
            return relevant
        return RelevantSet.skip(f"no other row has its {LABEL}, {text!r}", irrelevant=True)


@dataclass(frozen=True, slots=True)
class ColumnRelevance:
    """Rows with the query's value in a column are relevant; values are compared as strings.

    ``groups`` are the ids of the rows with each value.
    """

    criterion: RelevanceCriterion
    groups: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, rows: Source, match: str) -> ColumnRelevance:
        """Group rows by a column.

        Raises:
            InputError: no row has a value in it.
        """
        groups: dict[str, set[str]] = {}
        columns: Counter[str] = Counter()
        for item in rows:
            columns.update(item.metadata.keys())
            if item.metadata.get(match) is not None:
                groups.setdefault(str(item.metadata[match]), set()).add(item.id)
        if not groups:
            names = ", ".join(name for name, _ in columns.most_common(_MAX_COLUMNS)) or "none"
            raise InputError(
                f"{rows.spec}: no values in column {match!r} among "
                f"{format_count(len(rows), 'row')}; columns: {names}"
            )
        ids = {value: frozenset(ids) for value, ids in groups.items()}
        return cls(RelevanceCriterion(match, labeled=False), ids)

    @property
    def labels(self) -> Mapping[str, str]:
        """Empty: results are not reported by value."""
        return {}

    def relevant(self, query: Item) -> RelevantSet:
        """Return the rows with the query's value; if no other row has it, the query is skipped."""
        value = query.metadata.get(self.criterion.column or LABEL)
        if value is None:
            return RelevantSet.skip(f"has no {self.criterion.column}")
        relevant = RelevantSet.of(query, self.groups.get(str(value), frozenset()), str(value))
        if relevant.count:
            return relevant
        reason = f"no other row has its {self.criterion.column}, {str(value)!r}"
        return RelevantSet.skip(reason, irrelevant=True)


@dataclass(frozen=True, slots=True)
class GroundTruthRelevance:
    """Rows listed in a ground-truth file are relevant.

    ``ids`` are the relevant rows and ``unknown`` the names that match no row, by query id.
    """

    criterion: RelevanceCriterion
    ids: Mapping[str, frozenset[str]]
    unknown: Mapping[str, Sequence[str]]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, rows: Source, queries: Source) -> GroundTruthRelevance:
        """Read a ground-truth file and resolve its names.

        Raises:
            InputError: it cannot be read, lists none of the queries, or a name is ambiguous.
        """
        lines = read_ground_truth(path)
        if not len(rows):
            raise InputError(f"{rows.spec}: no rows to search")
        latest = lines[::-1]  # so that a name stands for its first line
        query_ids = resolve_items(path, queries, {line.query: line.number for line in latest})
        row_names = {name: line.number for line in latest for name in line.relevant}
        row_ids = resolve_items(path, rows, row_names)
        if is_header(lines[0], query_ids, row_ids):
            lines = lines[1:]
        ids: dict[str, set[str]] = {}
        unknown: dict[str, list[str]] = {}
        for line in lines:
            if line.query in query_ids:
                query = query_ids[line.query]
                known = [row_ids[name] for name in line.relevant if name in row_ids]
                ids.setdefault(query, set()).update(known)
                unknown.setdefault(query, []).extend(_unknown(line.relevant, row_ids))
        if not ids:
            first = f"its first is {lines[0].query!r}" if lines else "it has only a header"
            raise InputError(
                f"{path}: lists none of the {len(queries):,} queries of {queries.spec}; {first}, "
                f"the source's is {queries[0].id!r}"
            )
        coverage = GroundTruthCoverage(
            str(path),
            left_out=len(queries) - len(ids),
            unknown_queries=_unknown([line.query for line in lines], query_ids),
            unknown_rows=_unknown([name for line in lines for name in line.relevant], row_ids),
        )
        criterion = RelevanceCriterion(None, coverage, labeled=False)
        return cls(criterion, {query: frozenset(rows) for query, rows in ids.items()}, unknown, {})

    def relevant(self, query: Item) -> RelevantSet | None:
        """Return the rows that the file lists for a query; None if it does not list the query."""
        if query.id not in self.ids:
            return None
        relevant = RelevantSet.of(query, self.ids[query.id], short_name(query.id))
        if relevant.count:
            return relevant
        unknown = self.unknown[query.id]
        if relevant.ids:
            reason = "the ground truth lists no row but the query itself"
        elif not unknown:
            reason = "the ground truth lists no relevant row"
        else:
            reason = f"its relevant rows are not in the gallery: {_listed(unknown)}"
        return RelevantSet.skip(reason, irrelevant=True)


def mark_correct(
    hits: Iterable[Hit], value: object, column: str = LABEL
) -> tuple[bool | None, ...]:
    """Return for each hit whether it has a value in a column, both compared as strings.

    In the column ``label``, whether they share a label. None where unknown: the hit has nothing in
    the column, or ``value`` is None.
    """
    if column == LABEL:
        names = frozenset(split_labels(value))
        theirs = [split_labels(hit.metadata.get(LABEL)) for hit in hits]
        return tuple(bool(names.intersection(each)) if names and each else None for each in theirs)
    return tuple(
        None
        if value is None or hit.metadata.get(column) is None
        else str(hit.metadata[column]) == str(value)
        for hit in hits
    )


def short_name(row_id: str) -> str:
    """Return the last part of an id, for display in little space."""
    return row_id.partition(":")[2].rpartition("/")[2] or row_id


def _unknown(names: Iterable[str], ids: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name not in ids))


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return first if more <= 0 else f"{first} and {more:,} more"
