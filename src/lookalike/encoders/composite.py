"""Encoders built from other encoders: concatenated, averaged over views, projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.documents import Fields
from lookalike.encoders.base import Encoder, fingerprint
from lookalike.encoders.specs import RestoreEncoder
from lookalike.encoders.weights import read_arrays, write_arrays
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError
from lookalike.images.foreground import FOREGROUND_MARGIN, find_foreground
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows


@dataclass(frozen=True, repr=False)
class ConcatenatedEncoder(Encoder):
    """Concatenates embeddings of several encoders, each of unit length times its weight.

    The squared distance between two embeddings is the mean of the encoders' squared distances,
    weighted by the squared weights: twice the weight counts four times.
    """

    kind: ClassVar[str] = "combined"
    normalized: ClassVar[bool] = True

    name: str
    encoders: tuple[Encoder, ...]
    weights: tuple[float, ...]

    @property
    def dim(self) -> int:
        """Sum of the encoders' dimensions."""
        return sum(encoder.dim for encoder in self.encoders)

    @property
    def is_available(self) -> bool:
        """Whether all its parts can encode."""
        return all(encoder.is_available for encoder in self.encoders)

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        rows = [
            unit_rows(encoder.encode_batch(images)) * np.float32(weight)
            for encoder, weight in zip(self.encoders, self.weights, strict=True)
        ]
        return unit_rows(np.concatenate(rows, axis=1))

    @property
    def supports_text(self) -> bool:
        """Never: the parts embed a text in different spaces, or not at all."""
        return False

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        """Refuse; the message names the parts that embed texts by themselves.

        Raises:
            InputError: always.
        """
        del texts
        return _refuse_texts(self, self.encoders, "joins several encoders")

    def files(self) -> Mapping[str, bytes]:
        """Return the encoders' files, each prefixed with its encoder's number."""
        return _numbered_files(self.encoders)

    def describe(self) -> Mapping[str, Any]:
        """Return weights and the encoders' descriptions."""
        return {
            "kind": self.kind,
            "name": self.name,
            "weights": list(self.weights),
            "parts": [dict(encoder.describe()) for encoder in self.encoders],
        }

    @classmethod
    def restore(
        cls, description: Fields, files: Mapping[str, bytes], restore: RestoreEncoder
    ) -> ConcatenatedEncoder:
        """Restore from :meth:`describe` and :meth:`files`; ``restore`` does so for each encoder."""
        encoders = _restore_encoders(description, files, restore)
        weights = description.numbers("weights", 1e-30, 1e30)
        if len(weights) != len(encoders):
            raise description.invalid("weights", f"a list of {len(encoders)} numbers")
        return cls(description.text("name"), encoders, weights)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the encoders' fingerprints and the weights."""
        prints = [encoder.fingerprint for encoder in self.encoders]
        return fingerprint({"kind": self.kind, "weights": self.weights, "parts": prints}, {})


