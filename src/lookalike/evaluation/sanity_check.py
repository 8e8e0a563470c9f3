"""Sanity check of a trained encoder: embedding spectrum, robustness, comparison with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.errors import InputError
from lookalike.evaluation.baselines import baseline_notes, run_baselines
from lookalike.evaluation.metrics import Estimate
from lookalike.evaluation.robustness import MEANING, evaluate_encoder_robustness
from lookalike.sources import Source
from lookalike.sources.sampling import SampledImage, read_sample
from lookalike.stores.exact import ExactIndex
from lookalike.types import (
    Embeddings,
    ImageArray,
    Metric,
    ProgressCallback,
    ignore_progress,
)
from lookalike.vectors import has_direction

SAMPLE = 3_000
"""Maximum number of unlabeled images, spread evenly over the source."""

MIN_LABELED = 30
_ROBUSTNESS_QUERIES = 100
_MAX_SHOWN = 10


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineComparison:
    """Leave-one-out precision@k of an encoder and every baseline over the labeled images.

    ``differences`` are the encoder's precision less each baseline's, paired by query; ``left_out``
    has the reason of each baseline that could not be run.
    """

    k: int
    queries: int
    labels: int
    precision: Estimate
    baselines: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str | None:
        """Name of the best baseline; None if none could be run."""
        return max(self.baselines, key=lambda name: self.baselines[name].value, default=None)

    def verdict(self) -> str:
        """Compare the encoder with the best baseline, in one sentence."""
        best = self.best
        if best is None:
            return "not compared: no baseline could be run"
        difference = self.differences[best]
        low, high = difference.interval.low, difference.interval.high
        interval = f"{difference.value:+.4f} [{low:+.4f}, {high:+.4f}]"
        if low > 0:
            return f"better than the best baseline, {best}, by {interval}"
        if high < 0:
            return f"worse than the best baseline, {best}, by {interval}; use {best} instead"
        return (
            f"not significantly different from the best baseline, {best}: {interval}; "
            f"use {best}, which needs no training"
        )


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """The result of :func:`sanity_check`.

    ``robustness`` is mAP@7 by corruption; ``comparison`` is None without enough labels.
    """

    images: int
    spectrum: Spectrum
    robustness: Mapping[str, float]
    comparison: BaselineComparison | None

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
            lines.append(
                "search quality: unknown without labels; to compare encoders with a few labels, "
                "see lookalike choose --help"
            )
            return lines
        c = self.comparison
        interval = c.precision.interval
        baselines = ", ".join(f"{name} {score.value:.4f}" for name, score in c.baselines.items())
        lines.append(
            f"search quality: precision@{c.k} {c.precision.value:.4f} "
            f"[{interval.low:.4f}, {interval.high:.4f}] on {c.queries:,} labeled images; "
            f"baselines: {baselines}"
        )
        lines += baseline_notes(c.left_out)
        lines.append(f"verdict: {c.verdict()}")
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
                "k": c.k,
                "queries": c.queries,
                "labels": c.labels,
                "precision": _as_json(c.precision),
                "baselines": {name: _as_json(score) for name, score in c.baselines.items()},
                "differences": {name: _as_json(score) for name, score in c.differences.items()},
                "left_out": dict(c.left_out),
                "best_baseline": c.best,
                "verdict": c.verdict(),
            }
        return fields


def sanity_check(
    encoder: Encoder,
    source: Source,
    *,
    labels: Mapping[str, str] | None = None,
    k: int = 7,
    on_progress: ProgressCallback = ignore_progress,
) -> SanityCheck:
    """Check a trained encoder: spectrum, robustness and, with labels, precision beside baselines.

    Args:
        encoder: the trained encoder.
        source: the images it was trained on.
        labels: by id; by default, those of the source. An empty mapping means none. Labeled images
            are used in addition to the sample.
        k: hits per query.
        on_progress: called for each baseline.

    Raises:
        SourceError: no image can be read.
    """
    sample = read_sample(source, SAMPLE, frozenset(labels or ()))
    images = [each.image for each in sample]
    embeddings = encoder.encode_batch(images)
    return SanityCheck(
        images=len(sample),
        spectrum=Spectrum.of(embeddings),
        robustness=_robustness(encoder, images),
        comparison=_compare(encoder, sample, labels, k, on_progress),
    )


def _robustness(encoder: Encoder, images: Sequence[ImageArray]) -> dict[str, float]:
    try:
        result = evaluate_encoder_robustness(encoder, images, queries=_ROBUSTNESS_QUERIES)
    except InputError:  # fewer than two distinct images
        return {}
    return {name: scores.map.value for name, scores in result.scores.items()}


def _compare(
    encoder: Encoder,
    sample: Sequence[SampledImage],
    labels: Mapping[str, str] | None,
    k: int,
    on_progress: ProgressCallback,
) -> BaselineComparison | None:
    """Compare with every baseline on the labeled part of a sample; None with too few labels."""
    label_of = {
        each.item.id: str(label) for each in sample if (label := _label(each, labels)) is not None
    }
    labeled = [each for each in sample if each.item.id in label_of]
    names = np.array([label_of[each.item.id] for each in labeled])
    if len(labeled) < MIN_LABELED or len(set(names)) < 2:
        return None
    images = [each.image for each in labeled]
    precisions = _precisions(encoder.encode_batch(images), names, k)
    compared = run_baselines(
        [each.image for each in sample],
        lambda baseline: _precisions(baseline.encode_batch(images), names, k),
        on_progress,
    )
    scores = compared.results
    return BaselineComparison(
        k=k,
        queries=len(labeled),
        labels=len(set(names)),
        precision=Estimate.of(precisions),
        baselines={name: Estimate.of(each) for name, each in scores.items()},
        differences={name: Estimate.of(precisions - each) for name, each in scores.items()},
        left_out=compared.left_out,
    )


def _label(sampled: SampledImage, labels: Mapping[str, str] | None) -> object:
    item = sampled.item
    return item.metadata.get("label") if labels is None else labels.get(item.id)


def _precisions(embeddings: Embeddings, labels: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return leave-one-out precision@k of each row, ``(rows,)``; 0 for an embedding of zeros.

    All others are at the same distance from such a row: their order says nothing.
    """
    others = ExactIndex(embeddings).others(0, len(embeddings), k, Metric.COSINE).rows
    precisions = (labels[others] == labels[:, None]).mean(axis=1)
    return np.where(has_direction(embeddings), precisions, 0)


def _as_json(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval.as_list()}
