"""Model selection: compare encoders on a user's images by a few labels or judgements of pairs.

Without labels nothing is ranked: no unsupervised measure was found to order encoders by quality
(``docs/experiments.md``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.encoders.registry import find_encoder_spec
from lookalike.errors import InputError, SettingError
from lookalike.evaluation.agreement import Judgements, LabelJudgements, read_judgements
from lookalike.evaluation.candidates import (
    DEFAULTS,
    Candidate,
    CandidateRunner,
    ChooseOptions,
    candidate_names,
)
from lookalike.sources import Item, ItemSource, Source, open_source
from lookalike.sources.sampling import SampledImage, read_sample
from lookalike.types import Failure, ProgressCallback, ignore_progress

OWN = "own"
IMAGES = 3_000
"""Maximum number of images, unless more are labeled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The result of :func:`choose`.

    ``candidates`` are ordered by quality, or as they were run without labels. ``items`` are the
    images of the sample. ``not_tried`` holds the reason by name of the encoder.
    """

    source: str
    candidates: tuple[Candidate, ...]
    judgements: Judgements | None
    items: tuple[Item, ...] = field(repr=False)
    skipped: tuple[Failure, ...]
    not_tried: Mapping[str, str]
    seconds: float

    def select(self, *, cheapest: bool = False) -> Candidate:
        """Return the best candidate, or the fastest one tied with it.

        Raises:
            InputError: there are no labels.
        """
        for candidate in self.candidates:
            if candidate.cheapest if cheapest else candidate.best:
                return candidate
        raise InputError(UNRANKED)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike choose --json``."""
        ranked = self.judgements is not None
        return {
            "source": self.source,
            "images": len(self.items),
            "skipped": len(self.skipped),
            "judgements": self.judgements.summary if self.judgements else None,
            "measure": self.judgements.measure if self.judgements else None,
            "best": self.select().name if ranked else None,
            "cheapest": self.select(cheapest=True).name if ranked else None,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "not_tried": dict(self.not_tried),
            "seconds": self.seconds,
            "verdict": verdict(self),
        }


UNRANKED = (
    "without labels, quality is unknown: speed, size and robustness do not rank encoders; "
    "lookalike choose SOURCE --ask 50 -o FOLDER writes 50 images to label"
)


def choose(
    source: str | Path | Source,
    *,
    labels: str | Path | Judgements | None = None,
    options: ChooseOptions = DEFAULTS,
    on_progress: ProgressCallback = ignore_progress,
) -> Choice:
    """Run encoders on images and rank them by labels or judgements of pairs.

    Args:
        source: a source for :func:`lookalike.open_source`, or an opened one.
        labels: a CSV file (see :func:`lookalike.evaluation.agreement.read_judgements`), judgements
            in memory, or ``"own"`` for the source's labels. The source's labels are not used by
            default, since names of sub-folders need not mean similarity.
        options: time limit, encoders, training, seed.
        on_progress: called for each encoder.

    Raises:
        InputError: labels that cannot be used or are too few, or fewer than two images.
        SettingError: ``minutes`` not above 0.
        UnknownNameError: no such encoder or augmentation preset.
        SourceError: no images.
    """
    if not options.minutes > 0:
        raise SettingError("{minutes} must be above 0", minutes=options.minutes)
    names = candidate_names() if options.encoders is None else options.encoders
    for name in names:
        find_encoder_spec(name)
    start = time.monotonic()
    opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
    judgements = _judgements(opened, labels)
    sample, skipped = _sample(opened, judgements, options.seed)
    ids = [each.item.id for each in sample]
    if judgements is not None:
        judgements = judgements.restrict(frozenset(ids))
        judgements.check(str(labels) if isinstance(labels, str | Path) else "labels")
    runner = CandidateRunner(sample, options, start + 60 * options.minutes, on_progress)
    candidates = tuple(runner.run(names))
    if not candidates:
        raise InputError(f"{opened.spec}: no encoder could be run: {runner.reasons()}")
    if judgements is None:
        candidates = tuple(runner.with_robustness(candidates))
    else:
        candidates = rank_candidates(candidates, judgements, ids)
    return Choice(
        source=opened.spec,
        candidates=candidates,
        judgements=judgements,
        items=tuple(each.item for each in sample),
        skipped=tuple(skipped),
        not_tried=runner.not_tried,
        seconds=time.monotonic() - start,
    )


