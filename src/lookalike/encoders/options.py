"""Options after an encoder's name: ``NAME,size=320,fit=white,mirror,foreground,whiten=256``.

ONNX models also take ``dtype=q8``, ``output=NAME`` and ``pooling=NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from lookalike.encoders.base import FIT_MODES, Encoder
from lookalike.encoders.composite import MultiViewEncoder, ProjectedEncoder
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.files import expand_home
from lookalike.types import ImageArray
from lookalike.vectors import unit_rows

SHRINKAGE = 0.05
"""Shrinkage of the spectrum towards its mean when whitening."""

_NAMES = ("size", "fit", "mirror", "foreground", "whiten")


DTYPES: Mapping[str, str] = {
    "fp32": "",
    "fp16": "_fp16",
    "q8": "_quantized",
    "int8": "_int8",
    "uint8": "_uint8",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
}
"""Endings of the files of a model on the hub, by the names of their precisions."""

MODEL_OPTIONS = ("dtype", "output", "pooling")
"""Names of the options of ONNX models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which file of an ONNX model is opened, and what of it is the embedding.

    Args:
        dtype: a key of :data:`DTYPES`; default the first that there is.
        output: name of the output that is the embedding; default chosen by its name.
        pooling: of an output of tokens or maps; default that of the kind of model.
    """

    dtype: str | None = None
    output: str | None = None
    pooling: str | None = None

    @classmethod
    def split(cls, texts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the options of a model, and the others."""
        own = [text for text in texts if text.strip().partition("=")[0] in MODEL_OPTIONS]
        return own, [text for text in texts if text not in own]

    @classmethod
    def parse(cls, name: str, texts: Sequence[str]) -> Self:
        """Parse options such as ``dtype=q8`` of the encoder called ``name``.

        Raises:
            UnknownNameError: no such option or precision.
            SettingError: a value is missing or given twice.
        """
        options: dict[str, str] = {}
        for text in texts:
            option, _, value = (part.strip() for part in text.partition("="))
            if option not in MODEL_OPTIONS:
                raise UnknownNameError(f"option of encoder {name!r}:", option, MODEL_OPTIONS)
            if not value:
                raise SettingError(f"encoder {name!r}: {text!r} must be {option}=VALUE")
            if option in options:
                raise SettingError(f"encoder {name!r}: option {option} is given twice")
            options[option] = value
        if options.get("dtype", "fp32") not in DTYPES:
            raise UnknownNameError(f"dtype of encoder {name!r}:", options["dtype"], DTYPES)
        return cls(**options)


def split_path(text: str) -> tuple[str, list[str]]:
    """Return a path and the options behind it; a path that exists may contain commas."""
    parts = text.split(",")
    for count in range(len(parts), 0, -1):
        path = ",".join(parts[:count])
        if Path(expand_home(path)).exists():
            return path, parts[count:]
    return parts[0], parts[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Input size, augmentation and whitening of an encoder; defaults are the encoder's own.

    Args:
        sizes: input sizes in pixels; embeddings of several are averaged.
        fit: one of :data:`lookalike.encoders.base.FIT_MODES`.
        mirror: average with the embedding of the mirror image.
        foreground: crop images to the main object.
        whiten: dimensions after PCA whitening, fitted to images of the collection.
    """

    sizes: tuple[int, ...] = ()
    fit: str | None = None
    mirror: bool = False
    foreground: bool = False
    whiten: int | None = None

    @classmethod
    def parse(cls, name: str, texts: Sequence[str], *, others: Sequence[str] = ()) -> Self:
        """Parse options such as ``size=320`` or ``mirror`` of the encoder called ``name``.

        Args:
            name: of the encoder.
            texts: the options.
            others: names of further options of this encoder, for messages.

        Raises:
            UnknownNameError: no such option or fit mode.
            SettingError: a value is missing, invalid or given twice.
        """
        options: dict[str, Any] = {}
        for text in texts:
            option, equals, value = text.strip().partition("=")
            if option not in _NAMES:
                raise UnknownNameError(f"option of encoder {name!r}:", option, (*_NAMES, *others))
            is_flag = option in ("mirror", "foreground")
            if is_flag == bool(equals):
                expected = option if is_flag else f"{option}=VALUE"
                raise SettingError(f"encoder {name!r}: {text!r} must be {expected}")
            field = "sizes" if option == "size" else option
            if field in options:
                raise SettingError(f"encoder {name!r}: option {option} is given twice")
            options[field] = True if is_flag else _parse_value(name, option, value)
        return cls(**options)

    def build(
        self,
        name: str,
        open_one: Callable[[int | None, str | None], Encoder],
        sample: Sequence[ImageArray],
    ) -> Encoder:
        """Build the encoder called ``name``; ``open_one(size, fit)`` opens it for one input size.

        Raises:
            InputError: ``whiten`` needs more images than ``sample`` has.
        """
        encoders: list[Encoder] = [open_one(size, self.fit) for size in self.sizes or (None,)]
        encoder = encoders[0]
        if len(encoders) > 1 or self.mirror or self.foreground:
            encoder = MultiViewEncoder(name, tuple(encoders), self.mirror, self.foreground)
        if self.whiten is None:
            return encoder
        return whiten_encoder(encoder, sample, self.whiten, name=name)


def _parse_value(name: str, option: str, value: str) -> Any:
    if option == "fit":
        if value not in FIT_MODES:
            raise UnknownNameError(f"fit of encoder {name!r}:", value, FIT_MODES)
        return value
    try:
        numbers = tuple(int(number) for number in value.split(":"))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or (option == "whiten" and len(numbers) > 1):
        expected = (
            "pixels, as in size=224 or size=224:320"
            if option == "size"
            else "a number of dimensions, as in whiten=256"
        )
        raise SettingError(f"encoder {name!r}: {option}={value} must be {expected}")
    return numbers if option == "size" else numbers[0]


def whiten_encoder(
    encoder: Encoder, images: Sequence[ImageArray], dim: int, *, name: str | None = None
) -> ProjectedEncoder:
    """Whiten an encoder's embeddings by PCA fitted to unlabeled images of a collection.

    Embeddings are centered and projected to ``dim`` components of equal variance (Jégou and Chum
    2012, section 4). The spectrum is first shrunk by 5 % towards its mean, so that directions of
    tiny variance in a small sample are not inflated (Ledoit and Wolf 2004).

    Args:
        encoder: any.
        images: at least ``dim + 1`` images of the collection.
        dim: output dimensions, at most the encoder's.
        name: default the encoder's name with ``,whiten=DIM``.

    Raises:
        InputError: too few images, or more dimensions than the encoder has.
    """
    if dim > encoder.dim:
        raise InputError(
            f"whiten={dim}: encoder {encoder.name!r} has only {encoder.dim} dimensions"
        )
    if len(images) <= dim:
        raise InputError(
            f"whiten={dim}: needs more images than dimensions, but there are {len(images):,}; use "
            f"at most whiten={max(1, len(images) // 2)}, or index more images"
        )
    rows = unit_rows(encoder.encode_batch(images))
    if np.ptp(rows, axis=0).max() == 0:
        raise InputError(
            f"whiten={dim}: all {len(images):,} images have the same embedding, which leaves no "
            "variance to whiten"
        )
    projection = LinearProjection.fit_shrunk(rows, dim, SHRINKAGE)
    origin = {"learned": "whitening", "images": len(images), "shrinkage": SHRINKAGE}
    return ProjectedEncoder(name or f"{encoder.name},whiten={dim}", encoder, projection, origin)
