"""What may follow an encoder's name: ``NAME,size=320,fit=white,mirror,foreground,whiten=256``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lookalike.encoders.base import FIT_MODES, Encoder
from lookalike.encoders.composite import MultiViewEncoder, ProjectedEncoder
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.types import ImageArray
from lookalike.vectors import unit_rows

NAMES = ("size", "fit", "mirror", "foreground", "whiten")
SHRINKAGE = 0.05
"""Of the spectrum towards its mean, when whitening."""


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """How an encoder is used; what is not asked for is as the encoder has it.

    Args:
        sizes: pixels a side; several are averaged.
        fit: one of :data:`lookalike.encoders.base.FIT_MODES`.
        mirror: average with the mirror image.
        foreground: look at the part of the image that holds its item.
        whiten: dimensions to whiten to, by what the collection's images have in common.
    """

    sizes: tuple[int, ...] = ()
    fit: str | None = None
    mirror: bool = False
    foreground: bool = False
    whiten: int | None = None

    @classmethod
    def parse(cls, name: str, parts: Sequence[str]) -> Self:
        """Read the parts after an encoder's name.

        Raises:
            UnknownNameError: no such option or fit.
            SettingError: a value that does not fit.
        """
        found: dict[str, Any] = {}
        given_names: set[str] = set()
        for part in parts:
            option, given, value = part.strip().partition("=")
            if option not in NAMES:
                raise UnknownNameError(f"option of encoder {name!r}:", option, NAMES)
            flag = option in ("mirror", "foreground")
            if flag == bool(given):
                raise SettingError(
                    f"encoder {name!r}: {part!r} must be {option if flag else option + '=VALUE'}"
                )
            if option in given_names:
                raise SettingError(f"encoder {name!r}: {option} is there twice; give it once")
            given_names.add(option)
            found["sizes" if option == "size" else option] = (
                True if flag else _value(name, option, value)
            )
        return cls(**found)

    def build(
        self,
        name: str,
        open_one: Callable[[int | None, str | None], Encoder],
        sample: Sequence[ImageArray],
    ) -> Encoder:
        """Make the encoder of that name; ``open_one(size, fit)`` opens it for one size.

        Raises:
            InputError: ``whiten`` asks for more dimensions than ``sample`` has images.
        """
        opened: list[Encoder] = [open_one(size, self.fit) for size in self.sizes or (None,)]
        encoder = opened[0]
        if len(opened) > 1 or self.mirror or self.foreground:
            encoder = MultiViewEncoder(name, tuple(opened), self.mirror, self.foreground)
        if self.whiten is None:
            return encoder
        return whiten_encoder(encoder, sample, self.whiten, name=name)


def _value(name: str, option: str, value: str) -> Any:
    if option == "fit":
        if value not in FIT_MODES:
            raise UnknownNameError(f"fit of encoder {name!r}:", value, FIT_MODES)
        return value
    try:
        numbers = tuple(int(part) for part in value.split(":"))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or (option == "whiten" and len(numbers) > 1):
        expected = "pixels, as in size=224 or size=224:320" if option == "size" else "dimensions"
        raise SettingError(f"encoder {name!r}: {option}={value} must be {expected}")
    return numbers if option == "size" else numbers[0]


def whiten_encoder(
    encoder: Encoder, images: Sequence[ImageArray], dim: int, *, name: str | None = None
) -> ProjectedEncoder:
    """Whiten an encoder by principal components, learned from a collection's images alone.

    The embeddings are centered and brought to ``dim`` components of equal variance (Jegou and Chum
    2012, section 4), after the spectrum was shrunk by 5 % towards its mean, so that directions in
    which a few images hardly differ are not blown up (Ledoit and Wolf 2004).

    Args:
        encoder: any.
        images: of the collection, at least ``dim + 1``.
        dim: at most the encoder's own.
        name: the encoder's with ``,whiten=DIM`` unless given.

    Raises:
        InputError: too few images, or more dimensions than the encoder has.
    """
    if dim > encoder.dim:
        raise InputError(
            f"whiten={dim}: encoder {encoder.name!r} has {encoder.dim} dimensions; ask for at "
            "most that many"
        )
    if len(images) <= dim:
        raise InputError(
            f"whiten={dim}: needs more images than dimensions to learn from; there are "
            f"{len(images):,}: ask for at most {max(1, len(images) // 2)}, or index more images"
        )
    rows = unit_rows(encoder.encode(images))
    if np.ptp(rows, axis=0).max() == 0:
        raise InputError(f"whiten={dim}: all {len(images):,} images have one embedding")
    projection = LinearProjection.fit_shrunk(rows, dim, SHRINKAGE)
    origin = {"learned": "whitening", "images": len(images), "shrinkage": SHRINKAGE}
    return ProjectedEncoder(name or f"{encoder.name},whiten={dim}", encoder, projection, origin)
