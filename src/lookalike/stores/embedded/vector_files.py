"""The vector files of a store: append-only, mapped into memory, shared by all who read them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.stores.embedded.database import unreadable
from lookalike.types import Embeddings

_FLOAT = np.dtype("<f4")


class VectorFiles:
    """The files of one generation of a store.

    Args:
        folder: of the store.
        generation: number in their names.
        dim: length of an embedding.
    """

    def __init__(self, folder: Path, generation: int, dim: int) -> None:
        self._dim = dim
        self._vectors = folder / f"vectors-{generation}.f32"

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self._vectors]

    def create(self) -> None:
        """Create the empty files.

        Raises:
            OSError: they cannot be written.
        """
        self._vectors.touch(exist_ok=False)

    def append(self, slots: int, embeddings: Embeddings) -> None:
        """Write embeddings ``(n, dim)`` behind the first ``slots``; they are on the disk then.

        Raises:
            OSError: they cannot be written.
        """
        with self._vectors.open("r+b") as file:
            file.seek(slots * self._dim * _FLOAT.itemsize)
            file.write(np.ascontiguousarray(embeddings, _FLOAT).tobytes())
            file.flush()
            getattr(os, "fdatasync", os.fsync)(file.fileno())

    def map(self, slots: int) -> Embeddings:
        """Map the vectors of the first slots, ``(slots, dim)``, read-only.

        Raises:
            ArtifactError: the file is missing or too short.
        """
        if not slots:
            return np.empty((0, self._dim), np.float32)
        try:
            mapped: NDArray[np.float32] = np.memmap(
                self._vectors, _FLOAT, "r", shape=(slots, self._dim)
            )
        except (OSError, ValueError) as error:
            raise unreadable(self._vectors, error) from error
        return mapped
