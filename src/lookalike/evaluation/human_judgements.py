"""Human judgements: precision and preferences from people's blind judgements of results.

People judge in the Judge view of ``lookalike serve``, which saves a JSON file. They mark each
result as relevant or not, without its rank or distance, or prefer the results of one of two
galleries, without their names.
"""

from __future__ import annotations

import codecs
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.arguments import checked
from lookalike.documents import Fields, parse_json
from lookalike.errors import InputError
from lookalike.evaluation.metrics import Estimate, QueryScores
from lookalike.files import as_path, open_regular
from lookalike.formatting import format_count
from lookalike.gallery.notebook import scores_html

FORMAT = "lookalike-judgements"
VERSION = 2
"""Raise it when an older lookalike would misread a file; keep reading the versions before."""

_KEYS_OF_VERSION_1 = {"created_at": "made", "returned": "given", "relevant": "right"}

_MAX_BYTES = 30_000_000
_LARGEST = 1 << 40
"""Largest number in a file."""

_WEIGHT = {"a": 1.0, "b": 0.0, "neither": 0.5}
_SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryJudgements:
    """Precision of a gallery's results by human judgement.

    ``precision`` is the share of relevant results among those shown: k, or fewer where the gallery
    returned fewer. ``map_retrieved`` is average precision divided by the number of relevant
    results, ``recall_at_1`` the share of queries whose first result is relevant. All are over the
    ``queries`` that were judged completely; ``left_out`` were not, or had no results. A query that
    several people judged counts once, with their mean. ``agreement`` is the share of results that
    two people judged alike, None if nobody judged the same one.
    """

    gallery: str
    encoder: str
    k: int
    queries: int
    left_out: int
    precision: Estimate
    map_retrieved: Estimate
    recall_at_1: Estimate
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """How often the results of gallery ``a`` were preferred to those of ``b``.

    ``share`` is the share of queries for ``a``; ties count half. A query that several people judged
    counts once, with their mean. ``agreement`` is the share of queries on which two people agree,
    None if nobody judged the same one.
    """

    a: str
    b: str
    queries: int
    for_a: int
    for_b: int
    ties: int
    share: Estimate
    agreement: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes one half and the sign test rejects equality at 5 %.

        The test is needed with a handful of unanimous queries, whose bootstrap interval has no
        width.
        """
        interval = self.share.interval
        excludes_half = not interval.low <= 0.5 <= interval.high
        return excludes_half and self.p_value < _SIGNIFICANCE

    @property
    def p_value(self) -> float:
        """Two-sided sign test of equal preference, without ties."""
        decided = self.for_a + self.for_b
        ways = total = 1  # sequences of choices in which the less preferred is never chosen
        for chosen in range(1, min(self.for_a, self.for_b) + 1):
            ways = ways * (decided - chosen + 1) // chosen
            total += ways
        return min(1.0, float(2 * total / 2**decided))

    def verdict(self) -> str:
        """Return the result in one sentence."""
        if not self.significant:
            return f"no significant difference between {self.a} and {self.b}"
        better, worse = (self.a, self.b) if self.share.value > 0.5 else (self.b, self.a)
        return f"{better} is preferred to {worse}"


def _json_fields(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return fields as a JSON object, with null for the ends of an interval that is undefined."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields
    }


@dataclass(frozen=True, slots=True, repr=False)
class JudgementsResult:
    """The result of :func:`evaluate_judgements`; in a notebook, a table of precision by gallery.

    ``hits`` are by gallery and k. ``unfinished`` names galleries for which no query was judged
    completely.
    """

    files: int
    hits: tuple[GalleryJudgements, ...]
    preferences: tuple[Preference, ...]
    unfinished: tuple[str, ...] = ()

    def verdict(self) -> str:
        """Return the preferences between galleries, in one sentence; empty if none was asked."""
        return "; ".join(each.verdict() for each in self.preferences)

    def __repr__(self) -> str:
        precision = ", ".join(f"{each.gallery} {each.precision}" for each in self.hits)
        parts = [f"precision@k: {precision}"] if precision else []
        parts += [self.verdict()] if self.preferences else []
        return f"JudgementsResult({format_count(self.files, 'file')};\n  {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        columns = ("gallery", "k", "precision@k", "mAP", "R@1", "queries")
        rows = [
            (
                each.gallery,
                each.k,
                *map(str, (each.precision, each.map_retrieved, each.recall_at_1)),
                each.queries,
            )
            for each in self.hits
        ]
        title = f"Results judged relevant, from {format_count(self.files, 'file')}"
        return scores_html(title, columns, rows, self.verdict())

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate judgements --json``."""
        return {
            **asdict(self, dict_factory=_json_fields),
            "preferences": [
                {
                    **asdict(each, dict_factory=_json_fields),
                    "p_value": each.p_value,
                    "significant": each.significant,
                }
                for each in self.preferences
            ],
        }


