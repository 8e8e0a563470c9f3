"""Sanity check of a trained encoder: embedding spectrum, robustness, comparison with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lookalike.arguments import checked
from lookalike.encoders.base import Encoder
from lookalike.errors import InputError, LookalikeError
from lookalike.evaluation.baselines import baseline_notes, fit_baselines
from lookalike.evaluation.comparison import Comparison, verdict
from lookalike.evaluation.metrics import PerQuery
from lookalike.evaluation.robustness import MEANING, evaluate_encoder_robustness
from lookalike.evaluation.single_pass import encode_images
from lookalike.evaluation.trial import leave_one_out
from lookalike.formatting import format_count
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.labels import LabelSet, LabelSource, labels_of_items, read_labels
from lookalike.sources.sampling import read_sample
from lookalike.types import Embeddings, ImageArray

SAMPLE = 3_000
"""Maximum number of unlabeled images, spread evenly over the source."""

MIN_LABELED = 30
DEFAULT_K = 7
_ROBUSTNESS_QUERIES = 100
_MAX_SHOWN = 10
_UNKNOWN = (
    "search quality: unknown without labels; to compare encoders with a few labels, see lookalike "
    "choose --help"
)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The distribution of embeddings' variance over dimensions.

    ``effective`` is the effective rank: the exponential of the entropy of the principal components'
    shares of the variance (RankMe, Garrido et al. 2023, with variances for singular values), from
    1 to ``dim``; 0 if all embeddings are the same. ``collapsed`` are the dimensions whose standard
    deviation is at most a hundredth of the median one.
    """

    dim: int
    effective: float
    collapsed: tuple[int, ...]

    @classmethod
    def of(cls, embeddings: Embeddings) -> Spectrum:
        """Compute the spectrum of embeddings ``(n, dim)``."""
        values = embeddings.astype(np.float64)
        spread = values.std(axis=0)
        median = float(np.median(spread)) or float(spread.max())
        collapsed = np.flatnonzero(spread <= median / 100)
        variances = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
        shares = variances[variances > 0] / max(variances.sum(), np.finfo(float).tiny)
        effective = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
        return cls(values.shape[1], effective, tuple(int(i) for i in collapsed))


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """The result of :func:`sanity_check`.

    ``robustness`` is mAP@7 by corruption. ``comparison`` is leave-one-out precision@k over
    ``queries`` labeled images of ``labels`` labels, beside the baselines; None without enough
    labels.
    """

    images: int
    spectrum: Spectrum
    robustness: Mapping[str, float]
    comparison: Comparison | None
    k: int = DEFAULT_K
    queries: int = 0
    labels: int = 0

    def __repr__(self) -> str:
        images = format_count(self.images, "image")
        return f"SanityCheck({images}: {self.sentences()[-1]})"

    def verdict(self) -> str:
        """Compare the encoder with the best baseline, in one sentence, with what follows."""
        c = self.comparison
        if c is None or c.best is None or not c.differences[c.best].interval.is_defined:
            return _UNKNOWN if c is None else verdict(c)
        side = c.differences[c.best].interval.side
        advice = {
            1: "",
            0: f"; use {c.best}, which needs no training",
            -1: f"; use {c.best} instead",
        }
        return verdict(c) + advice[side]

    def sentences(self) -> list[str]:
        """Return the result in one line each."""
        s = self.spectrum
        lines = [f"effective rank: {s.effective:.0f} of {s.dim} dimensions"]
        if s.collapsed:
            shown = ", ".join(map(str, s.collapsed[:_MAX_SHOWN]))
            more = ", ..." if len(s.collapsed) > _MAX_SHOWN else ""
            lines[0] += f"; {len(s.collapsed)} collapsed: {shown}{more}"
        if self.robustness:
            scores = ", ".join(f"{name} {value:.2f}" for name, value in self.robustness.items())
            lines.append(f"robustness ({MEANING}), mAP@7: {scores}")
        if self.comparison is None:
            return [*lines, _UNKNOWN]
        c = self.comparison
        baselines = ", ".join(f"{name} {score.value:.4f}" for name, score in c.baselines.items())
        lines.append(
            f"search quality: {c.measure} {c.score} on {self.queries:,} labeled images; "
            f"baselines: {baselines}"
        )
        lines += baseline_notes(c.left_out)
        lines.append(f"verdict: {self.verdict()}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        fields: dict[str, Any] = {
            "images": self.images,
            "dim": self.spectrum.dim,
            "effective_rank": self.spectrum.effective,
            "collapsed": list(self.spectrum.collapsed),
            "robustness": dict(self.robustness),
            "comparison": None,
        }
        if self.comparison is not None:
            c = self.comparison
            fields["comparison"] = {
                "k": self.k,
                "queries": self.queries,
                "labels": self.labels,
                "precision": c.score.as_dict(),
                "baselines": {name: score.as_dict() for name, score in c.baselines.items()},
                "differences": {name: each.as_dict() for name, each in c.differences.items()},
                "left_out": dict(c.left_out),
                "best_baseline": c.best,
                "verdict": self.verdict(),
            }
        return fields


