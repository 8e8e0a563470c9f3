"""What people said of hits that they were shown blind: right or wrong, or whose are better."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lookalike.errors import InputError
from lookalike.metrics import Estimate, bootstrap_interval

FORMAT = "lookalike-judgements"
VERSION = 1

_LARGEST = 100_000_000
_WEIGHT = {"a": 1.0, "b": 0.0, "neither": 0.5}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JudgedHits:
    """A gallery's hits as people judged them.

    ``precision`` is the share of right hits among those shown, ``map_found`` mAP@n divided by the
    right hits among the n, ``first_right`` the share of queries whose first hit is right, all over
    the ``queries`` that were judged to the end; ``left_out`` were not. A query that several people
    judged counts once, with their mean. ``agreement`` is the share of hits on which two people
    who saw the same one agree, None if nobody did.
    """

    gallery: str
    encoder: str
    n: int
    queries: int
    left_out: int
    precision: Estimate
    map_found: Estimate
    first_right: Estimate
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Preference:
    """How often ``a``'s answers were preferred to ``b``'s; ``share`` counts ties as half."""

    a: str
    b: str
    queries: int
    for_a: int
    for_b: int
    ties: int
    share: Estimate

    @property
    def within_noise(self) -> bool:
        """Whether the two may be equally good."""
        return self.share.interval.low <= 0.5 <= self.share.interval.high

    def verdict(self) -> str:
        """Say it in a sentence."""
        if self.within_noise:
            return f"between {self.a} and {self.b} there is no difference beyond the noise"
        better, worse = (self.a, self.b) if self.share.value > 0.5 else (self.b, self.a)
        return f"{better} is preferred to {worse}"


@dataclass(frozen=True, slots=True)
class HitJudgements:
    """What :func:`evaluate_judgements` found."""

    files: int
    hits: tuple[JudgedHits, ...]
    preferences: tuple[Preference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --judgements --json``."""
        return {
            **asdict(self),
            "preferences": [
                {**asdict(each), "within_noise": each.within_noise} for each in self.preferences
            ],
        }


def evaluate_judgements(files: Sequence[str | Path]) -> HitJudgements:
    """Return what people's judgements of hits come to, with 95 % intervals over the queries.

    Args:
        files: saved from the page's judging view; several people's may be given together.

    Raises:
        InputError: a file cannot be read or used, names the place in it; or files judge galleries
            of one name and different encoders.
    """
    read = [_File.read(Path(file)) for file in files]
    if not read:
        raise InputError("no file of judgements was given")
    encoders = _encoders(read)
    answers: dict[tuple[str, int], dict[str, list[_Answers]]] = defaultdict(
        lambda: defaultdict(list)
    )
    preferred: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for file in read:
        for gallery, query, said in file.hits:
            answers[gallery, said.n][query].append(said)
        for a, b, query, weight in file.preferences:
            pair, own = ((b, a), 1 - weight) if (b, a) in preferred else ((a, b), weight)
            preferred[pair][query].append(own)
    hits = [_judged(*key, encoders[key[0]], said) for key, said in sorted(answers.items())]
    pairs = [_preference(a, b, said) for (a, b), said in preferred.items()]
    return HitJudgements(len(read), tuple(hits), tuple(pairs))


@dataclass(frozen=True, slots=True)
class _Answers:
    """One person's answers to the hits of one query, in order of rank."""

    n: int
    given: int
    right: Mapping[str, bool]

    @property
    def complete(self) -> bool:
        return len(self.right) == self.given

    def scores(self) -> tuple[float, float, float]:
        """Return precision, average precision over the found, and whether the first is right."""
        right = np.array(list(self.right.values()), np.float64)
        gains = right * np.cumsum(right) / np.arange(1, len(right) + 1)
        return float(right.mean()), float(gains.sum() / max(1.0, right.sum())), float(right[0])


def _judged(
    gallery: str, n: int, encoder: str, queries: Mapping[str, list[_Answers]]
) -> JudgedHits:
    scores = [
        np.mean([said.scores() for said in people if said.complete], axis=0)
        for people in queries.values()
        if any(said.complete and said.right for said in people)
    ]
    if not scores:
        raise InputError(
            f"judgements of {gallery}: no query was judged to the end; judge all hits of at least "
            "one query"
        )
    table = np.array(scores)
    precision, map_found, first = (
        Estimate(float(column.mean()), bootstrap_interval(column)) for column in table.T
    )
    agreed = [
        one.right[row] == other.right[row]
        for people in queries.values()
        for one, other in combinations(people, 2)
        for row in one.right.keys() & other.right.keys()
    ]
    agreement = sum(agreed) / len(agreed) if agreed else None
    left_out = len(queries) - len(scores)
    return JudgedHits(
        gallery, encoder, n, len(scores), left_out, precision, map_found, first, agreement
    )


