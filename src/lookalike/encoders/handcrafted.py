"""Handcrafted encoders: pixels, PCA, color and texture histograms.

They accept gray and color images of any size. All but pixels and PCA return unit length. HOG is in
:mod:`lookalike.encoders.hog`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.documents import Fields
from lookalike.encoders.base import Encoder, Preprocessing, fingerprint
from lookalike.encoders.weights import read_arrays, write_arrays
from lookalike.errors import InputError
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import principal_axes, unit_rows

_CHUNK_PIXELS = 1 << 20
"""Pixels processed at a time, which bounds memory."""

_MAX_LEVEL, _MAX_LEVELS = 16, 8
"""Cells on a side of a spatial pyramid's grid, and its number of grids."""

PixelBatch = NDArray[np.uint8]
"""``(n, height, width, channels)`` uint8."""


@dataclass(frozen=True, repr=False)
class HandcraftedEncoder(Encoder):
    """Preprocessing followed by a pure function of the pixels, :meth:`_embed`."""

    kind: ClassVar[str]
    normalized: ClassVar[bool] = True

    name: str
    preprocessing: Preprocessing

    @abstractmethod
    def _embed(self, pixels: PixelBatch) -> Embeddings:
        """Return ``(n, dim)`` float32 for preprocessed images."""

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        p = self.preprocessing
        size = max(1, _CHUNK_PIXELS // (p.height * p.width * p.channels))
        out = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), size):
            out[start : start + size] = self._embed(p.apply(images[start : start + size]))
        return out

    def parameters(self) -> dict[str, Any]:
        """Return the settings besides name and preprocessing, as JSON values."""
        return {}

    def files(self) -> Mapping[str, bytes]:
        """Return the learned arrays, if any, as safetensors."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """Return kind, name, preprocessing and parameters."""
        return {
            "kind": self.kind,
            "name": self.name,
            "preprocessing": self.preprocessing.as_dict(),
            "parameters": self.parameters(),
        }

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: a field or an array is missing or invalid.
        """
        del files
        description.object("parameters").only(())
        return cls(
            description.text("name"), Preprocessing.restore(description.object("preprocessing"))
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of description and learned arrays; the name does not count."""
        return fingerprint({**self.describe(), "name": self.kind}, self.files())


@dataclass(frozen=True, repr=False)
class Pixels(HandcraftedEncoder):
    """Raw pixels in [0, 1]: the simplest baseline."""

    kind: ClassVar[str] = "pixels"
    normalized: ClassVar[bool] = False

    @property
    def dim(self) -> int:
        """One value per pixel and channel."""
        return self.preprocessing.height * self.preprocessing.width * self.preprocessing.channels

    def _embed(self, pixels: PixelBatch) -> Embeddings:
        return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


@dataclass(frozen=True, repr=False)
class Pca(HandcraftedEncoder):
    """Principal components of the pixels (Pearson 1901), not whitened.

    ``mean`` is ``(d,)`` and ``components`` ``(dim, d)`` float32 for d pixel values in [0, 1].
    """

    kind: ClassVar[str] = "pca"
    normalized: ClassVar[bool] = False

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(
        cls, name: str, preprocessing: Preprocessing, images: Sequence[ImageArray], dim: int
    ) -> Self:
        """Fit the ``dim`` leading components to a sample of images.

        Raises:
            InputError: fewer images than components.
        """
        if len(images) < dim:
            raise InputError(
                f"encoder {name!r} needs at least {dim} images to fit {dim} components; "
                f"there are {len(images)}"
            )
        pixels = Pixels(name, preprocessing).encode_batch(images)
        dim = min(dim, pixels.shape[1])
        mean, axes, _ = principal_axes(pixels, dim)
        return cls(name, preprocessing, mean, axes)

    @property
    def dim(self) -> int:
        """Number of components."""
        return len(self.components)

    def _embed(self, pixels: PixelBatch) -> Embeddings:
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
        return np.asarray((flat - self.mean) @ self.components.T, dtype=np.float32)

    def files(self) -> Mapping[str, bytes]:
        """Return mean and components as safetensors."""
        return write_arrays({"mean": self.mean, "components": self.components})

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`."""
        name = description.text("name")
        preprocessing = Preprocessing.restore(description.object("preprocessing"))
        size = Pixels(name, preprocessing).dim
        arrays = read_arrays(description, files, {"mean": (size,), "components": (None, size)})
        return cls(name, preprocessing, arrays["mean"], arrays["components"])


@dataclass(frozen=True, repr=False)
class Histogram(HandcraftedEncoder):
    """Histogram of pixel codes, over the whole image or a spatial pyramid.

    ``codes="hsv"``: colors on a grid of 8 hues x 4 saturations x 4 values. ``codes="lbp"``: the 59
    uniform local binary patterns of eight neighbors (Ojala, Pietikäinen, Mäenpää 2002, section
    2.3). ``levels`` are the grids of the pyramid: (1,) is the whole image, (1, 2, 4) the pyramid of
    Lazebnik, Schmid, Ponce 2006 with its weights. Each grid's histogram sums to its weight; the
    square root of the concatenation (Hellinger kernel) is scaled to unit length.
    """

    kind: ClassVar[str] = "histogram"

    codes: str = "hsv"
    levels: tuple[int, ...] = (1,)

    def parameters(self) -> dict[str, Any]:
        """Return the kind of codes and the pyramid levels."""
        return {"codes": self.codes, "levels": list(self.levels)}

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`."""
        del files
        parameters = description.object("parameters")
        parameters.only(("codes", "levels"))
        levels = parameters.integers("levels", 1, _MAX_LEVEL)
        if not 1 <= len(levels) <= _MAX_LEVELS:
            raise parameters.invalid("levels", f"1 to {_MAX_LEVELS} numbers")
        codes = parameters.text("codes", allowed=("hsv", "lbp"))
        preprocessing = Preprocessing.restore(description.object("preprocessing"))
        if preprocessing.channels != {"hsv": 3, "lbp": 1}[codes]:
            raise parameters.invalid("codes", "lbp for 1 channel and hsv for 3")
        return cls(description.text("name"), preprocessing, codes, levels)

    @property
    def _bins(self) -> int:
        return {"hsv": 8 * 4 * 4, "lbp": 59}[self.codes]

    @property
    def dim(self) -> int:
        """Number of codes times grid cells."""
        return self._bins * sum(level * level for level in self.levels)

    def _embed(self, pixels: PixelBatch) -> Embeddings:
        codes = _hsv_codes(pixels) if self.codes == "hsv" else _lbp_codes(pixels)
        n, height, width = codes.shape
        image = np.arange(n)[:, None, None]
        finest = len(self.levels) - 1
        grids = []
        for depth, level in enumerate(self.levels):
            row = np.arange(height) * level // height
            column = np.arange(width) * level // width
            cell = (image * level + row[:, None]) * level + column
            size = n * level * level * self._bins
            counts = np.bincount((cell * self._bins + codes).ravel(), minlength=size)
            weight = 2.0 ** -(finest if depth == 0 else finest - depth + 1)
            grids.append(counts.reshape(n, -1) * (weight / (height * width)))
        return unit_rows(np.sqrt(np.concatenate(grids, axis=1)).astype(np.float32))


def _hsv_codes(pixels: PixelBatch) -> NDArray[np.int64]:
    """Return the cell of each pixel on the 8 x 4 x 4 grid of hue, saturation and value."""
    rgb = pixels.astype(np.float32) / np.float32(255)
    red, green, blue = (rgb[..., c] for c in ((0, 1, 2) if rgb.shape[3] == 3 else (0, 0, 0)))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    safe = np.where(spread > 0, spread, 1)
    hue = np.select(
        [spread == 0, value == red, value == green],
        [np.zeros_like(value), (green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    saturation = spread / np.where(value > 0, value, 1)
    levels = [(hue / 6, 8), (saturation, 4), (value, 4)]
    h, s, v = (np.minimum((x * bins).astype(np.int64), bins - 1) for x, bins in levels)
    return np.asarray((h * 4 + s) * 4 + v)


def _lbp_codes(pixels: PixelBatch) -> NDArray[np.int64]:
    """Return the uniform LBP code of each pixel, 0 to 58; the border is replicated."""
    gray = pixels.astype(np.int16).mean(axis=3) if pixels.shape[3] > 1 else pixels[..., 0]
    padded = np.pad(gray, ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, height, width = gray.shape
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    pattern = np.zeros(gray.shape, np.int64)
    for bit, (y, x) in enumerate(around):
        pattern |= (padded[:, y : y + height, x : x + width] >= gray).astype(np.int64) << bit
    return np.asarray(_UNIFORM[pattern])


def _uniform_patterns() -> NDArray[np.int64]:
    """Map each of 256 patterns to its code: 0 to 57 if it has at most two changes, else 58."""
    table = np.full(256, 58)
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    uniform = np.flatnonzero((bits != np.roll(bits, 1, axis=1)).sum(axis=1) <= 2)
    table[uniform] = np.arange(len(uniform))
    return table


_UNIFORM = _uniform_patterns()
