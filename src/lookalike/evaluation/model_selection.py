"""Model selection: compare encoders on a user's images by a few labels or judgements of pairs.

Without labels nothing is ranked: no unsupervised measure was found to order encoders by quality
(``docs/experiments.md``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.arguments import checked
from lookalike.encoders.registry import find_encoder_spec
from lookalike.errors import InputError, SettingError
from lookalike.evaluation.agreement import (
    Judgements,
    LabelJudgements,
    PairJudgements,
    read_judgements,
)
from lookalike.evaluation.candidates import (
    DEFAULTS,
    Candidate,
    CandidateRunner,
    ChooseOptions,
    candidate_names,
)
from lookalike.evaluation.metrics import columns_of
from lookalike.formatting import format_count
from lookalike.gallery.notebook import scores_html
from lookalike.progress import ProgressOption, reporting
from lookalike.sources import Item, ItemSource, Source
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.labels import LabelSet, LabelSource, labels_of_items
from lookalike.sources.sampling import SampledImage, read_sample
from lookalike.sources.tables import data_frame
from lookalike.types import Failure

if TYPE_CHECKING:
    import pandas as pd

OWN = "own"
IMAGES = 3_000
"""Maximum number of images, unless more are labeled."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Choice:
    """The result of :func:`choose`; in a notebook, a table of the candidates.

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

    def verdict(self) -> str:
        """Name the best encoder and those tied with it, in one sentence."""
        if self.judgements is None:
            return UNRANKED
        best, cheapest = self.select(), self.select(cheapest=True)
        assert best.quality is not None
        text = (
            f"{best.name} is best on {self.judgements.summary}: "
            f"{self.judgements.measure} {best.quality.estimate.value:.3f}"
        )
        if len(self.candidates) == 1:
            return f"{text}; no other encoder was run"
        tied = [c.name for c in self.candidates if not c.best and c.quality and c.quality.tied]
        if not tied:
            return f"{text}; all others are significantly worse"
        faster = f", and {cheapest.name} is the fastest of these" if cheapest is not best else ""
        return f"{text}; not significantly better than {', '.join(tied)}{faster}; label more images"

    def __repr__(self) -> str:
        candidates = format_count(len(self.candidates), "encoder")
        return (
            f"Choice({candidates} on {format_count(len(self.items), 'image')};\n  {self.verdict()})"
        )

    def _repr_html_(self) -> str:
        title = f"{format_count(len(self.items), 'image')} of {self.source}"
        if self.judgements is not None:
            title += f", {self.judgements.summary}; quality: {self.judgements.measure}"
        columns = list(dict.fromkeys(name for row in self._rows() for name in row))
        rows = [[_cell(row.get(name)) for name in columns] for row in self._rows()]
        return scores_html(title, columns, rows, self.verdict())

    def to_pandas(self) -> pd.DataFrame:
        """Return the candidates as a DataFrame, in their order.

        The columns are ``images_per_second``, ``dim`` and, with labels, ``quality``,
        ``quality_low``, ``quality_high``, ``difference_low``, ``difference_high`` to the best one,
        ``tied``, ``best`` and ``cheapest``; without, R@1 by corruption and ``robust``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return data_frame("Choice.to_pandas", columns_of(self._rows())).set_index("encoder")

    def _rows(self) -> list[dict[str, Any]]:
        return [candidate.as_row() for candidate in self.candidates]

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
            "verdict": self.verdict(),
        }


UNRANKED = (
    "without labels, quality is unknown: speed, size and robustness do not rank encoders; "
    "lookalike choose SOURCE --ask 50 -o FOLDER writes 50 images to label"
)


@checked
def choose(
    source: SourceLike,
    *,
    labels: LabelSource | Judgements | None = None,
    options: ChooseOptions = DEFAULTS,
    progress: ProgressOption = True,
) -> Choice:
    """Run encoders on images and rank them by labels or judgements of pairs.

    Args:
        source: what :func:`lookalike.open_source` takes, an opened source, or images.
        labels: what :func:`~lookalike.sources.labels.read_labels` takes (a label file, a mapping,
            a DataFrame), a file of pairs (``id_a,id_b,similar``), or ``"own"`` for the source's
            labels. The source's labels are not used by default, since names of sub-folders need
            not mean similarity.
        options: time limit, encoders, training, seed.
        progress: True shows it on a terminal or in a notebook, False does not; or a callback.

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
    with reporting(progress) as on_progress:
        opened = as_source(source, on_progress, argument="source")
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


def _cell(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "" if value is None else str(value)


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


def _judgements(source: Source, labels: LabelSource | Judgements | None) -> Judgements | None:
    if labels is None or isinstance(labels, LabelJudgements | PairJudgements):
        return labels
    if isinstance(labels, str) and labels == OWN:
        own = labels_of_items(f"{source.spec}, its own labels", source)
        if not len(own):
            raise InputError(
                f"{source.spec}: has no labels; give a file of labels as {{labels}}", labels=None
            )
        judgements = LabelJudgements(_subsample(own))
        judgements.check(own.name)
        return judgements
    return read_judgements(labels, [item.id for item in source])


def _subsample(labels: LabelSet) -> LabelSet:
    """Return at most :data:`IMAGES` of the labels."""
    if len(labels) <= IMAGES:
        return labels
    ids = list(labels.by_id)
    return labels.restrict(ids[i] for i in np.random.default_rng(0).permutation(len(ids))[:IMAGES])


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