@checked
def evaluate_judgements(files: Sequence[str | Path]) -> JudgementsResult:
    """Summarize human judgements, with 95 % confidence intervals over the queries.

    Args:
        files: saved from the Judge view, by one person or several.

    Raises:
        InputError: a file cannot be read, is damaged (the place is named) or given twice; files
            judge different encoders under one gallery name; or no query was judged completely.
    """
    if isinstance(files, str | Path) or not isinstance(files, Iterable):
        raise InputError(
            f"{{files}} must be a list of paths, not {type(files).__name__}", files=None
        )
    read = read_judgement_files(as_path(file, "files") for file in files)
    if not read:
        raise InputError("no judgement file; save one from the Judge view of lookalike serve")
    judgements: dict[tuple[str, int], dict[str, list[QueryJudgement]]] = defaultdict(
        lambda: defaultdict(list)
    )
    votes: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    encoders: dict[str, str] = {}
    for file in read:
        encoders |= {name: encoder for name, (encoder, _) in file.galleries.items()}
        for judgement in file.hits:
            judgements[judgement.gallery, judgement.k][judgement.query].append(judgement)
        for vote in file.preferences:
            swapped = (vote.b, vote.a) in votes
            pair = (vote.b, vote.a) if swapped else (vote.a, vote.b)
            votes[pair][vote.query].append(1 - vote.weight if swapped else vote.weight)
    hits, unfinished = [], []
    for (gallery, k), queries in sorted(judgements.items()):
        if any(each.complete for people in queries.values() for each in people):
            hits.append(_gallery_judgements(gallery, k, encoders[gallery], queries))
        else:
            unfinished.append(gallery)
    preferences = [_preference(a, b, queries) for (a, b), queries in votes.items()]
    if not hits and not preferences:
        names = ", ".join(str(file.path) for file in read)
        raise InputError(
            f"{names}: no query was judged completely; judge all results of at least one query"
        )
    return JudgementsResult(
        len(read), tuple(hits), tuple(preferences), tuple(dict.fromkeys(unfinished))
    )


def _gallery_judgements(
    gallery: str, k: int, encoder: str, queries: Mapping[str, list[QueryJudgement]]
) -> GalleryJudgements:
    complete = [[each for each in people if each.complete] for people in queries.values()]
    scores = np.array(  # (queries, 3)
        [
            np.mean([_scores(each.relevant) for each in people], axis=0)
            for people in complete
            if people
        ]
    )
    precision, map_retrieved, recall_at_1 = (Estimate.of(column) for column in scores.T)
    agreement = _share_of_true(
        one.relevant[row] == other.relevant[row]
        for people in queries.values()
        for one, other in combinations(people, 2)
        for row in one.relevant.keys() & other.relevant.keys()
    )
    return GalleryJudgements(
        gallery=gallery,
        encoder=encoder,
        k=k,
        queries=len(scores),
        left_out=len(queries) - len(scores),
        precision=precision,
        map_retrieved=map_retrieved,
        recall_at_1=recall_at_1,
        agreement=agreement,
    )


def _scores(relevant: Mapping[str, bool]) -> tuple[float, float, float]:
    """Return precision, average precision of the retrieved, and recall at 1."""
    marks = np.array([list(relevant.values())], np.bool_)
    scores = QueryScores.of(marks, marks.sum(axis=1))
    values = (scores.precision, scores.average_precision_of_retrieved, scores.recall_at_1)
    precision, average, first = (float(each[0]) for each in values)
    return precision, average, first


def _preference(a: str, b: str, queries: Mapping[str, list[float]]) -> Preference:
    means = np.array([np.mean(weights) for weights in queries.values()])
    counts = Counter(float(np.sign(mean - 0.5)) for mean in means)
    agreement = _share_of_true(
        one == other for weights in queries.values() for one, other in combinations(weights, 2)
    )
    return Preference(
        a=a,
        b=b,
        queries=len(means),
        for_a=counts[1.0],
        for_b=counts[-1.0],
        ties=counts[0.0],
        share=Estimate.of(means),
        agreement=agreement,
    )


def _share_of_true(values: Iterable[bool]) -> float | None:
    """Return the share of true values, None without any value."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


# ---- files ----


@dataclass(frozen=True, slots=True)
class QueryJudgement:
    """One person's judgement of a query's results: relevant or not, by id in order of rank.

    ``k`` results were requested and ``returned`` were found; an unfinished judgement has fewer.
    """

    gallery: str
    query: str
    k: int
    returned: int
    relevant: Mapping[str, bool]

    @property
    def complete(self) -> bool:
        """Whether there were results and all of them were judged."""
        return 0 < len(self.relevant) == self.returned


@dataclass(frozen=True, slots=True)
class PreferenceVote:
    """One person's preference between two galleries: weight 1 for ``a``, 0 for ``b``, 0.5."""

    a: str
    b: str
    query: str
    weight: float


@dataclass(frozen=True, slots=True)
class JudgementFile:
    """The content of a file; ``galleries`` maps names to encoders and their fingerprints."""

    path: Path
    galleries: Mapping[str, tuple[str, str]]
    hits: Sequence[QueryJudgement]
    preferences: Sequence[PreferenceVote]


