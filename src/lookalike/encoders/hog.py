"""Histograms of oriented gradients (HOG): the standard layout and a finer, signed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.documents import Fields
from lookalike.encoders.base import MAX_SIDE, Preprocessing
from lookalike.encoders.handcrafted import HandcraftedEncoder, PixelBatch
from lookalike.encoders.weights import read_arrays, write_arrays
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

_MAX_ORIENTATIONS = 180


@dataclass(frozen=True, repr=False)
class Hog(HandcraftedEncoder):
    """Histograms of oriented gradients over overlapping cells (Dalal and Triggs 2005).

    Gradients are [-1, 0, 1] differences, zero at the border; each pixel uses the channel with the
    largest gradient (their section 6.1). Magnitudes are split linearly between the two nearest of
    ``orientations`` unsigned bins and summed over ``cell`` x ``cell`` pixels at every ``stride``;
    the square root of the whole vector is scaled to unit length.
    """

    kind: ClassVar[str] = "hog"

    orientations: int = 9
    cell: int = 8
    stride: int = 4

    def __post_init__(self) -> None:
        p = self.preprocessing
        if self.cell % self.stride or min(p.height, p.width) < self.cell:
            raise InputError(
                f"encoder {self.name!r}: cells of {self.cell} pixels at stride {self.stride} do "
                f"not fit images of {p.width}x{p.height}: the stride must divide the "
                "cell, and a cell must fit the image"
            )

    def parameters(self) -> dict[str, Any]:
        """Return orientations, cell size and stride."""
        return {"orientations": self.orientations, "cell": self.cell, "stride": self.stride}

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`."""
        del files
        parameters = description.object("parameters")
        parameters.only(("orientations", "cell", "stride"))
        return cls(
            description.text("name"),
            Preprocessing.restore(description.object("preprocessing")),
            parameters.integer("orientations", 1, _MAX_ORIENTATIONS),
            parameters.integer("cell", 1, MAX_SIDE),
            parameters.integer("stride", 1, MAX_SIDE),
        )

    @property
    def dim(self) -> int:
        """Number of cells times orientations."""
        overlap = self.cell // self.stride - 1
        p = self.preprocessing
        rows, columns = p.height // self.stride - overlap, p.width // self.stride - overlap
        return rows * columns * self.orientations

    def _embed(self, pixels: PixelBatch) -> Embeddings:
        values = pixels.astype(np.float32)
        gx, gy = np.zeros_like(values), np.zeros_like(values)
        gx[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
        gy[:, 1:-1] = values[:, 2:] - values[:, :-2]
        layout = _Cells(np.pi, self.orientations, self.cell // self.stride, self.stride)
        cells = layout.histograms(*_strongest(gx, gy))
        return unit_rows(np.sqrt(cells))


@dataclass(frozen=True, repr=False)
class FineHog(HandcraftedEncoder):
    """Fine HOG with signed orientations and half-whitening: the strongest handcrafted baseline.

    Differs from :class:`Hog` in three ways. It has 16 bins over the full circle, so that light on
    dark differs from dark on light. Cells are ``2 * stride`` pixels at every ``stride`` (2 for
    images of 28 pixels, 4 for 64) and extend half a stride beyond the border. The image is padded
    with the mean color of its corners, so that an object cut off at the border has an edge there
    and a plain background has none.

    The square root of the vector is scaled to unit length, as in RootSIFT (Arandjelović and
    Zisserman 2012, section 3), projected to ``dim`` half-whitened principal components
    (:meth:`lookalike.encoders.whitening.LinearProjection.fit`) and scaled to unit length again.
    ``mean`` is ``(d,)`` and ``projection`` ``(d, dim)`` float32; without columns the embedding is
    not projected.
    """

    kind: ClassVar[str] = "hog-fine"
    bins: ClassVar[int] = 16

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @classmethod
    def fit(
        cls, name: str, preprocessing: Preprocessing, images: Sequence[ImageArray], dim: int = 128
    ) -> Self:
        """Fit the projection to a sample; with fewer than ``2 * dim`` images there is none."""
        plain = cls(name, preprocessing, np.empty(0, np.float32), np.empty((0, 0), np.float32))
        if len(images) < 2 * dim:
            return plain
        fitted = LinearProjection.fit(plain.encode_batch(images), dim)
        return plain if fitted is None else cls(name, preprocessing, fitted.mean, fitted.projection)

    @property
    def stride(self) -> int:
        """Distance between cells in pixels: even, about a fourteenth of the image."""
        p = self.preprocessing
        return max(2, 2 * round(min(p.height, p.width) / 28))

    @property
    def dim(self) -> int:
        """Number of components, or of cells times bins without a projection."""
        return self.projection.shape[1] or self._cells_dim

    @cached_property
    def _cells_dim(self) -> int:
        p, side = self.preprocessing, self.stride
        return ((p.height + side) // side - 1) * ((p.width + side) // side - 1) * self.bins

    def _embed(self, pixels: PixelBatch) -> Embeddings:
        values = pixels.astype(np.float32)
        corners = values[:, :: values.shape[1] - 1, :: values.shape[2] - 1]
        padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
        background = corners.mean(axis=(1, 2))[:, None]
        padded[:, 0], padded[:, -1] = background, background
        padded[:, :, 0], padded[:, :, -1] = background, background
        gx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        gy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
        half = self.stride // 2
        margin = ((0, 0), (half, half), (half, half))
        x, y = (np.pad(g, margin) for g in _strongest(gx, gy))
        layout = _Cells(2 * np.pi, self.bins, 2, self.stride)
        cells = unit_rows(np.sqrt(layout.histograms(x, y)))
        if not self.projection.size:
            return cells
        return unit_rows(np.asarray((cells - self.mean) @ self.projection, np.float32))

    def files(self) -> Mapping[str, bytes]:
        """Return mean and projection as safetensors."""
        return write_arrays({"mean": self.mean, "projection": self.projection})

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`."""
        name = description.text("name")
        preprocessing = Preprocessing.restore(description.object("preprocessing"))
        arrays = read_arrays(description, files, {"mean": (None,), "projection": (None, None)})
        encoder = cls(name, preprocessing, arrays["mean"], arrays["projection"])
        if encoder.projection.size:
            size = encoder._cells_dim
            read_arrays(description, files, {"mean": (size,), "projection": (size, None)})
        return encoder


def _strongest(
    gx: NDArray[np.float32], gy: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return each pixel's gradient ``(n, H, W)`` in the channel where it is largest.

    Squares of gradients of 8-bit pixels are exact in float32, so ties break the same everywhere.
    """
    if gx.shape[3] == 1:
        return gx[..., 0], gy[..., 0]
    best = np.argmax(gx * gx + gy * gy, axis=3)[..., None]
    return np.take_along_axis(gx, best, 3)[..., 0], np.take_along_axis(gy, best, 3)[..., 0]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Layout of orientation histograms.

    ``period`` is the angle after which orientations repeat: pi (unsigned) or 2 pi (signed). A cell
    is ``blocks`` x ``blocks`` blocks of ``stride`` x ``stride`` pixels; one cell starts at each.
    """

    period: float
    bins: int
    blocks: int
    stride: int

    def histograms(self, gx: NDArray[np.float32], gy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(n, rows * columns * bins)``: gradient magnitude by orientation and cell."""
        magnitude = np.sqrt(gx * gx + gy * gy)
        position = np.arctan2(gy, gx) * np.float32(self.bins / self.period)
        low = np.floor(position)
        share = position - low
        low_bin = low.astype(np.int64) % self.bins
        high_bin = (low_bin + 1) % self.bins
        sums = _block_sums(low_bin, magnitude * (1 - share), self.stride, self.bins)
        sums += _block_sums(high_bin, magnitude * share, self.stride, self.bins)
        rows, columns = sums.shape[1] - self.blocks + 1, sums.shape[2] - self.blocks + 1
        offsets = range(self.blocks)
        cells = sum(sums[:, y : y + rows, x : x + columns] for y in offsets for x in offsets)
        return np.asarray(cells, np.float32).reshape(len(gx), -1)


def _block_sums(
    bins: NDArray[np.int64], weights: NDArray[np.float32], side: int, count: int
) -> NDArray[np.float64]:
    """Sum ``weights`` ``(n, H, W)`` by bin over blocks; return ``(n, rows, columns, count)``."""
    n, height, width = bins.shape
    rows, columns = height // side, width // side
    row = (np.arange(rows * side) // side)[:, None]
    column = np.arange(columns * side) // side
    block = (np.arange(n)[:, None, None] * rows + row) * columns + column
    inside = np.s_[:, : rows * side, : columns * side]
    index = block * count + bins[inside]
    sums = np.bincount(index.ravel(), weights[inside].ravel(), minlength=n * rows * columns * count)
    return np.asarray(sums.reshape(n, rows, columns, count), np.float64)