def rank_candidates(
    candidates: Sequence[Candidate], judgements: Judgements, ids: Sequence[str]
) -> tuple[Candidate, ...]:
    """Return candidates with their quality, best first; ``ids`` name the rows of embeddings.

    The cheapest is the fastest to encode among those tied with the best.
    """
    place = {row_id: row for row, row_id in enumerate(ids)}
    rows = [place[row_id] for row_id in judgements.ids]
    quality = judgements.compare({c.name: c.embeddings[rows] for c in candidates})
    order = sorted(candidates, key=lambda c: (-quality[c.name].estimate.value, -c.rate))
    fastest = max((c for c in order if quality[c.name].tied), key=lambda c: c.rate)
    return tuple(
        replace(c, quality=quality[c.name], best=c is order[0], cheapest=c is fastest)
        for c in order
    )


def verdict(choice: Choice) -> str:
    """Name the best encoder and those tied with it, in one sentence."""
    if choice.judgements is None:
        return UNRANKED
    best, cheapest = choice.select(), choice.select(cheapest=True)
    assert best.quality is not None
    text = (
        f"{best.name} is best on {choice.judgements.summary}: "
        f"{choice.judgements.measure} {best.quality.estimate.value:.3f}"
    )
    if len(choice.candidates) == 1:
        return f"{text}; no other encoder was run"
    tied = [c.name for c in choice.candidates if not c.best and c.quality and c.quality.tied]
    if not tied:
        return f"{text}; all others are significantly worse"
    faster = f", and {cheapest.name} is the fastest of these" if cheapest is not best else ""
    return f"{text}; not significantly better than {', '.join(tied)}{faster}; label more images"


def _judgements(source: Source, labels: str | Path | Judgements | None) -> Judgements | None:
    if labels is None or not isinstance(labels, str | Path):
        return labels
    if labels == OWN:
        source_labels = {
            i.id: str(i.metadata["label"]) for i in source if i.metadata.get("label") is not None
        }
        if not source_labels:
            raise InputError(
                f"{source.spec}: has no labels; give a CSV file as {{labels}}", labels=None
            )
        judgements = LabelJudgements(_subsample(source_labels))
        judgements.check(f"{source.spec}, its own labels")
        return judgements
    return read_judgements(Path(labels), [item.id for item in source])


def _subsample(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return at most :data:`IMAGES` of the labels."""
    if len(labels) <= IMAGES:
        return labels
    drawn = np.random.default_rng(0).permutation(len(labels))[:IMAGES]
    pairs = list(labels.items())
    return dict(pairs[i] for i in sorted(drawn.tolist()))


def _sample(
    source: Source, judgements: Judgements | None, seed: int
) -> tuple[list[SampledImage], list[Failure]]:
    """Read the labeled images and others drawn at random, in the order of the source."""
    ids = frozenset(judgements.ids if judgements else ())
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    labeled = [i for i, item in enumerate(source) if item.id in ids]
    labeled_set = frozenset(labeled)
    others = [i for i in order if i not in labeled_set][: max(0, IMAGES - len(labeled))]
    items = [source[i] for i in sorted((*labeled, *others))]
    sample = read_sample(ItemSource(source.name, source.spec, items), len(items))
    if len(sample) < 2:
        raise InputError(f"{source.spec}: at least 2 images needed; only 1 can be read")
    readable = frozenset(each.item.id for each in sample)
    skipped = [Failure(item.uri, "cannot be read") for item in items if item.id not in readable]
    return sample, skipped