@dataclass(frozen=True, repr=False)
class MultiViewEncoder(Encoder):
    """Test-time augmentation: averages unit-length embeddings of several views of an image.

    ``encoders`` are one network at several input sizes. ``mirror`` adds the mirror image for each
    of them; ``foreground`` crops images to the main object with a margin of a tenth of its longer
    side, where one is detected (:mod:`lookalike.images.foreground`). Embeddings have unit length.
    """

    kind: ClassVar[str] = "averaged"
    normalized: ClassVar[bool] = True

    name: str
    encoders: tuple[Encoder, ...]
    mirror: bool = False
    foreground: bool = False

    def __post_init__(self) -> None:
        dims = [encoder.dim for encoder in self.encoders]
        if len(set(dims)) != 1:
            raise InputError(
                f"encoder {self.name!r}: cannot average embeddings of {dims} dimensions; use one "
                "network with one pooling"
            )

    @property
    def dim(self) -> int:
        """Dimensions of each encoder."""
        return self.encoders[0].dim

    @property
    def is_available(self) -> bool:
        """Whether all its parts can encode."""
        return all(encoder.is_available for encoder in self.encoders)

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        crops = [_crop_to_foreground(image) for image in images] if self.foreground else images
        rows = [unit_rows(encoder.encode_batch(crops)) for encoder in self.encoders]
        if self.mirror:
            mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in crops]
            rows += [unit_rows(encoder.encode_batch(mirrored)) for encoder in self.encoders]
        return unit_rows(np.sum(rows, axis=0, dtype=np.float32))

    @property
    def supports_text(self) -> bool:
        """Whether the network embeds texts; views are of images only."""
        return self.encoders[0].supports_text

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` float32 of unit length for n texts.

        Raises:
            InputError: the network embeds images only.
        """
        return unit_rows(self.encoders[0].encode_text_batch(texts))

    def files(self) -> Mapping[str, bytes]:
        """Return the encoders' files, each prefixed with its encoder's number."""
        return _numbered_files(self.encoders)

    def describe(self) -> Mapping[str, Any]:
        """Return the kinds of views and the encoders' descriptions."""
        return {
            "kind": self.kind,
            "name": self.name,
            "mirror": self.mirror,
            "foreground": self.foreground,
            "parts": [dict(encoder.describe()) for encoder in self.encoders],
        }

    @classmethod
    def restore(
        cls, description: Fields, files: Mapping[str, bytes], restore: RestoreEncoder
    ) -> MultiViewEncoder:
        """Restore from :meth:`describe` and :meth:`files`; ``restore`` does so for each encoder."""
        encoders = _restore_encoders(description, files, restore)
        if len({encoder.dim for encoder in encoders}) != 1:
            raise description.invalid("parts", "encoders of one length")
        mirror, foreground = description.flag("mirror"), description.flag("foreground")
        return cls(description.text("name"), encoders, mirror, foreground)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the encoders' fingerprints and the kinds of views."""
        prints = [encoder.fingerprint for encoder in self.encoders]
        views = {"mirror": self.mirror, "foreground": self.foreground}
        return fingerprint({"kind": self.kind, **views, "parts": prints}, {})


def _crop_to_foreground(image: ImageArray) -> ImageArray:
    foreground = find_foreground(image)
    return foreground.box(FOREGROUND_MARGIN).crop(image) if foreground.detected else image


@dataclass(frozen=True, repr=False)
class ProjectedEncoder(Encoder):
    """Projects an encoder's unit-length embeddings linearly and scales them to unit length.

    The projection is PCA whitening (:meth:`LinearProjection.fit_shrunk`) or was adapted to a
    collection (:func:`lookalike.training.adapt.adapt`). ``origin`` records how and from what it
    was learned; it does not change the fingerprint.
    """

    kind: ClassVar[str] = "projected"
    normalized: ClassVar[bool] = True

    name: str
    encoder: Encoder
    projection: LinearProjection
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Output dimensions of the projection."""
        return int(self.projection.projection.shape[1])

    @property
    def is_available(self) -> bool:
        """Whether all its parts can encode."""
        return self.encoder.is_available

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8."""
        return self.project(unit_rows(self.encoder.encode_batch(images)))

    @property
    def supports_text(self) -> bool:
        """Never: the projection is learned from embeddings of images."""
        return False

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        """Refuse; the message names the projected encoder if it embeds texts by itself.

        Raises:
            InputError: always.
        """
        del texts
        return _refuse_texts(self, (self.encoder,), "projects embeddings of images")

    def project(self, rows: NDArray[np.float32]) -> Embeddings:
        """Return ``(n, dim)`` float32 for unit-length embeddings of the wrapped encoder."""
        centered = np.asarray(rows - self.projection.mean, np.float32)
        return unit_rows(np.asarray(centered @ self.projection.projection, np.float32))

    def files(self) -> Mapping[str, bytes]:
        """Return the wrapped encoder's files and the projection."""
        return {**self._arrays(), **_numbered_files((self.encoder,))}

    def describe(self) -> Mapping[str, Any]:
        """Return the projection's origin and the wrapped encoder's description."""
        part = dict(self.encoder.describe())
        return {"kind": self.kind, "name": self.name, "origin": self.origin, "parts": [part]}

    @classmethod
    def restore(
        cls, description: Fields, files: Mapping[str, bytes], restore: RestoreEncoder
    ) -> ProjectedEncoder:
        """Restore from :meth:`describe` and :meth:`files`; ``restore`` does so for the encoder."""
        encoder, *others = _restore_encoders(description, files, restore)
        if others:
            raise description.invalid("parts", "a list of one encoder")
        dim = encoder.dim
        arrays = read_arrays(description, files, {"mean": (dim,), "projection": (dim, None)})
        projection = LinearProjection(arrays["mean"], arrays["projection"])
        return cls(description.text("name"), encoder, projection, description.mapping("origin"))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the wrapped encoder's fingerprint and the projection."""
        fields = {"kind": self.kind, "part": self.encoder.fingerprint}
        return fingerprint(fields, self._arrays())

    def _arrays(self) -> Mapping[str, bytes]:
        return write_arrays(
            {"mean": self.projection.mean, "projection": self.projection.projection}
        )


def _refuse_texts(encoder: Encoder, parts: Sequence[Encoder], reason: str) -> Embeddings:
    """Raise the error for text queries; it says more if a part embeds texts by itself."""
    names = [part.name for part in parts if part.supports_text]
    if not names:
        return Encoder.encode_text_batch(encoder, ())
    raise InputError(
        f"encoder {encoder.name!r} {reason}, so that it embeds no texts; for text queries index "
        f"with {' or '.join(names)} alone: lookalike index GALLERY SOURCE --encoder {names[0]}"
    )


def _numbered_files(encoders: Sequence[Encoder]) -> Mapping[str, bytes]:
    return {
        f"{number}-{name}": data
        for number, encoder in enumerate(encoders)
        for name, data in encoder.files().items()
    }


def _restore_encoders(
    description: Fields, files: Mapping[str, bytes], restore: RestoreEncoder
) -> tuple[Encoder, ...]:
    return tuple(
        restore(
            part,
            {
                name.removeprefix(f"{number}-"): data
                for name, data in files.items()
                if name.startswith(f"{number}-")
            },
        )
        for number, part in enumerate(description_parts(description))
    )


def description_parts(description: Fields) -> list[Fields]:
    """Return the descriptions of an encoder's parts, at least one.

    Raises:
        ArtifactError: there is none.
    """
    parts = description.objects("parts")
    if not parts:
        raise description.invalid("parts", "a list of encoders")
    return parts


@checked
def combine(
    encoders: Sequence[Encoder],
    weights: Sequence[float] | None = None,
    *,
    name: str | None = None,
) -> ConcatenatedEncoder:
    """Concatenate encoders.

    Args:
        encoders: at least two.
        weights: one above 0 for each encoder; default 1 for each.
        name: default the encoders' names joined by ``+``.

    Raises:
        InputError: fewer than two encoders, or weights that do not fit.
    """
    if not isinstance(encoders, Sequence) or not all(isinstance(e, Encoder) for e in encoders):
        raise InputError("{encoders} must be a list of encoders", encoders=None)
    factors = tuple(float(w) for w in (weights if weights is not None else [1.0] * len(encoders)))
    if len(encoders) < 2:
        raise InputError(f"combine needs at least 2 encoders, got {len(encoders)}")
    if len(factors) != len(encoders) or not all(0 < w < np.inf for w in factors):
        raise InputError(
            f"combine needs one weight above 0 for each of {len(encoders)} encoders, got {factors}"
        )
    return ConcatenatedEncoder(
        name or "+".join(encoder.name for encoder in encoders), tuple(encoders), factors
    )
