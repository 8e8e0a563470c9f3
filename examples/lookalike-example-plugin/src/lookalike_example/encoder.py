"""An encoder: the average color of each cell of a grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.documents import Fields
from lookalike.encoders import Encoder, EncoderSpec, Preprocessing
from lookalike.types import Embeddings, ImageArray

KIND = "example-color-grid"
"""What saved encoders of this class are recognized by; it begins with the package's name."""

MAX_CELLS = 32


class ColorGrid(Encoder):
    """Average red, green and blue, from 0 to 1, of ``cells`` x ``cells`` parts of an image."""

    name: str
    dim: int
    fingerprint: str
    normalized = False

    def __init__(self, name: str = KIND, cells: int = 4) -> None:
        self.name = name
        self.cells = cells
        self.dim = cells * cells * 3
        self._preprocessing = Preprocessing(8 * cells, 8 * cells, 3)
        identity = json.dumps([KIND, cells, self._preprocessing.as_dict()], sort_keys=True)
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images."""
        pixels = self._preprocessing.apply(images)
        n, side = len(pixels), 8
        blocks = pixels.reshape(n, self.cells, side, self.cells, side, 3)
        means = blocks.mean(axis=(2, 4), dtype=np.float64) / 255
        return np.asarray(means.reshape(n, self.dim), np.float32)

    def files(self) -> Mapping[str, bytes]:
        """Return no files: nothing is learned."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """Return what :meth:`restore` needs."""
        return {"kind": KIND, "name": self.name, "cells": self.cells}

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore an encoder from :meth:`describe`; wrong fields raise an ArtifactError."""
        del files
        return cls(description.text("name"), description.integer("cells", 1, MAX_CELLS))


def _fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
    del sample  # of which it needs none
    return ColorGrid(name)


SPEC = EncoderSpec(
    name=KIND,
    summary="average color of a 4x4 grid",
    fit=_fit,
    sample=0,
    dim=48,
    source="lookalike-example-plugin",
    kind=KIND,
    restore=ColorGrid.restore,
)
