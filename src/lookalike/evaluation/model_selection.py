"""Encoders tried on a user's images and, where there are labels or judgements, ranked by them.

Without labels nothing is ranked: no measure that does without them was found to put encoders in
the order of their quality (``docs/experiments.md``).
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
from lookalike.evaluation.agreement import Judgements, Labels, read_judgements
from lookalike.evaluation.candidates import (
    DEFAULTS,
    Candidate,
    ChooseOptions,
    Trial,
    candidate_names,
)
from lookalike.sources import Item, ItemSource, Source, open_source
from lookalike.sources.sampling import SampledImage, read_sample
from lookalike.types import Failure, ProgressCallback, ignore_progress

OWN = "own"
IMAGES = 3_000
"""As many images are tried at most, unless more are judged."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What :func:`choose` found: by quality where there were judgements, else in registry order.

    ``items`` are the images tried; ``not_tried`` says why, by name of the encoder.
    """

    source: str
    candidates: tuple[Candidate, ...]
    judgements: Judgements | None
    items: tuple[Item, ...] = field(repr=False)
    skipped: tuple[Failure, ...]
    not_tried: Mapping[str, str]
    seconds: float

    def chosen(self, *, cheapest: bool = False) -> Candidate:
        """Return the best, or the cheapest within the noise.

        Raises:
            InputError: there were no labels.
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
            "best": self.chosen().name if ranked else None,
            "cheapest": self.chosen(cheapest=True).name if ranked else None,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "not_tried": dict(self.not_tried),
            "seconds": self.seconds,
            "verdict": verdict(self),
        }


UNRANKED = (
    "quality cannot be ranked without labels: speed, size and finding itself again do not say "
    "which encoder answers best; lookalike choose SOURCE --ask 50 -o FOLDER writes 50 images to "
    "name, then give the file with --labels"
)


def choose(
    source: str | Path | Source,
    *,
    labels: str | Path | Judgements | None = None,
    options: ChooseOptions = DEFAULTS,
    on_progress: ProgressCallback = ignore_progress,
) -> Choice:
    """Try encoders on images, and rank them by what labels or judgements there are.

    Args:
        source: what :func:`lookalike.open_source` takes, or an opened source.
        labels: a CSV file (see :func:`lookalike.evaluation.agreement.read_judgements`), judgements
            at hand, or ``"own"`` for the source's own labels. Those are not used otherwise, since
            names of sub-folders need not say what is alike.
        options: time, encoders, training, seed.
        on_progress: told of each encoder.

    Raises:
        InputError: labels that cannot be used or are too few, or fewer than two images.
        SettingError: ``minutes`` not above 0.
        UnknownNameError: no such encoder or augmentation preset.
        SourceError: no images.
    """
    if not options.minutes > 0:
        raise SettingError(f"--minutes {options.minutes:g}: must be above 0")
    names = candidate_names() if options.encoders is None else options.encoders
    for name in names:
        find_encoder_spec(name)
    start = time.monotonic()
    opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
    judgements = _judgements(opened, labels)
    sample, skipped = _sample(opened, judgements, options.seed)
    if judgements is not None:
        judgements = judgements.among(frozenset(each.item.id for each in sample))
        judgements.check(str(labels) if isinstance(labels, str | Path) else "labels")
    trial = Trial(sample, options, start + 60 * options.minutes, on_progress)
    candidates = tuple(trial.run(names))
    if not candidates:
        raise InputError(f"{opened.spec}: no encoder could be tried: {trial.why_not()}")
    if judgements is None:
        candidates = tuple(trial.robustness(candidates))
    else:
        candidates = ranked(candidates, judgements, [each.item.id for each in sample])
    return Choice(
        opened.spec,
        candidates,
        judgements,
        tuple(each.item for each in sample),
        tuple(skipped),
        trial.not_tried,
        time.monotonic() - start,
    )


def ranked(
    candidates: Sequence[Candidate], judgements: Judgements, ids: Sequence[str]
) -> tuple[Candidate, ...]:
    """Return candidates with their quality, best first; ``ids`` name the rows of embeddings.

    The cheapest is the fastest to encode of those whose difference to the best may be none.
    """
    place = {row_id: row for row, row_id in enumerate(ids)}
    rows = [place[row_id] for row_id in judgements.ids]
    found = judgements.compare({c.name: c.embeddings[rows] for c in candidates})
    order = sorted(candidates, key=lambda c: (-found[c.name].estimate.value, -c.rate))
    within = [c for c in order if found[c.name].within_noise]
    fastest = max(within, key=lambda c: c.rate)
    return tuple(
        replace(c, quality=found[c.name], best=c is order[0], cheapest=c is fastest) for c in order
    )


def verdict(found: Choice) -> str:
    """Say in plain words which encoder is chosen, why, and how sure that is."""
    if found.judgements is None:
        return UNRANKED
    best, cheapest = found.chosen(), found.chosen(cheapest=True)
    assert best.quality is not None
    said = (
        f"{best.name} is best on {found.judgements.summary}: "
        f"{found.judgements.measure} {best.quality.estimate.value:.3f}"
    )
    others = [
        c.name for c in found.candidates if not c.best and c.quality and c.quality.within_noise
    ]
    if not others:
        return f"{said}; every other encoder is worse beyond the noise"
    faster = f"; {cheapest.name} is the fastest of these" if cheapest is not best else ""
    return (
        f"{said}; but {', '.join(others)} cannot be told apart from it{faster}: "
        "more labels would (--ask)"
    )


def _judgements(source: Source, labels: str | Path | Judgements | None) -> Judgements | None:
    if labels is None or not isinstance(labels, str | Path):
        return labels
    if labels == OWN:
        own = {
            i.id: str(i.metadata["label"]) for i in source if i.metadata.get("label") is not None
        }
        if not own:
            raise InputError(f"{source.spec}: has no labels of its own; give a file with --labels")
        found = Labels(_drawn(own))
        found.check(f"{source.spec}, its own labels")
        return found
    return read_judgements(Path(labels), [item.id for item in source])


def _drawn(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return at most as many labels as images are tried."""
    if len(labels) <= IMAGES:
        return labels
    kept = np.random.default_rng(0).permutation(len(labels))[:IMAGES]
    pairs = list(labels.items())
    return dict(pairs[i] for i in sorted(kept.tolist()))


def _sample(
    source: Source, judgements: Judgements | None, seed: int
) -> tuple[list[SampledImage], list[Failure]]:
    """Read the judged images and others drawn at random, in the order of the source."""
    judged = frozenset(judgements.ids if judgements else ())
    drawn = np.random.default_rng(seed).permutation(len(source)).tolist()
    first = [i for i, item in enumerate(source) if item.id in judged]
    taken = frozenset(first)
    others = [i for i in drawn if i not in taken][: max(0, IMAGES - len(first))]
    items = [source[i] for i in sorted((*first, *others))]
    sample = read_sample(ItemSource(source.name, source.spec, items), len(items))
    if len(sample) < 2:
        raise InputError(f"{source.spec}: at least 2 images are needed; only 1 can be read")
    read = frozenset(each.item.id for each in sample)
    skipped = [Failure(item.uri, "cannot be read") for item in items if item.id not in read]
    return sample, skipped
