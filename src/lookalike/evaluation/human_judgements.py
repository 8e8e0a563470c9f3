"""What people said of hits that they were shown blind: right or wrong, or whose are better."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lookalike.errors import InputError
from lookalike.evaluation.metrics import Estimate, bootstrap_interval

FORMAT = "lookalike-judgements"
VERSION = 1
"""Raise it when an older lookalike would misread a file; go on reading the versions before."""

_LARGEST = 30_000_000
_WEIGHT = {"a": 1.0, "b": 0.0, "neither": 0.5}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueryJudgement:
    """One person's answers to a query's hits, by id in order of rank.

    ``k`` hits were asked for and ``given`` were found; who stopped early judged fewer.
    """

    gallery: str
    query: str
    k: int
    given: int
    right: Mapping[str, bool]

    @property
    def complete(self) -> bool:
        """Whether there were hits and all of them were judged."""
        return 0 < len(self.right) == self.given


@dataclass(frozen=True, slots=True)
class PreferenceVote:
    """Which of two galleries' answers one person preferred: 1 for ``a``'s, 0 for ``b``'s, 0.5."""

    a: str
    b: str
    query: str
    weight: float


@dataclass(frozen=True, slots=True)
class JudgementFile:
    """A file as it was read; ``galleries`` maps names to encoders and their fingerprints."""

    path: Path
    galleries: Mapping[str, tuple[str, str]]
    hits: Sequence[QueryJudgement]
    preferences: Sequence[PreferenceVote]


def read_files(files: Iterable[Path]) -> list[JudgementFile]:
    """Read files of judgements.

    Raises:
        InputError: one cannot be read or used, and where in it; one is given twice, or two judge
            galleries of one name and different encoders.
    """
    read: dict[bytes, JudgementFile] = {}
    for path in files:
        data = _bytes(path)
        if data in read:
            raise InputError(f"{path}: holds the same as {read[data].path}; give it once")
        read[data] = _parsed(path, data)
    known: dict[str, tuple[str, Path]] = {}
    for file in read.values():
        for name, (_, fingerprint) in file.galleries.items():
            before, where = known.setdefault(name, (fingerprint, file.path))
            if before != fingerprint:
                raise InputError(
                    f"{file.path}: judges another encoder of {name!r} than {where} does; evaluate "
                    "them apart"
                )
    return list(read.values())


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > _LARGEST:
        raise InputError(f"{path}: is larger than any file of judgements")
    return data


def _parsed(path: Path, data: bytes) -> JudgementFile:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start:,})") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}, {where}: is no JSON ({error.msg})") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply for a file of judgements") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}: is no JSON that can be read ({error})") from error
    fields = _Fields(found, f"{path}")
    if fields.get("format", str) != FORMAT:
        raise InputError(f"{path}: is no file of judgements; save one from the page's Judge")
    if fields.get("version", int) != VERSION:
        raise InputError(f"{path}: was saved by a newer lookalike; update this one")
    fields.get("made", str)
    galleries = {}
    for name, each in fields.named("galleries"):
        galleries[name] = each.word("encoder"), each.get("fingerprint", str)
        each.count("rows")
    hits = [_answers(each, galleries) for each in fields.each("hits")]
    preferences = [_preferred(each, galleries) for each in fields.each("preferences")]
    if not hits and not preferences:
        raise InputError(f"{path}: holds no judgement; judge something, then save it")
    _once(f"{path}: hits", [(each.gallery, each.query, each.k) for each in hits])
    pairs = [(frozenset((each.a, each.b)), each.query) for each in preferences]
    _once(f"{path}: preferences", pairs)
    return JudgementFile(path, galleries, hits, preferences)


