"""Networks of one's own: an ONNX file, and beside it what its images must be like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.errors import InputError
from lookalike.types import ImageArray

PREFIX = "onnx:"


def open_onnx(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open a network of one's own: ``onnx:FILE``, with a file beside it that says what it takes.

    ``FILE`` without its suffix, and ``.json``, holds ``size`` (pixels, or ``[height, width]``)
    and, unless they are these: ``channels`` 3, ``mean`` 0 and ``std`` 1 (numbers or one for each
    channel, of values in [0, 1]), ``filter`` bilinear or bicubic, ``crop`` (the share of the
    shorter side that is kept, in the middle; all of the image, stretched, unless given) and
    ``normalise`` true.

    Raises:
        InputError: a file is missing or says something else.
        ArtifactError: not a model that ONNX Runtime reads.
    """
    del sample
    path = Path(name.removeprefix(PREFIX)).expanduser()
    described = path.with_suffix(".json")
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(f"encoder {name!r}: cannot be read ({error.strerror or error})") from error
    try:
        said = json.loads(described.read_bytes())
        size = said.pop("size")
        height, width = size if isinstance(size, list) else (size, size)
        channels = int(said.pop("channels", 3))
        preprocessing = Preprocessing(
            int(height),
            int(width),
            channels,
            filter=str(said.pop("filter", "bilinear")),
            crop=said.pop("crop", None),
            mean=_each(said.pop("mean", 0.0), channels),
            std=_each(said.pop("std", 1.0), channels),
        )
        normalise = bool(said.pop("normalise", True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"encoder {name!r}: {described} must say what the network takes, as in "
            f'{{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}} ({error})'
        ) from error
    if said:
        raise InputError(f"{described}: knows nothing of {', '.join(map(repr, said))}")
    origin = {"source": str(path.absolute()), "licence": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalised=normalise, origin=origin)


def _each(value: float | list[float], channels: int) -> tuple[float, ...]:
    values = [value] * channels if isinstance(value, int | float) else value
    if len(values) != channels:
        raise ValueError(f"expected {channels} numbers, got {values}")
    return tuple(float(each) for each in values)
