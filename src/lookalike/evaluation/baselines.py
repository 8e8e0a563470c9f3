"""Baseline encoders, fitted to a sample; those that cannot be are left out with their reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import encoder_specs
from lookalike.errors import ArtifactError, InputError, MissingDependencyError
from lookalike.formatting import format_count
from lookalike.types import Failure, ImageArray, Progress, ProgressCallback, ignore_progress

CHANCE = "chance"

UNUSABLE = (InputError, ArtifactError, MissingDependencyError)
"""Why an encoder cannot be run on some images: too few or too small ones, an unreadable image, a
missing file or package."""


def baseline_notes(left_out: Mapping[str, str], unread: Sequence[Failure] = ()) -> list[str]:
    """Return a line for each baseline that could not be run, and one for unreadable rows."""
    notes = [f"baseline {name} left out: {reason}" for name, reason in left_out.items()]
    if unread:
        rows = format_count(len(unread), "row")
        first = f"{unread[0].uri}: {unread[0].reason}"
        notes.append(f"the baselines lack {rows} whose images cannot be read; the first: {first}")
    return notes


def fit_baselines(
    sample: Sequence[ImageArray], on_progress: ProgressCallback = ignore_progress
) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Fit each baseline of the registry to a sample.

    Args:
        sample: images ``(H, W)`` or ``(H, W, 3)`` uint8.
        on_progress: called for each baseline.

    Returns:
        The encoders by name, and the reasons of those that cannot be fitted.
    """
    specs = [spec for spec in encoder_specs().values() if spec.baseline]
    fitted: dict[str, Encoder] = {}
    left_out: dict[str, str] = {}
    for number, spec in enumerate(specs):
        on_progress(Progress("fit baselines", number, len(specs), "encoders"))
        try:
            fitted[spec.name] = spec.fit(spec.name, sample)
        except UNUSABLE as error:
            left_out[spec.name] = str(error)
    on_progress(Progress("fit baselines", len(specs), len(specs), "encoders"))
    return fitted, left_out