@checked
def sanity_check(
    encoder: Encoder,
    source: SourceLike,
    *,
    labels: LabelSource | None = None,
    k: int = DEFAULT_K,
    progress: ProgressOption = True,
) -> SanityCheck:
    """Check a trained encoder: spectrum, robustness and, with labels, precision beside baselines.

    Each image is decoded once. Images whose label no other one has are searched, but no queries.

    Args:
        encoder: the trained encoder.
        source: the images it was trained on.
        labels: what :func:`~lookalike.sources.labels.read_labels` takes; by default, those of the
            source. An empty mapping means none. Labeled images are used in addition to the sample.
        k: hits per query.
        progress: True shows it on a terminal or in a notebook, False does not; or a callback.

    Raises:
        SourceError: no image can be read.
        InputError: the labels cannot be read, or have an unknown id.
    """
    if not isinstance(encoder, Encoder):
        kind = type(encoder).__name__
        raise InputError(f"{{encoder}} must be an Encoder, not {kind}", encoder=None)
    opened = as_source(source, argument="source")
    label_set = None if labels is None else read_labels(labels, [item.id for item in opened])
    sample = read_sample(opened, SAMPLE, frozenset(() if label_set is None else label_set.by_id))
    if label_set is None:
        label_set = labels_of_items(opened.spec, (each.item for each in sample))
    images = [each.image for each in sample]
    ids = [each.item.id for each in sample]
    with reporting(progress) as on_progress:
        embeddings = encoder.encode_batch(images)
        result = SanityCheck(
            images=len(sample),
            spectrum=Spectrum.of(embeddings),
            robustness=_robustness(encoder, images, embeddings),
            comparison=None,
            k=k,
        )
        places = [place for place, row_id in enumerate(ids) if row_id in label_set.by_id]
        labels_of_sample = LabelSet(
            label_set.name, {ids[i]: label_set.by_id[ids[i]] for i in places}
        )
        if len(places) < MIN_LABELED or len(labels_of_sample.counts) < 2:
            return result
        trial = leave_one_out(embeddings[places], labels_of_sample, k=k)
        fitted, left_out = fit_baselines(images, on_progress)
        labeled = [images[place] for place in places]
        baselines: dict[str, PerQuery] = {}
        for name, rows in encode_images(labeled, fitted).items():
            if isinstance(rows, LookalikeError):
                left_out[name] = str(rows)
            else:
                baselines[name] = leave_one_out(rows, labels_of_sample, k=k).scores.precision
    return replace(
        result,
        comparison=Comparison.of(
            f"precision@{k}", encoder.name, trial.scores.precision, baselines, left_out
        ),
        queries=len(trial.relevant),
        labels=len(labels_of_sample.counts),
    )


def _robustness(
    encoder: Encoder, images: Sequence[ImageArray], embeddings: Embeddings
) -> dict[str, float]:
    try:
        result = evaluate_encoder_robustness(
            encoder, images, queries=_ROBUSTNESS_QUERIES, embeddings=embeddings
        )
    except InputError:  # fewer than two distinct images
        return {}
    return {name: scores.map.value for name, scores in result.scores.items()}