def _preference(a: str, b: str, queries: Mapping[str, list[float]]) -> Preference:
    means = np.array([np.mean(said) for said in queries.values()])
    counts = Counter(float(np.sign(mean - 0.5)) for mean in means)
    share = Estimate(float(means.mean()), bootstrap_interval(means))
    return Preference(a, b, len(means), counts[1.0], counts[-1.0], counts[0.0], share)


def _encoders(files: Iterable[_File]) -> dict[str, str]:
    """Return the encoder of each gallery by its name.

    Raises:
        InputError: two files say different ones.
    """
    known: dict[str, tuple[str, str, Path]] = {}
    for file in files:
        for name, (encoder, fingerprint) in file.galleries.items():
            _, before, where = known.setdefault(name, (encoder, fingerprint, file.path))
            if before != fingerprint:
                raise InputError(
                    f"{file.path}: judges another encoder of {name!r} than {where} does; evaluate "
                    "them apart"
                )
    return {name: encoder for name, (encoder, *_) in known.items()}


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read and checked."""

    path: Path
    galleries: Mapping[str, tuple[str, str]]
    hits: Sequence[tuple[str, str, _Answers]]
    preferences: Sequence[tuple[str, str, str, float]]

    @classmethod
    def read(cls, path: Path) -> _File:
        try:
            if path.stat().st_size > _LARGEST:
                raise InputError(f"{path}: is larger than any file of judgements")
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is no JSON ({type(error).__name__})") from error
        fields = _Fields(found, f"{path}")
        if fields.get("format", str) != FORMAT:
            raise InputError(f"{path}: is no file of judgements; save one from the page's Judge")
        if fields.get("version", int) != VERSION:
            raise InputError(f"{path}: was saved by a newer lookalike; update this one")
        galleries = {
            name: (each.get("encoder", str), each.get("fingerprint", str))
            for name, each in fields.named("galleries")
        }
        hits = [_hits_of(each, galleries) for each in fields.each("hits")]
        preferences = [_preference_of(each, galleries) for each in fields.each("preferences")]
        if not hits and not preferences:
            raise InputError(f"{path}: holds no judgement; judge something, then save it")
        return cls(path, galleries, hits, preferences)


class _Fields:
    """A mapping in a file, whose errors say where it is."""

    def __init__(self, found: object, where: str) -> None:
        if not isinstance(found, dict):
            raise InputError(f"{where}: must be an object")
        self._found = found
        self.where = where

    def get(self, name: str, kind: type[T]) -> T:
        value = self._found.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self.where}: {name!r} must be of type {kind.__name__}")
        return value

    def each(self, name: str) -> list[_Fields]:
        values: list[object] = self.get(name, list)
        return [_Fields(v, f"{self.where}: {name}[{i}]") for i, v in enumerate(values)]

    def named(self, name: str) -> list[tuple[str, _Fields]]:
        values: dict[str, object] = self.get(name, dict)
        return [(key, _Fields(v, f"{self.where}: {name}.{key}")) for key, v in values.items()]

    def gallery(self, name: str, known: Mapping[str, object]) -> str:
        found = self.get(name, str)
        if found not in known:
            raise InputError(f"{self.where}: {found!r} is not among the file's galleries")
        return found


def _hits_of(each: _Fields, galleries: Mapping[str, object]) -> tuple[str, str, _Answers]:
    n, given = each.get("n", int), each.get("given", int)
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
    said = _Answers(n, given, right)
    return each.gallery("gallery", galleries), each.get("query", str), said


def _preference_of(each: _Fields, galleries: Mapping[str, object]) -> tuple[str, str, str, float]:
    side = each.get("preferred", str)
    if side not in _WEIGHT:
        raise InputError(f"{each.where}: 'preferred' must be one of {', '.join(_WEIGHT)}")
    a, b = each.gallery("a", galleries), each.gallery("b", galleries)
    if a == b:
        raise InputError(f"{each.where}: compares {a!r} with itself")
    return a, b, each.get("query", str), _WEIGHT[side]
