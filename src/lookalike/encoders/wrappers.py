"""Encoders made of encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder, fingerprint, unit_rows
from lookalike.errors import InputError
from lookalike.types import Embeddings, ImageArray


@dataclass(frozen=True)
class Combined:
    """Several encoders' embeddings side by side, each of unit length times its weight.

    The squared distance between two embeddings is the weighted mean of the parts' (weights
    squared), so a part with twice the weight counts four times.
    """

    kind: ClassVar[str] = "combined"
    normalised: ClassVar[bool] = True

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
        return {
            f"{number}-{name}": data
            for number, part in enumerate(self.parts)
            for name, data in part.files().items()
        }

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
        cls,
        description: Mapping[str, Any],
        files: Mapping[str, bytes],
        part: Callable[[Mapping[str, Any], Mapping[str, bytes]], Encoder],
    ) -> Combined:
        """Make it again; ``part`` does so for each of its parts."""
        parts = [
            part(
                described,
                {
                    name.removeprefix(f"{number}-"): data
                    for name, data in files.items()
                    if name.startswith(f"{number}-")
                },
            )
            for number, described in enumerate(description["parts"])
        ]
        return cls(description["name"], tuple(parts), tuple(description["weights"]))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes: the parts' fingerprints and the weights."""
        prints = [part.fingerprint for part in self.parts]
        return fingerprint({"kind": self.kind, "weights": self.weights, "parts": prints}, {})


def combine(
    encoders: Sequence[Encoder],
    weights: Sequence[float] | None = None,
    *,
    name: str | None = None,
) -> Combined:
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
    return Combined(name or "+".join(e.name for e in encoders), tuple(encoders), chosen)
