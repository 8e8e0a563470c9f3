"""Encoders made for a sample of images, timed, and tried without labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import encoder_specs, open_encoder
from lookalike.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from lookalike.evaluation.agreement import Quality
from lookalike.evaluation.robustness import evaluate_encoder_robustness
from lookalike.sources import ItemSource
from lookalike.sources.sampling import SampledImage
from lookalike.types import Embeddings, Progress, ProgressCallback

CANDIDATES = ("pixels", "color-pyramid", "texture-pyramid", "hog", "hog-fine", "hog-fine+color")
"""Tried in this order, which is about that of their cost; others' encoders come after them."""

PASSED_OVER = frozenset(("pca", "color", "texture", "untrained"))
"""In the registry but not tried unless named: their likes above are better, and PCA takes minutes
to be fitted to color images."""

TRAINED = "contrastive"

KINDS = ("noise", "jpeg")
"""Corruptions that training never uses as augmentations, so that they favor no trained encoder."""

_TRAINING_SHARE = 0.6
_LEAST_TRAINING_S = 10.0
_TIMED = 64
_SMOKE_IMAGES = 500
_SMOKE_QUERIES = 100
_FOUND = 0.9


@dataclass(frozen=True, slots=True)
class ChooseOptions:
    """What a user may set.

    ``minutes`` is the time for all of it. ``encoders`` are names for :func:`open_encoder`, the
    usual ones unless given; ``train`` adds one that is trained on the images, with the augmentation
    preset ``augment``.
    """

    minutes: float = 5.0
    encoders: tuple[str, ...] | None = None
    train: bool = True
    augment: str | None = None
    seed: int = 0


DEFAULTS = ChooseOptions()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One encoder as tried. ``rate`` is in images a second, resizing included, decoding not.

    ``robustness`` is, without labels, the share of images that find themselves first under each kind
    of distortion. ``embeddings`` are those of the images tried.
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
        """What an embedding takes in a gallery."""
        return 4 * self.encoder.dim

    @property
    def robust(self) -> bool:
        """Whether nine in ten images find themselves under every kind of distortion."""
        return all(share >= _FOUND for share in self.robustness.values())

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
            "quality_interval": [estimate.interval.low, estimate.interval.high],
            "difference_interval": [difference.low, difference.high],
            "within_noise": self.quality.within_noise,
            "best": self.best,
            "cheapest": self.cheapest,
        }


def candidate_names() -> tuple[str, ...]:
    """Return :data:`CANDIDATES`, then encoders that other packages add, pretrained ones say."""
    added = (name for name in encoder_specs() if name not in PASSED_OVER and name not in CANDIDATES)
    return (*CANDIDATES, *added)


class Trial:
    """Encoders made for and run over the same images until the time is up."""

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
        """Yield the candidates that could be tried; the trained one last."""
        total = len(names) + self.options.train
        for done, name in enumerate(names):
            self.on_progress(Progress("try encoders", done, total, "encoders", name))
            yield from self._try(name, partial(open_encoder, name, self.images))
        if self.options.train:
            self.on_progress(Progress("try encoders", total - 1, total, "encoders", TRAINED))
            yield from self._try(TRAINED, self._trained)
        self.on_progress(Progress("try encoders", total, total, "encoders"))

    def robustness(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Yield candidates with the share of images that find themselves again."""
        for candidate in candidates:
            found = evaluate_encoder_robustness(
                candidate.encoder, self.images[:_SMOKE_IMAGES], queries=_SMOKE_QUERIES, kinds=KINDS
            )
            shares = {name: scores.recall_at_1.value for name, scores in found.scores.items()}
            yield replace(candidate, robustness=shares)

    def why_not(self) -> str:
        """Say what kept each encoder from being tried."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.not_tried.items())

    def _try(self, name: str, make: Callable[[], Encoder | None]) -> Iterator[Candidate]:
        if time.monotonic() >= self.deadline:
            self.not_tried[name] = "the time was up; give more --minutes"
            return
        try:
            encoder = make()
        except (SettingError, UnknownNameError):
            raise
        except (InputError, ArtifactError, MissingDependencyError) as error:
            self.not_tried[name] = str(error)
            return
        if encoder is None:
            return
        some = self.images[:_TIMED]
        encoder.encode(some)  # the first run of a network sets up its memory
        start = time.monotonic()
        encoder.encode(some)
        needed = (time.monotonic() - start) * len(self.images) / len(some)
        if time.monotonic() + needed > self.deadline:
            self.not_tried[name] = f"encoding needs {needed:.0f} s; give more --minutes"
            return
        start = time.monotonic()
        embeddings = encoder.encode(self.images)
        seconds = max(time.monotonic() - start, 1e-9)
        yield Candidate(name, encoder, embeddings, len(self.images) / seconds)

    def _trained(self) -> Encoder | None:
        """Train on the sample with what time is left, or note why not."""
        seconds = min(
            _TRAINING_SHARE * 60 * self.options.minutes,
            _TRAINING_SHARE * (self.deadline - time.monotonic()),
        )
        if seconds < _LEAST_TRAINING_S:
            self.not_tried[TRAINED] = "too little time was left to train; give more --minutes"
            return None
        try:
            from lookalike.training.loop import TrainingOptions
            from lookalike.training.train import train
        except ModuleNotFoundError as error:
            package = error.name or "torch"
            self.not_tried[TRAINED] = f"needs {package!r}: pip install 'lookalike[train]'"
            return None
        items = [replace(s.item, read=partial(np.asarray, s.image)) for s in self.sample]
        return train(
            ItemSource("sample", "a sample of the images", items),
            recipe=TRAINED,
            augment=self.options.augment,
            options=TrainingOptions(minutes=seconds / 60, seed=self.options.seed),
            on_progress=self.on_progress,
        )
