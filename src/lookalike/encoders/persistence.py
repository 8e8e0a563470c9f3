"""Saving encoders as folders, and loading them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.artifacts import new_folder, read_manifest, write_atomically
from lookalike.encoders.base import MANIFEST, Encoder, encoder_files
from lookalike.encoders.composite import ConcatenatedEncoder, MultiViewEncoder, ProjectedEncoder
from lookalike.encoders.handcrafted import HandcraftedEncoder, Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.errors import ArtifactError, UnknownNameError

_HANDCRAFTED: Mapping[str, type[HandcraftedEncoder]] = {
    c.kind: c for c in (Pixels, Pca, Hog, FineHog, Histogram)
}

_COMPOSITE: Mapping[
    str, type[MultiViewEncoder] | type[ConcatenatedEncoder] | type[ProjectedEncoder]
] = {c.kind: c for c in (MultiViewEncoder, ConcatenatedEncoder, ProjectedEncoder)}


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write an encoder as a new folder: its files first, ``encoder.json`` last.

    Raises:
        ArtifactError: the folder exists and is not empty.
        StorageError: it could not be written.
    """
    with new_folder(Path(folder)) as partial:
        write_encoder(encoder, partial)


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write an encoder's files into an existing folder, ``encoder.json`` last.

    Raises:
        StorageError: a file could not be written.
    """
    for name, data in encoder_files(encoder).items():
        write_atomically(folder / name, data)


def load_encoder(folder: str | Path) -> Encoder:
    """Load an encoder from its folder.

    Raises:
        ArtifactError: not an encoder folder, or its weights are missing, broken or changed.
        FormatVersionError: a newer lookalike wrote it.
    """
    folder = Path(folder)
    description = read_manifest(folder / MANIFEST, what="an encoder")
    try:
        files = {name: (folder / name).read_bytes() for name in description["files"]}
        encoder = _restore(description, files)
        expected = description["fingerprint"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / MANIFEST}: field {error} is missing or invalid") from error
    except OSError as error:
        raise ArtifactError(
            f"{folder}: its file {Path(error.filename).name} cannot be read ({error.strerror}); "
            "train or copy the encoder again"
        ) from error
    if encoder.fingerprint != expected:
        raise ArtifactError(
            f"{folder}: its files have changed since it was saved (fingerprint "
            f"{encoder.fingerprint[:12]}, expected {expected[:12]}); train or copy it again"
        )
    return encoder


def _restore(description: Mapping[str, Any], files: Mapping[str, bytes]) -> Encoder:
    kind = description["kind"]
    if kind in _HANDCRAFTED:
        return _HANDCRAFTED[kind].restore(description, files)
    if kind in _COMPOSITE:
        return _COMPOSITE[kind].restore(description, files, _restore)
    from lookalike.encoders.image_text import ImageTextEncoder
    from lookalike.encoders.onnx import NetworkEncoder

    if kind == ImageTextEncoder.kind:
        return ImageTextEncoder.restore(description, files)
    if kind != NetworkEncoder.kind:
        kinds = [*_HANDCRAFTED, *_COMPOSITE, NetworkEncoder.kind, ImageTextEncoder.kind]
        raise UnknownNameError("kind of encoder", kind, kinds)
    return NetworkEncoder.restore(description, files)
