"""The encoder of a new gallery."""

from __future__ import annotations

import os

from lookalike.encoders.base import Encoder
from lookalike.encoders.batching import check_first_image
from lookalike.encoders.registry import (
    default_encoder,
    find_encoder_spec,
    open_encoder,
    sample_of,
)
from lookalike.encoders.short_names import PHOTOGRAPHS
from lookalike.errors import InputError
from lookalike.sources.inputs import SourceLike, as_source

_TEXT_ENCODER = "clip-b32"
"""The encoder that is recommended for search by text."""

_SAMPLED = 50
"""Images that the default encoder is chosen by."""


def choose_encoder(encoder: object, images: SourceLike | None) -> Encoder:
    """Return the encoder of a new gallery.

    Args:
        encoder: an encoder, its name or its folder; None for the default one for ``images``.
        images: images of the collection; needed by encoders that are fitted, and by the default.

    Raises:
        InputError: it is none of these, or ``images`` are needed or are no images.
        UnknownNameError: no such encoder.
        SourceError: no image can be decoded.
        ImageError: the encoder does not accept the images.
        ArtifactError: the folder is no saved encoder.
    """
    source = None if images is None else as_source(images)  # which is read twice
    if encoder is None:
        if source is None:
            raise InputError(
                "a new gallery needs an encoder: pass {encoder}, such as 'efficientnet-lite0', or "
                "{images}, such as a folder of them, by which one is chosen",
                encoder=None,
                images=None,
            )
        encoder, _ = default_for(source)
    if not isinstance(encoder, str | os.PathLike | Encoder):
        raise InputError(
            f"{{encoder}} is a {type(encoder).__name__}; pass a name, a folder or an Encoder; of a "
            "function or network: lookalike.encoders.from_callable(fn, dim=512, name='mine')",
            encoder=None,
        )
    opened = open_encoder(encoder, source)
    if source is not None:
        check_first_image(source, opened)
    return opened


def better_encoder(name: str) -> str:
    """Return what to say once of the default encoder ``name``: which one searches by text, too."""
    if name != PHOTOGRAPHS:
        return "for others: lookalike encoders"
    spec = find_encoder_spec(_TEXT_ENCODER)
    is_here = spec.download is None or spec.weight_files()
    size = "" if is_here else f" ({(spec.download or 0) / 1e6:.0f} MB)"
    return f"for search by text: --encoder {spec.name}{size}"


def default_for(images: SourceLike) -> tuple[str, str]:
    """Return the name of the default encoder for images, and the reason."""
    return default_encoder(sample_of(images, _SAMPLED))
