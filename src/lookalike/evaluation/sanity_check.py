"""What can honestly be said of an encoder once it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import encoder_specs, open_encoder
from lookalike.errors import InputError
from lookalike.evaluation.metrics import Estimate, bootstrap_interval
from lookalike.evaluation.robustness import MEANING, evaluate_encoder_robustness
from lookalike.sources import Source
from lookalike.sources.sampling import Sampled, read_sample
from lookalike.stores.exact import ExactIndex
from lookalike.types import (
    Embeddings,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)

SAMPLE = 3_000
"""Images that are looked at, spread evenly over the collection."""

MIN_LABELED = 30
_SELF_QUERIES = 100


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How embeddings spread over their dimensions.

    ``effective`` is the exponential of the entropy of the principal components' shares of the
    variance (RankMe, Garrido et al. 2023, with variances for singular values): ``dim`` if all
    matter alike, 1 if one does. ``collapsed`` are the dimensions that hardly vary: by less than a
    hundredth of the median standard deviation.
    """

    dim: int
    effective: float
    collapsed: tuple[int, ...]

    @classmethod
    def of(cls, embeddings: Embeddings) -> Spectrum:
        """Describe embeddings ``(n, dim)``."""
        values = embeddings.astype(np.float64)
        spread = values.std(axis=0)
        typical = float(np.median(spread)) or float(spread.max())
        dead = np.flatnonzero(spread <= typical / 100)
        variances = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
        shares = variances[variances > 0] / max(variances.sum(), np.finfo(float).tiny)
        effective = float(np.exp(-(shares * np.log(shares)).sum()))
        return cls(values.shape[1], effective, tuple(int(i) for i in dead))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Precision@k of an encoder and every baseline: each labeled image is asked for the others.

    ``differences`` are the encoder's less each baseline's, paired query by query.
    """

    k: int
    queries: int
    labels: int
    precision: Estimate
    baselines: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    @property
    def best(self) -> str:
        """Name of the best baseline."""
        return max(self.baselines, key=lambda name: self.baselines[name].value)

    def sentence(self) -> str:
        """Say whether training was worth it."""
        best, by = self.best, self.differences[self.best]
        interval = f"{by.value:+.4f} [{by.interval.low:+.4f}, {by.interval.high:+.4f}]"
        if by.interval.low > 0:
            return f"better than the best baseline, {best}, by {interval}"
        if by.interval.high < 0:
            return f"keep `{best}`: training did not help here ({interval})"
        return f"keep `{best}`: the difference cannot be told from none ({interval})"


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """What :func:`sanity_check` found.

    ``robustness`` is mAP@7 by distortion; ``verdict`` is None without enough labels.
    """

    images: int
    spectrum: Spectrum
    robustness: Mapping[str, float]
    verdict: Verdict | None

    def sentences(self) -> list[str]:
        """Say it in a line each."""
        s = self.spectrum
        said = [f"spectrum: the variance of {s.effective:.0f} of {s.dim} dimensions"]
        if s.collapsed:
            shown = ", ".join(map(str, s.collapsed[:10]))
            more = ", ..." if len(s.collapsed) > 10 else ""
            said[0] += f"; {len(s.collapsed)} collapsed (hardly vary): {shown}{more}"
        if self.robustness:
            each = ", ".join(f"{name} {value:.2f}" for name, value in self.robustness.items())
            said.append(f"self-retrieval, {MEANING}: {each}")
        if self.verdict is None:
            said.append(
                "quality: not known without labels; lookalike choose ranks encoders from a few"
            )
            return said
        v = self.verdict
        table = ", ".join(f"{name} {score.value:.4f}" for name, score in v.baselines.items())
        said.append(
            f"quality: precision@{v.k} {v.precision.value:.4f} [{v.precision.interval.low:.4f}, "
            f"{v.precision.interval.high:.4f}] on {v.queries:,} labeled images; {table}"
        )
        said.append(f"verdict: {v.sentence()}")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        fields: dict[str, Any] = {
            "images": self.images,
            "dim": self.spectrum.dim,
            "effective_dim": self.spectrum.effective,
            "collapsed": list(self.spectrum.collapsed),
            "robustness": dict(self.robustness),
            "verdict": None,
        }
        if self.verdict is not None:
            v = self.verdict
            fields["verdict"] = {
                "k": v.k,
                "queries": v.queries,
                "labels": v.labels,
                "precision": _pair(v.precision),
                "baselines": {name: _pair(score) for name, score in v.baselines.items()},
                "differences": {name: _pair(score) for name, score in v.differences.items()},
                "best_baseline": v.best,
                "sentence": v.sentence(),
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
    """Look at an encoder's spectrum, what it is invariant to, and, with labels, how good it is.

    Args:
        encoder: what was trained.
        source: the images it was trained on.
        labels: by id; those of the source itself unless given. An empty mapping is for none.
            The images they name are looked at in addition to those drawn.
        k: hits that precision is taken over.
        on_progress: told of each encoder that is tried.

    Raises:
        SourceError: not one image can be read.
    """
    sample = read_sample(source, SAMPLE, frozenset(labels or ()))
    images = [each.image for each in sample]
    embeddings = encoder.encode(images)
    return SanityCheck(
        images=len(sample),
        spectrum=Spectrum.of(embeddings),
        robustness=_self_retrieval(encoder, images),
        verdict=_verdict(encoder, sample, labels, k, on_progress),
    )


def _self_retrieval(encoder: Encoder, images: Sequence[ImageArray]) -> dict[str, float]:
    try:
        found = evaluate_encoder_robustness(encoder, images, queries=_SELF_QUERIES)
    except InputError:  # fewer than two distinct images: nothing can be found again
        return {}
    return {name: scores.map.value for name, scores in found.scores.items()}


def _verdict(
    encoder: Encoder,
    sample: Sequence[Sampled],
    labels: Mapping[str, str] | None,
    k: int,
    on_progress: ProgressCallback,
) -> Verdict | None:
    """Compare with every baseline on the labeled part of a sample, if that is enough to say."""
    known = {
        each.item.id: str(label) for each in sample if (label := _label(each, labels)) is not None
    }
    judged = [each for each in sample if each.item.id in known]
    names = np.array([known[each.item.id] for each in judged])
    if len(judged) < MIN_LABELED or len(set(names)) < 2:
        return None
    images = [each.image for each in judged]
    everything = [each.image for each in sample]
    baselines = [name for name, described in encoder_specs().items() if described.baseline]
    own = _precisions(encoder.encode(images), names, k)
    scores: dict[str, NDArray[np.float64]] = {}
    for number, name in enumerate(baselines):
        on_progress(Progress("compare with baselines", number, len(baselines), "encoders"))
        try:
            baseline = open_encoder(name, everything)
        except InputError:  # too few images for a baseline that learns
            continue
        scores[name] = _precisions(baseline.encode(images), names, k)
    on_progress(Progress("compare with baselines", len(baselines), len(baselines), "encoders"))
    return Verdict(
        k=k,
        queries=len(judged),
        labels=len(set(names)),
        precision=_estimate(own),
        baselines={name: _estimate(each) for name, each in scores.items()},
        differences={name: _estimate(own - each) for name, each in scores.items()},
    )


def _label(each: Sampled, labels: Mapping[str, str] | None) -> object:
    return each.item.metadata.get("label") if labels is None else labels.get(each.item.id)


def _precisions(embeddings: Embeddings, labels: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return precision@k of each row among the others, ``(rows,)``."""
    others = ExactIndex(embeddings).others(0, len(embeddings), k, Metric.COSINE).rows
    return np.asarray((labels[others] == labels[:, None]).mean(axis=1))


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), bootstrap_interval(values))


def _pair(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": [estimate.interval.low, estimate.interval.high]}
