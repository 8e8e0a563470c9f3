"""Descriptions of encoders, and those that other packages register."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.documents import Fields
from lookalike.encoders.base import Encoder
from lookalike.errors import ArtifactError, LookalikeError, SettingError
from lookalike.sources.base import failure_reason
from lookalike.sources.sampling import SAMPLE_SIDE
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "lookalike.encoders"

FitEncoder = Callable[[str, Sequence[ImageArray]], Encoder]
"""Opens the encoder of a name, fitted to a sample of images."""

RestoreEncoder = Callable[[Fields, Mapping[str, bytes]], Encoder]
"""Restores an encoder from its description and files."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder of the registry.

    Args:
        name: in the registry.
        summary: a short noun phrase.
        fit: opens it for a collection, given its name and a sample of images, each ``(H, W)`` or
            ``(H, W, 3)`` uint8.
        baseline: included as a baseline in evaluations.
        sample: number of images that ``fit`` needs; 0 if it needs none, such as a network.
        side: pixels on the longer side of these images.
        license: of weights and code, an SPDX identifier.
        dim: length of an embedding, if it does not depend on the collection.
        input: size and channels of the input.
        source: of the weights.
        supports_text: whether it embeds texts, too, so that a text finds images.
        download: bytes of weights that opening it the first time fetches, about; None if it has
            none to fetch.
        weights: returns the files of its weights on this machine, none before they are fetched.
        kind: for an encoder of another package, what its ``describe()`` returns as ``kind``; begin
            it with the package's name, as in ``mypackage-network``.
        files: the names of all files that its ``files()`` may return, bare names.
        restore: restores a saved encoder of this kind from the fields of its ``describe()`` and its
            files; a classmethod of the encoder, usually.
    """

    name: str
    summary: str
    fit: FitEncoder
    baseline: bool = False
    sample: int = 200
    side: int = SAMPLE_SIDE
    license: str = "Apache-2.0"
    dim: int | None = None
    input: str = "fits the images"
    source: str = "built in"
    supports_text: bool = False
    download: int | None = None
    weights: Callable[[], Sequence[Path]] | None = None
    kind: str = ""
    files: tuple[str, ...] = ()
    restore: RestoreEncoder | None = None

    def weight_files(self) -> list[Path]:
        """Return the files of its weights on this machine, none before they are fetched."""
        return [] if self.weights is None else list(self.weights())


def external_specs() -> list[EncoderSpec]:
    """Return the encoders that other packages register.

    A package that cannot be imported is left out, with a warning in the log: it must not take the
    other encoders away.
    """
    from importlib.metadata import entry_points

    specs = []
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = entry_point.load()
        except Exception as error:  # noqa: BLE001 - whatever another package raises
            _warn(entry_point, failure_reason(error))
            continue
        if isinstance(spec, EncoderSpec):
            specs.append(spec)
        else:
            _warn(entry_point, f"it is {type(spec).__name__}, not an EncoderSpec")
    return specs


@cache
def _warn(entry_point: EntryPoint, reason: str) -> None:
    """Say once why an encoder is left out."""
    _log.warning("encoder %r (%s) is left out: %s", entry_point.name, entry_point.value, reason)


def external_kind(kind: str) -> EncoderSpec | None:
    """Return the spec of another package that restores encoders of a kind, None if there is none.

    Raises:
        SettingError: packages register different ways to restore it.
    """
    specs = [s for s in external_specs() if s.kind == kind and s.restore is not None]
    if len({(spec.files, spec.restore) for spec in specs}) > 1:
        raise SettingError(
            f"encoders of kind {kind!r} are registered by several packages in "
            f"{ENTRY_POINT_GROUP}; uninstall one of them"
        )
    return specs[0] if specs else None


def restore_external(spec: EncoderSpec, description: Fields, files: Mapping[str, bytes]) -> Encoder:
    """Restore an encoder of another package.

    Raises:
        ArtifactError: it cannot be restored, for whatever reason.
    """
    assert spec.restore is not None
    try:
        encoder = spec.restore(description, files)
    except LookalikeError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{description.place}: an encoder of kind {spec.kind!r} cannot be restored "
            f"({failure_reason(error)}); {description.hint}"
        ) from error
    if not isinstance(encoder, Encoder):
        raise ArtifactError(
            f"{description.place}: restoring an encoder of kind {spec.kind!r} returned "
            f"{type(encoder).__name__}, not an Encoder"
        )
    return encoder
