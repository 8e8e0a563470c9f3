"""Candidate encoders for model selection: fitted to a sample of images, timed, checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lookalike.arguments import as_texts, check_fields
from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import encoder_specs, open_encoder
from lookalike.encoders.short_names import PHOTOGRAPHS
from lookalike.errors import MissingDependencyError, SettingError, UnknownNameError
from lookalike.evaluation.agreement import Quality
from lookalike.evaluation.baselines import UNUSABLE
from lookalike.evaluation.metrics import table_row
from lookalike.evaluation.robustness import evaluate_encoder_robustness
from lookalike.sources import ItemSource
from lookalike.sources.sampling import SampledImage
from lookalike.training.options import TrainingOptions
from lookalike.training.train import check_installed, train
from lookalike.types import Embeddings, Progress, ProgressCallback

CANDIDATES = ("pixels", "color-pyramid", "texture-pyramid", "hog", "hog-fine", "hog-fine+color")
"""The default candidates, roughly by cost; encoders of other packages follow."""

EXCLUDED = frozenset(("pca", "color", "texture", "untrained"))
"""Registered encoders that are tried only if named: those above are better, and PCA takes minutes
to fit to color images."""

TRAINED = "contrastive"

CORRUPTIONS = ("noise", "jpeg")
"""Corruptions that training never uses as augmentations, so they favor no trained encoder."""

_TRAINING_SHARE = 0.6
_MIN_TRAINING_S = 10.0
_TIMED = 64
_ROBUSTNESS_IMAGES = 500
_ROBUSTNESS_QUERIES = 100
_ROBUST_RECALL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseOptions:
    """Options of :func:`lookalike.choose`.

    ``minutes`` limits the whole run. ``encoders`` are names for :func:`open_encoder`, by default
    :func:`candidate_names`. ``train`` adds an encoder trained on the images with the augmentation
    preset ``augment``.

    Raises:
        SettingError: ``encoders`` are no list of texts.
    """

    minutes: float = 5.0
    encoders: tuple[str, ...] | None = None
    train: bool = True
    augment: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.encoders is not None:
            object.__setattr__(self, "encoders", as_texts("encoders", self.encoders))


DEFAULTS = ChooseOptions()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoder with its embeddings of the sample.

    ``rate`` is in images per second, with resizing and without decoding. ``quality`` is None
    without labels; then ``robustness`` is R@1 by corruption.
    """

    name: str
    encoder: Encoder = field(repr=False)
    embeddings: Embeddings = field(repr=False)
    rate: float
    quality: Quality | None = None
    robustness: Mapping[str, float] = field(default_factory=dict)
    best: bool = False
    cheapest: bool = False

    @property
    def bytes_per_image(self) -> int:
        """Size of an embedding in a gallery."""
        return 4 * self.encoder.dim

    @property
    def robust(self) -> bool:
        """Whether R@1 is at least 0.9 under every corruption."""
        return all(recall >= _ROBUST_RECALL for recall in self.robustness.values())

    def as_row(self) -> dict[str, Any]:
        """Return the fields as columns of a table."""
        row: dict[str, Any] = {
            "encoder": self.name,
            "images_per_second": self.rate,
            "dim": self.encoder.dim,
        }
        if self.quality is None:
            return row | dict(self.robustness) | {"robust": self.robust}
        difference = self.quality.difference
        row |= table_row({"quality": self.quality.estimate})
        row |= {"difference_low": difference.low, "difference_high": difference.high}
        return row | {
            "tied": self.quality.tied,
            "best": self.best,
            "cheapest": self.cheapest,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields: dict[str, Any] = {
            "name": self.name,
            "images_per_second": self.rate,
            "dim": self.encoder.dim,
            "bytes_per_image": self.bytes_per_image,
        }
        if self.quality is None:
            return {**fields, "robustness": dict(self.robustness), "robust": self.robust}
        estimate, difference = self.quality.estimate, self.quality.difference
        return {
            **fields,
            "quality": estimate.value,
            "quality_interval": estimate.interval.as_list(),
            "difference_interval": difference.as_list(),
            "tied": self.quality.tied,
            "best": self.best,
            "cheapest": self.cheapest,
        }


def candidate_names() -> tuple[str, ...]:
    """Return :data:`CANDIDATES`, networks whose weights are here, and encoders of other packages.

    ``efficientnet-lite0`` is always among them; other networks are not fetched to be tried.
    """
    added = (
        spec.name
        for spec in encoder_specs().values()
        if spec.name == PHOTOGRAPHS or spec.download is None or spec.weight_files()
    )
    return (*CANDIDATES, *(name for name in added if name not in {*EXCLUDED, *CANDIDATES}))


class CandidateRunner:
    """Fits encoders to the same images and runs them, within a time limit.

    ``not_tried`` holds the reason for each encoder that could not be run, by name.
    """

    def __init__(
        self,
        sample: Sequence[SampledImage],
        options: ChooseOptions,
        deadline: float,
        on_progress: ProgressCallback,
    ) -> None:
        self.sample = sample
        self.images = [each.image for each in sample]
        self.options = options
        self.deadline = deadline
        self.on_progress = on_progress
        self.not_tried: dict[str, str] = {}

    def run(self, names: Sequence[str]) -> Iterator[Candidate]:
        """Yield the candidates that could be run; the trained one last."""
        total = len(names) + self.options.train
        for done, name in enumerate(names):
            self.on_progress(Progress("try encoders", done, total, "encoders", name))
            yield from self._candidate(name, partial(open_encoder, name, self.images))
        if self.options.train:
            self.on_progress(Progress("try encoders", total - 1, total, "encoders", TRAINED))
            yield from self._candidate(TRAINED, self._trained)
        self.on_progress(Progress("try encoders", total, total, "encoders"))

    def with_robustness(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Yield candidates with their R@1 under each of :data:`CORRUPTIONS`."""
        for candidate in candidates:
            result = evaluate_encoder_robustness(
                candidate.encoder,
                self.images[:_ROBUSTNESS_IMAGES],
                queries=_ROBUSTNESS_QUERIES,
                corruptions=CORRUPTIONS,
                embeddings=candidate.embeddings[:_ROBUSTNESS_IMAGES],
            )
            recalls = {name: scores.recall_at_1.value for name, scores in result.scores.items()}
            yield replace(candidate, robustness=recalls)

    def reasons(self) -> str:
        """Return why encoders could not be run, in one line."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.not_tried.items())

    def _candidate(self, name: str, build: Callable[[], Encoder | None]) -> Iterator[Candidate]:
        if time.monotonic() >= self.deadline:
            self.not_tried[name] = "time limit reached"
            return
        try:
            encoder = build()
        except (SettingError, UnknownNameError):
            raise
        except UNUSABLE as error:
            self.not_tried[name] = str(error)
            return
        if encoder is None:
            return
        batch = self.images[:_TIMED]
        encoder.encode_batch(batch)  # the first run of a network allocates its memory
        start = time.monotonic()
        encoder.encode_batch(batch)
        needed = (time.monotonic() - start) * len(self.images) / len(batch)
        if time.monotonic() + needed > self.deadline:
            self.not_tried[name] = f"encoding needs {needed:.0f} s, more than the time left"
            return
        start = time.monotonic()
        embeddings = encoder.encode_batch(self.images)
        seconds = max(time.monotonic() - start, 1e-9)
        yield Candidate(name, encoder, embeddings, len(self.images) / seconds)

    def _trained(self) -> Encoder | None:
        """Train on the sample within the time left, or note why not."""
        seconds = min(
            _TRAINING_SHARE * 60 * self.options.minutes,
            _TRAINING_SHARE * (self.deadline - time.monotonic()),
        )
        if seconds < _MIN_TRAINING_S:
            self.not_tried[TRAINED] = "too little time left for training"
            return None
        try:
            check_installed()
        except MissingDependencyError as error:
            self.not_tried[TRAINED] = str(error)
            return None
        items = [replace(s.item, read=partial(np.asarray, s.image)) for s in self.sample]
        return train(
            ItemSource("sample", "a sample of the images", items),
            recipe=TRAINED,
            options=TrainingOptions(
                minutes=seconds / 60, seed=self.options.seed, augment=self.options.augment
            ),
            progress=self.on_progress,
        )
