"""Encoders made of encoders: side by side, over several views of an image, projected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder, fingerprint
from lookalike.encoders.handcrafted import read_arrays, write_arrays
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError
from lookalike.images.foreground import FOREGROUND_MARGIN, find_foreground
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

Restore = Callable[[Mapping[str, Any], Mapping[str, bytes]], Encoder]
"""Makes an encoder again from its description and files."""


@dataclass(frozen=True)
class ConcatenatedEncoder:
    """Several encoders' embeddings side by side, each of unit length times its weight.

    The squared distance between two embeddings is the weighted mean of the parts' (weights
    squared), so a part with twice the weight counts four times.
    """

    kind: ClassVar[str] = "combined"
    normalized: ClassVar[bool] = True

    name: str
    parts: tuple[Encoder, ...]
    weights: tuple[float, ...]

    @property
    def dim(self) -> int:
        """The sum of the parts' dimensions."""
        return sum(part.dim for part in self.parts)

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        pairs = zip(self.parts, self.weights, strict=True)
        rows = [unit_rows(part.encode(images)) * np.float32(weight) for part, weight in pairs]
        return unit_rows(np.concatenate(rows, axis=1))

    def files(self) -> Mapping[str, bytes]:
        """Return the parts' files, each after the number of its part."""
        return _files_of(self.parts)

    def describe(self) -> Mapping[str, Any]:
        """Return weights and the parts' descriptions."""
        return {
            "kind": self.kind,
            "name": self.name,
            "weights": list(self.weights),
            "parts": [dict(part.describe()) for part in self.parts],
        }

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], files: Mapping[str, bytes], part: Restore
    ) -> ConcatenatedEncoder:
        """Make it again; ``part`` does so for each of its parts."""
        parts = _parts_of(description, files, part)
        return cls(description["name"], parts, tuple(description["weights"]))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes: the parts' fingerprints and the weights."""
        prints = [part.fingerprint for part in self.parts]
        return fingerprint({"kind": self.kind, "weights": self.weights, "parts": prints}, {})


@dataclass(frozen=True)
class MultiViewEncoder:
    """The sum of unit-length embeddings of several views of an image, brought to unit length.

    Each of ``parts`` sees the image, as do those of other input sizes; with ``mirror`` each of
    them its mirror image too; with ``foreground`` they see the part that holds its item, with a
    tenth of its longer side around it, where one is found (:mod:`lookalike.images.foreground`).
    """

    kind: ClassVar[str] = "averaged"
    normalized: ClassVar[bool] = True

    name: str
    parts: tuple[Encoder, ...]
    mirror: bool = False
    foreground: bool = False

    def __post_init__(self) -> None:
        if len({part.dim for part in self.parts}) != 1:
            raise InputError(
                f"encoder {self.name!r}: views of {[part.dim for part in self.parts]} dimensions "
                "cannot be averaged; they must be of one network with one pooling"
            )

    @property
    def dim(self) -> int:
        """That of its parts."""
        return self.parts[0].dim

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        seen = [_item_of(image) for image in images] if self.foreground else images
        rows = [unit_rows(part.encode(seen)) for part in self.parts]
        if self.mirror:
            mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in seen]
            rows += [unit_rows(part.encode(mirrored)) for part in self.parts]
        return unit_rows(np.sum(rows, axis=0, dtype=np.float32))

    def files(self) -> Mapping[str, bytes]:
        """Return the parts' files, each after the number of its part."""
        return _files_of(self.parts)

    def describe(self) -> Mapping[str, Any]:
        """Return the views and the parts' descriptions."""
        return {
            "kind": self.kind,
            "name": self.name,
            "mirror": self.mirror,
            "foreground": self.foreground,
            "parts": [dict(part.describe()) for part in self.parts],
        }

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], files: Mapping[str, bytes], part: Restore
    ) -> MultiViewEncoder:
        """Make it again; ``part`` does so for each of its parts."""
        parts = _parts_of(description, files, part)
        return cls(description["name"], parts, description["mirror"], description["foreground"])

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes: the parts' fingerprints and the views."""
        prints = [part.fingerprint for part in self.parts]
        views = {"mirror": self.mirror, "foreground": self.foreground}
        return fingerprint({"kind": self.kind, **views, "parts": prints}, {})