class _Fields:
    """A mapping in a file, whose errors say where it is."""

    def __init__(self, found: object, where: str) -> None:
        if not isinstance(found, dict):
            raise InputError(f"{where}: must be an object")
        self._found = found
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str, kind: type[T]) -> T:
        value = self._found.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self.where}: {name!r} must be of type {kind.__name__}")
        return value

    def count(self, name: str, least: int = 0) -> int:
        value = self.get(name, int)
        if value < least:
            raise InputError(f"{self.where}: {name!r} must be at least {least}")
        return value

    def word(self, name: str) -> str:
        """Return a text that is shown: no control characters, no half of a character."""
        value = self.get(name, str)
        if not value.isprintable():
            raise InputError(f"{self.where}: {name!r} holds characters that cannot be printed")
        return value

    def each(self, name: str) -> list[_Fields]:
        values: list[object] = self.get(name, list)
        return [_Fields(v, f"{self.where}: {name}[{i}]") for i, v in enumerate(values)]

    def named(self, name: str) -> list[tuple[str, _Fields]]:
        values: dict[str, object] = self.get(name, dict)
        for key in values:
            if not key.isprintable():
                raise InputError(f"{self.where}: {name}: the name {key!r} cannot be printed")
        return [(key, _Fields(v, f"{self.where}: {name}.{key}")) for key, v in values.items()]

    def gallery(self, name: str, known: Mapping[str, object]) -> str:
        found = self.get(name, str)
        if found not in known:
            raise InputError(f"{self.where}: {found!r} is not among the file's galleries")
        return found


def _answers(each: _Fields, galleries: Mapping[str, object]) -> QueryJudgement:
    n = each.count("k", least=1)
    given = each.count("given") if "given" in each else n
    ranked = sorted(
        (answer.get("rank", int), answer.get("id", str), answer.get("right", bool))
        for answer in each.each("answers")
    )
    right = {row: is_right for _, row, is_right in ranked}
    ranks = [rank for rank, *_ in ranked]
    if len(right) != len(ranked) or len(set(ranks)) != len(ranks):
        raise InputError(f"{each.where}: judges a hit twice")
    if len(right) > given or given > n or not all(1 <= rank <= given for rank in ranks):
        raise InputError(f"{each.where}: has ranks or answers beyond the {given} hits given")
    return QueryJudgement(
        each.gallery("gallery", galleries), each.get("query", str), n, given, right
    )


def _preferred(each: _Fields, galleries: Mapping[str, object]) -> PreferenceVote:
    side = each.get("preferred", str)
    if side not in _WEIGHT:
        raise InputError(f"{each.where}: 'preferred' must be one of {', '.join(_WEIGHT)}")
    a, b = each.gallery("a", galleries), each.gallery("b", galleries)
    if a == b:
        raise InputError(f"{each.where}: compares {a!r} with itself")
    return PreferenceVote(a, b, each.get("query", str), _WEIGHT[side])


def _once(where: str, judged: Sequence[Hashable]) -> None:
    """See that a person judged nothing twice: it would count as two people who agree."""
    seen: dict[Hashable, int] = {}
    for place, each in enumerate(judged):
        if seen.setdefault(each, place) != place:
            raise InputError(f"{where}[{place}]: judges the query of [{seen[each]}] again")


_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class GalleryJudgements:
    """A gallery's hits as people judged them.

    ``precision`` is the share of right hits among those shown: n, or fewer where the gallery gave
    fewer, so that 1 can always be reached. ``map_retrieved`` is mAP@k divided by the right hits
    among them, ``recall_at_1`` the share of queries whose first hit is right. All are over the
    ``queries`` that were judged to the end; ``left_out`` were not, or had no hits. A query that
    several people judged counts once, with their mean. ``agreement`` is the share of hits on which
    two people who saw the same one agree, None if nobody did.
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


@dataclass(frozen=True, slots=True)
class Preference:
    """How often ``a``'s answers were preferred to ``b``'s; ``share`` counts ties as half.

    A query that several people judged counts once, with their mean. ``agreement`` is the share of
    queries on which two people who judged the same one agree, None if nobody did.
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
    def within_noise(self) -> bool:
        """Whether the two may be equally good.

        They may if the interval holds one half, or if a sign test does: a bootstrap of a handful
        of queries that all say the same has an interval of no width.
        """
        interval = self.share.interval
        return interval.low <= 0.5 <= interval.high or self.by_chance >= _CHANCE

    @property
    def by_chance(self) -> float:
        """The chance of so uneven a count if both were as good (two-sided sign test, no ties)."""
        from scipy.stats import binomtest

        decided = self.for_a + self.for_b
        return float(binomtest(self.for_a, decided).pvalue) if decided else 1.0

    def verdict(self) -> str:
        """Say it in a sentence."""
        if self.within_noise:
            return f"between {self.a} and {self.b} there is no difference beyond the noise"
        better, worse = (self.a, self.b) if self.share.value > 0.5 else (self.b, self.a)
        return f"{better} is preferred to {worse}"