def read_judgement_files(files: Iterable[Path]) -> list[JudgementFile]:
    """Read judgement files.

    Raises:
        InputError: one cannot be read or is damaged (the place is named), one is given twice, or
            two judge different encoders under one gallery name.
    """
    read: dict[bytes, JudgementFile] = {}
    for path in files:
        data = _bytes(path)
        if data in read:
            raise InputError(f"{path}: same content as {read[data].path}; give it once")
        read[data] = _parse(path, data)
    encoders: dict[str, tuple[str, Path]] = {}
    for file in read.values():
        for name, (_, fingerprint) in file.galleries.items():
            first, path = encoders.setdefault(name, (fingerprint, file.path))
            if first != fingerprint:
                raise InputError(
                    f"{file.path}: judges another encoder of {name!r} than {path}; evaluate the "
                    "files separately"
                )
    return list(read.values())


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path}: too large for a judgement file (over 30 MB)")
    return data


def _parse(path: Path, data: bytes) -> JudgementFile:
    document = parse_json(
        data.removeprefix(codecs.BOM_UTF8),
        str(path),
        hint="save the judgements again, from the Judge view",
        error=InputError,
        limit=_MAX_BYTES,
    )
    fields = Fields.of(document, str(path), error=InputError)
    if fields.values.get("format") != FORMAT:
        raise InputError(f"{path}: not a judgement file; save one from the Judge view")
    version = fields.integer("version", 1, _LARGEST)
    if version > VERSION:
        raise InputError(f"{path}: written by a newer lookalike; update this one")
    key = dict(_KEYS_OF_VERSION_1 if version == 1 else {})
    fields.text(key.get("created_at", "created_at"))
    galleries = {}
    for name in fields.mapping("galleries"):
        if not name.isprintable():
            raise InputError(f"{path}: galleries: the name {name!r} cannot be printed")
        gallery = fields.object("galleries").object(name)
        encoder = gallery.text("encoder")
        if not encoder.isprintable():
            raise gallery.invalid("encoder", "printable")
        galleries[name] = encoder, gallery.text("fingerprint")
        gallery.integer("rows", 0, _LARGEST)
    hits = [_query_judgement(each, galleries, key) for each in fields.objects("hits")]
    preferences = [_preference_vote(each, galleries) for each in fields.objects("preferences")]
    if not hits and not preferences:
        raise InputError(f"{path}: no judgements; judge something and save again")
    _check_unique(f"{path}: hits", [(each.gallery, each.query, each.k) for each in hits])
    pairs = [(frozenset((each.a, each.b)), each.query) for each in preferences]
    _check_unique(f"{path}: preferences", pairs)
    return JudgementFile(path, galleries, hits, preferences)


def _query_judgement(
    fields: Fields, galleries: Mapping[str, object], key: Mapping[str, str]
) -> QueryJudgement:
    """Return a judged query; ``key`` has the names of fields in an older version."""
    place = f"{fields.place}: {fields.path.rstrip('.')}"
    k = fields.integer("k", 1, _LARGEST)
    returned = fields.integer(key.get("returned", "returned"), 0, _LARGEST, k)
    ranked = sorted(
        (
            answer.integer("rank", -_LARGEST, _LARGEST),
            answer.text("id"),
            answer.flag(key.get("relevant", "relevant")),
        )
        for answer in fields.objects("answers")
    )
    relevant = {row: is_relevant for _, row, is_relevant in ranked}
    ranks = [rank for rank, *_ in ranked]
    if len(relevant) != len(ranked) or len(set(ranks)) != len(ranks):
        raise InputError(f"{place}: judges a result twice")
    if len(relevant) > returned or returned > k or not all(1 <= rank <= returned for rank in ranks):
        results = format_count(returned, "result")
        raise InputError(f"{place}: has ranks or answers beyond the {results} returned")
    gallery = _gallery(fields, "gallery", galleries)
    return QueryJudgement(gallery, fields.text("query"), k, returned, relevant)


def _preference_vote(fields: Fields, galleries: Mapping[str, object]) -> PreferenceVote:
    side = fields.text("preferred", allowed=_WEIGHT)
    a, b = _gallery(fields, "a", galleries), _gallery(fields, "b", galleries)
    if a == b:
        raise InputError(f"{fields.place}: {fields.path.rstrip('.')}: compares {a!r} with itself")
    return PreferenceVote(a, b, fields.text("query"), _WEIGHT[side])


def _gallery(fields: Fields, name: str, galleries: Mapping[str, object]) -> str:
    value = fields.text(name)
    if value not in galleries:
        raise fields.invalid(name, "among the file's galleries")
    return value


def _check_unique(place: str, judgements: Sequence[Hashable]) -> None:
    """Check that a file judges nothing twice, which would count as two people who agree."""
    first: dict[Hashable, int] = {}
    for number, judgement in enumerate(judgements):
        if first.setdefault(judgement, number) != number:
            raise InputError(f"{place}[{number}]: judges the same query as [{first[judgement]}]")
