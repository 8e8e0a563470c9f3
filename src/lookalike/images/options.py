"""How images are decoded, and the notes that decoding makes."""

from __future__ import annotations

from dataclasses import dataclass

TRUNCATED = "truncated"
"""The file ends early; what is missing has the median color of the rest, or is gray."""

DAMAGED = "damaged"
"""The file has errors; what cannot be decoded is filled in the same way."""

FURTHER_PAGES = "further pages"
"""Only the first page of several was decoded."""

FURTHER_FRAMES = "further frames"
"""Only the first frame of an animation was decoded."""

FURTHER_BANDS = "further bands"
"""The file has more bands than gray or RGB and transparency."""

BY_PERCENTILES = "brightness by percentiles"
"""More than 8 bits, and the file does not state which values are black and white."""

REDUCED_DEPTH = "reduced to 8 bits"
"""The decoder drops the lower bits of a color image of more than 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How images are decoded.

    Args:
        max_megapixels: largest image by its header; ``math.inf``: any. By default, images are
            refused whose decoding needs more memory than this machine has to spare.
        strict: refuse truncated and damaged files instead of decoding them as far as they go.
        window: the values shown as black and as white, for images of more than 8 bits; by default
            those that the file states, or else percentiles of each image.
        formats: names of the formats to read; default all that can be read here.
    """

    max_megapixels: float | None = None
    strict: bool = False
    window: tuple[float, float] | None = None
    formats: tuple[str, ...] | None = None


DEFAULT_OPTIONS = DecodeOptions()