def _item_of(image: ImageArray) -> ImageArray:
    found = find_foreground(image)
    return found.box(FOREGROUND_MARGIN).crop(image) if found.detected else image


@dataclass(frozen=True)
class ProjectedEncoder:
    """An encoder's unit-length embeddings, centered, projected and brought to unit length.

    The projection is one that whitens (:meth:`LinearProjection.fit`) or one learned from views of the
    images (:func:`lookalike.training.adapt.adapt`); ``origin`` says how and from what it was
    learned, and is no part of the fingerprint.
    """

    kind: ClassVar[str] = "projected"
    normalized: ClassVar[bool] = True

    name: str
    part: Encoder
    projection: LinearProjection
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Columns of the projection."""
        return int(self.projection.projection.shape[1])

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        return self.project(unit_rows(self.part.encode(images)))

    def project(self, rows: NDArray[np.float32]) -> Embeddings:
        """Return ``(n, dim)`` for unit-length embeddings of its part."""
        centered = np.asarray(rows - self.projection.mean, np.float32)
        return unit_rows(np.asarray(centered @ self.projection.projection, np.float32))

    def files(self) -> Mapping[str, bytes]:
        """Return the part's files and the projection."""
        return {**self._arrays(), **_files_of((self.part,))}

    def describe(self) -> Mapping[str, Any]:
        """Return how it was learned and the part's description."""
        part = dict(self.part.describe())
        return {"kind": self.kind, "name": self.name, "origin": self.origin, "parts": [part]}

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], files: Mapping[str, bytes], part: Restore
    ) -> ProjectedEncoder:
        """Make it again; ``part`` does so for the encoder that it projects."""
        arrays = read_arrays(description, files)
        projection = LinearProjection(arrays["mean"], arrays["projection"])
        (only,) = _parts_of(description, files, part)
        return cls(description["name"], only, projection, description["origin"])

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes: the part's fingerprint and the projection."""
        fields = {"kind": self.kind, "part": self.part.fingerprint}
        return fingerprint(fields, self._arrays())

    def _arrays(self) -> Mapping[str, bytes]:
        learned = self.projection
        return write_arrays({"mean": learned.mean, "projection": learned.projection})


def _files_of(parts: Sequence[Encoder]) -> Mapping[str, bytes]:
    return {
        f"{number}-{name}": data
        for number, part in enumerate(parts)
        for name, data in part.files().items()
    }


def _parts_of(
    description: Mapping[str, Any], files: Mapping[str, bytes], part: Restore
) -> tuple[Encoder, ...]:
    return tuple(
        part(
            described,
            {
                name.removeprefix(f"{number}-"): data
                for name, data in files.items()
                if name.startswith(f"{number}-")
            },
        )
        for number, described in enumerate(description["parts"])
    )


def combine(
    encoders: Sequence[Encoder],
    weights: Sequence[float] | None = None,
    *,
    name: str | None = None,
) -> ConcatenatedEncoder:
    """Put encoders side by side.

    Args:
        encoders: at least two.
        weights: above 0, one for each encoder; all alike unless given.
        name: the encoders' names joined by ``+`` unless given.

    Raises:
        InputError: fewer than two encoders, or weights that do not fit.
    """
    chosen = tuple(float(w) for w in (weights if weights is not None else [1.0] * len(encoders)))
    if len(encoders) < 2:
        raise InputError(f"combine takes at least two encoders; there are {len(encoders)}")
    if len(chosen) != len(encoders) or not all(0 < w < np.inf for w in chosen):
        raise InputError(
            f"combine takes one weight above 0 for each of {len(encoders)} encoders; got {chosen}"
        )
    return ConcatenatedEncoder(name or "+".join(e.name for e in encoders), tuple(encoders), chosen)
