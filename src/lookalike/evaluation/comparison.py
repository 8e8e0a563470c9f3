"""One encoder beside others over the same queries, and what that shows: the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lookalike.evaluation.metrics import Estimate, PerQuery


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An encoder beside baselines.

    ``measure`` is what is compared, such as ``precision@7``. ``differences`` are the encoder's
    score less each baseline's, paired by query; ``left_out`` has the reason of each baseline that
    could not be run.
    """

    measure: str
    encoder: str
    score: Estimate
    baselines: Mapping[str, Estimate] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        measure: str,
        encoder: str,
        values: PerQuery,
        baselines: Mapping[str, PerQuery],
        left_out: Mapping[str, str] | None = None,
    ) -> Self:
        """Compare scores ``(q,)`` of an encoder with those of baselines for the same queries."""
        return cls(
            measure=measure,
            encoder=encoder,
            score=Estimate.of(values),
            baselines={name: Estimate.of(each) for name, each in baselines.items()},
            differences={name: Estimate.of(values - each) for name, each in baselines.items()},
            left_out=left_out or {},
        )

    @property
    def best(self) -> str | None:
        """Name of the best baseline; None if there is none. The encoder itself is none."""
        names = (name for name in self.baselines if name != self.encoder)
        return max(names, key=lambda name: self.baselines[name].value, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "measure": self.measure,
            "score": self.score.as_dict(),
            "baselines": {name: score.as_dict() for name, score in self.baselines.items()},
            "differences": {name: each.as_dict() for name, each in self.differences.items()},
            "left_out": dict(self.left_out),
            "best_baseline": self.best,
            "verdict": verdict(self),
        }


def verdict(comparison: Comparison) -> str:
    """Compare an encoder with the best baseline, in one sentence.

    It is better or worse if the whole 95 % interval of the difference, paired by query, is on one
    side of 0.
    """
    score = comparison.score
    text = f"{comparison.encoder}: {comparison.measure} {score.value:.4f}"
    best = comparison.best
    if best is None:
        reason = (
            "no baseline could be run" if comparison.left_out else "not compared with baselines"
        )
        return f"{text}; {reason}"
    baseline = f"the best baseline, {best} ({comparison.baselines[best].value:.4f})"
    difference = comparison.differences[best]
    if not difference.interval.is_defined:
        return f"{text}; one query, so it cannot be compared with {baseline}"
    size = f"{difference.value:+.4f} [{difference.interval.describe('+.4f')}]"
    if difference.interval.side > 0:
        return f"{text}, better than {baseline}: {size}"
    if difference.interval.side < 0:
        return f"{text}, worse than {baseline}: {size}"
    return f"{text}, not significantly different from {baseline}: {size}"
