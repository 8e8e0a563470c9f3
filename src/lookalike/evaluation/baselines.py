"""Baseline encoders, fitted to a sample; those that cannot be are left out with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import encoder_specs
from lookalike.errors import ArtifactError, InputError, MissingDependencyError
from lookalike.formatting import format_count
from lookalike.types import Failure, ImageArray, Progress, ProgressCallback, ignore_progress

CHANCE = "chance"

UNUSABLE = (InputError, ArtifactError, MissingDependencyError)
"""Why an encoder cannot be run on some images: too few or too small ones, an unreadable image, a
missing file or package."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BaselineResults(Generic[T]):
    """Results by baseline, and the reasons of the baselines without one.

    ``unread`` are rows that no baseline has, since their images cannot be read.
    """

    results: dict[str, T] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unread: tuple[Failure, ...] = ()


def baseline_notes(left_out: Mapping[str, str], unread: Sequence[Failure] = ()) -> list[str]:
    """Return a line for each baseline that could not be run, and one for unreadable rows."""
    notes = [f"baseline {name} left out: {reason}" for name, reason in left_out.items()]
    if unread:
        rows = format_count(len(unread), "row")
        first = f"{unread[0].uri}: {unread[0].reason}"
        notes.append(f"the baselines lack {rows} whose images cannot be read; the first: {first}")
    return notes


def run_baselines(
    sample: Sequence[ImageArray],
    work: Callable[[Encoder], T],
    on_progress: ProgressCallback = ignore_progress,
) -> BaselineResults[T]:
    """Fit each baseline of the registry to a sample and run it.

    Args:
        sample: images ``(H, W)`` or ``(H, W, 3)`` uint8.
        work: what to compute with a baseline; what it raises of :data:`UNUSABLE` leaves it out.
        on_progress: called for each baseline.
    """
    specs = [spec for spec in encoder_specs().values() if spec.baseline]
    run: BaselineResults[T] = BaselineResults()
    for number, spec in enumerate(specs):
        on_progress(Progress("compare with baselines", number, len(specs), "encoders"))
        try:
            run.results[spec.name] = work(spec.fit(spec.name, sample))
        except UNUSABLE as error:
            run.left_out[spec.name] = str(error)
    on_progress(Progress("compare with baselines", len(specs), len(specs), "encoders"))
    return run
