"""Options of a training run; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.arguments import check_fields
from lookalike.errors import SettingError
from lookalike.training.recipe import is_number

MIN_SIZE, MAX_SIZE = 32, 224
"""Bounds of ``TrainingOptions.size``, in pixels."""

_MAX_SEED = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options of :func:`lookalike.train`; None stands for the recipe's default.

    Args:
        epochs: number of epochs.
        minutes: time limit, including preparation; may end within an epoch. A decaying learning
            rate reaches its minimum by then.
        augment: an augmentation preset (:data:`lookalike.training.augmentations.AUGMENTATIONS`),
            for recipes that augment.
        size: side in pixels to which images are resized, for recipes without a fixed size.
        code_size: dimensions of the embedding, for the report's recipes (``report-*``, ``fast-*``).
        widths: of the layers between image and code, for the report's recipes: numbers of units
            of the linear ones, of channels of the convolutional ones.
        device: torch device, such as ``cpu`` or ``cuda``.
        seed: of the initial weights, the order of images and the augmentations.
        resume: continue from the checkpoint, with its ``augment``, ``code_size`` and ``widths``. On
            a CPU this gives the weights of an uninterrupted run, bit for bit.

    Raises:
        SettingError: an option is of another type.
    """

    epochs: int | None = None
    minutes: float | None = None
    augment: str | None = None
    size: int | None = None
    code_size: int | None = None
    widths: tuple[int, ...] | None = None
    device: str = "cpu"
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Check ranges.

        Raises:
            SettingError: an option is out of range.
        """
        if self.epochs is not None and self.epochs < 1:
            raise SettingError("{epochs} must be at least 1", epochs=self.epochs)
        if self.minutes is not None and not is_number(self.minutes):
            raise SettingError("{minutes} must be a number", minutes=self.minutes)
        if self.minutes is not None and self.minutes <= 0:
            raise SettingError("{minutes} must be above 0", minutes=self.minutes)
        if self.size is not None and not MIN_SIZE <= self.size <= MAX_SIZE:
            raise SettingError(
                f"{{size}} must be from {MIN_SIZE} to {MAX_SIZE} pixels", size=self.size
            )
        if not 0 <= self.seed < _MAX_SEED:
            raise SettingError(f"{{seed}} must be from 0 to {_MAX_SEED - 1:,}", seed=self.seed)


DEFAULTS = TrainingOptions()
