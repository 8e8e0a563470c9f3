"""What people said of hits that they were shown blind: right or wrong, or whose are better."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import InputError
from lookalike.judgement_files import Answers, read_files
from lookalike.metrics import Estimate, bootstrap_interval

_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class JudgedHits:
    """A gallery's hits as people judged them.

    ``precision`` is the share of right hits among those shown: n, or fewer where the gallery gave
    fewer, so that 1 can always be reached. ``map_found`` is mAP@n divided by the right hits among
    them, ``first_right`` the share of queries whose first hit is right. All are over the
    ``queries`` that were judged to the end; ``left_out`` were not, or had no hits. A query that
    several people judged counts once, with their mean. ``agreement`` is the share of hits on which
    two people who saw the same one agree, None if nobody did.
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
        told = self.for_a + self.for_b
        fewer = sum(math.comb(told, k) for k in range(min(self.for_a, self.for_b) + 1))
        return min(1.0, 2 * fewer / (1 << told))

    def verdict(self) -> str:
        """Say it in a sentence."""
        if self.within_noise:
            return f"between {self.a} and {self.b} there is no difference beyond the noise"
        better, worse = (self.a, self.b) if self.share.value > 0.5 else (self.b, self.a)
        return f"{better} is preferred to {worse}"


@dataclass(frozen=True, slots=True)
class HitJudgements:
    """What :func:`evaluate_judgements` found.

    ``unfinished`` names galleries of which hits were judged, but none of a query to the end.
    """

    files: int
    hits: tuple[JudgedHits, ...]
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


def evaluate_judgements(files: Sequence[str | Path]) -> HitJudgements:
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
    answers: dict[tuple[str, int], dict[str, list[Answers]]] = defaultdict(
        lambda: defaultdict(list)
    )
    preferred: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    encoders: dict[str, str] = {}
    for file in read:
        encoders |= {name: encoder for name, (encoder, _) in file.galleries.items()}
        for said in file.hits:
            answers[said.gallery, said.n][said.query].append(said)
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
    return HitJudgements(len(read), tuple(hits), tuple(pairs), tuple(dict.fromkeys(unfinished)))


def _judged(gallery: str, n: int, encoder: str, queries: Mapping[str, list[Answers]]) -> JudgedHits:
    judged = [[said for said in people if said.complete] for people in queries.values()]
    scores = np.array(  # (queries, 3)
        [np.mean([_scores(said.right) for said in people], axis=0) for people in judged if people]
    )
    precision, map_found, first = (
        Estimate(float(column.mean()), bootstrap_interval(column)) for column in scores.T
    )
    agreement = _agreement(
        one.right[row] == other.right[row]
        for people in queries.values()
        for one, other in combinations(people, 2)
        for row in one.right.keys() & other.right.keys()
    )
    left_out = len(queries) - len(scores)
    return JudgedHits(
        gallery, encoder, n, len(scores), left_out, precision, map_found, first, agreement
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