@dataclass(frozen=True, slots=True)
class JudgementsResult:
    """What :func:`evaluate_judgements` found.

    ``unfinished`` names galleries of which hits were judged, but none of a query to the end.
    """

    files: int
    hits: tuple[GalleryJudgements, ...]
    preferences: tuple[Preference, ...]
    unfinished: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --judgements --json``."""
        return {
            **asdict(self),
            "preferences": [
                {**asdict(each), "within_noise": each.within_noise} for each in self.preferences
            ],
        }


def evaluate_judgements(files: Sequence[str | Path]) -> JudgementsResult:
    """Return what people's judgements of hits come to, with 95 % intervals over the queries.

    Args:
        files: saved from the page's judging view; several people's may be given together.

    Raises:
        InputError: a file cannot be read or used (the place in it is named), or is given twice;
            files judge galleries of one name and different encoders; or nothing was judged to the
            end.
    """
    read = read_files(Path(file) for file in files)
    if not read:
        raise InputError("no file of judgements was given")
    answers: dict[tuple[str, int], dict[str, list[QueryJudgement]]] = defaultdict(
        lambda: defaultdict(list)
    )
    preferred: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    encoders: dict[str, str] = {}
    for file in read:
        encoders |= {name: encoder for name, (encoder, _) in file.galleries.items()}
        for said in file.hits:
            answers[said.gallery, said.k][said.query].append(said)
        for each in file.preferences:
            turned = (each.b, each.a) in preferred
            pair = (each.b, each.a) if turned else (each.a, each.b)
            preferred[pair][each.query].append(1 - each.weight if turned else each.weight)
    hits, unfinished = [], []
    for (gallery, n), queries in sorted(answers.items()):
        if any(said.complete for people in queries.values() for said in people):
            hits.append(_judged(gallery, n, encoders[gallery], queries))
        else:
            unfinished.append(gallery)
    pairs = [_preference(a, b, said) for (a, b), said in preferred.items()]
    if not hits and not pairs:
        names = ", ".join(str(file.path) for file in read)
        raise InputError(
            f"{names}: no query was judged to the end; judge all hits of at least one query"
        )
    return JudgementsResult(len(read), tuple(hits), tuple(pairs), tuple(dict.fromkeys(unfinished)))


def _judged(
    gallery: str, k: int, encoder: str, queries: Mapping[str, list[QueryJudgement]]
) -> GalleryJudgements:
    judged = [[said for said in people if said.complete] for people in queries.values()]
    scores = np.array(  # (queries, 3)
        [np.mean([_scores(said.right) for said in people], axis=0) for people in judged if people]
    )
    precision, map_retrieved, first = (
        Estimate(float(column.mean()), bootstrap_interval(column)) for column in scores.T
    )
    agreement = _agreement(
        one.right[row] == other.right[row]
        for people in queries.values()
        for one, other in combinations(people, 2)
        for row in one.right.keys() & other.right.keys()
    )
    left_out = len(queries) - len(scores)
    return GalleryJudgements(
        gallery, encoder, k, len(scores), left_out, precision, map_retrieved, first, agreement
    )


def _scores(answers: Mapping[str, bool]) -> tuple[float, float, float]:
    """Return precision, average precision of the found, and whether the first is right."""
    right = np.array(list(answers.values()), np.float64)
    gains = right * np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(right.mean()), float(gains.sum() / max(1.0, right.sum())), float(right[0])


def _preference(a: str, b: str, queries: Mapping[str, list[float]]) -> Preference:
    means = np.array([np.mean(said) for said in queries.values()])
    counts = Counter(float(np.sign(mean - 0.5)) for mean in means)
    share = Estimate(float(means.mean()), bootstrap_interval(means))
    agreement = _agreement(
        one == other for people in queries.values() for one, other in combinations(people, 2)
    )
    return Preference(a, b, len(means), counts[1.0], counts[-1.0], counts[0.0], share, agreement)


def _agreement(same: Iterable[bool]) -> float | None:
    """Return the share that is the same, None of nothing."""
    each = list(same)
    return sum(each) / len(each) if each else None
