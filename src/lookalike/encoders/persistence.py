"""Saving encoders as folders, and loading them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.artifacts import manifest_bytes, new_folder, read_manifest, write_atomically
from lookalike.documents import Fields
from lookalike.encoders.base import MANIFEST, MAX_DIM, Encoder
from lookalike.encoders.composite import (
    ConcatenatedEncoder,
    MultiViewEncoder,
    ProjectedEncoder,
    description_parts,
)
from lookalike.encoders.external import ExternalEncoder
from lookalike.encoders.handcrafted import HandcraftedEncoder, Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.encoders.specs import (
    ENTRY_POINT_GROUP,
    EncoderSpec,
    external_kind,
    restore_external,
)
from lookalike.encoders.weights import WEIGHTS_FILE
from lookalike.errors import ArtifactError, InputError
from lookalike.files import as_path, bare_name, read_regular

_HANDCRAFTED: Mapping[str, type[HandcraftedEncoder]] = {
    c.kind: c for c in (Pixels, Pca, Hog, FineHog, Histogram)
}

_COMPOSITE: Mapping[
    str, type[MultiViewEncoder] | type[ConcatenatedEncoder] | type[ProjectedEncoder]
] = {c.kind: c for c in (MultiViewEncoder, ConcatenatedEncoder, ProjectedEncoder)}

_FILES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_HANDCRAFTED, ()),
    **{c.kind: (WEIGHTS_FILE,) for c in (Pca, FineHog, ProjectedEncoder)},
    **{c.kind: () for c in (MultiViewEncoder, ConcatenatedEncoder)},
    "network": ("model.onnx", "decoder.onnx", WEIGHTS_FILE),
    ExternalEncoder.kind: (),
    "pair": ("model.onnx", "text.onnx", "tokenizer.json"),
}
"""Names of the files that an encoder may have, by its kind; those of its parts are numbered."""

_LARGEST_FILE = 2_200_000_000
"""Bytes of a file of an encoder, at most: ONNX models of 2 GiB or more cannot be serialized."""

MAX_PARTS = 64
"""Encoders that one may consist of, parts of parts included."""


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write an encoder as a new folder: its files first, ``encoder.json`` last.

    Raises:
        InputError: no encoder, no path, or an encoder that nobody could restore.
        ArtifactError: the folder exists and is not empty.
        StorageError: it could not be written.
    """
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{{encoder}} must be an Encoder, not {type(encoder).__name__}", encoder=None
        )
    with new_folder(as_path(folder, "folder")) as partial:
        write_encoder(encoder, partial)


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write an encoder's files into an existing folder, ``encoder.json`` last.

    Raises:
        ArtifactError: the name of a file leads elsewhere.
        StorageError: a file could not be written.
    """
    for name, data in encoder_files(encoder).items():
        write_atomically(folder / bare_name(name, f"encoder {encoder.name!r}"), data)


def encoder_files(encoder: Encoder) -> dict[str, bytes]:
    """Return the files of an encoder's folder by name, ``encoder.json`` last.

    Raises:
        InputError: nobody could restore it: its kind is not known, or it has other files than
            encoders of its kind have.
    """
    files = dict(encoder.files())
    fields = {
        **encoder.describe(),
        "dim": encoder.dim,
        "normalized": encoder.normalized,
        "files": sorted(files),
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        "fingerprint": encoder.fingerprint,
    }
    try:
        file_hashes(Fields(fields, f"encoder {encoder.name!r}", _UNREGISTERED))
        return {**files, MANIFEST: manifest_bytes(fields)}
    except (ArtifactError, TypeError, ValueError) as error:
        raise InputError(f"the encoder cannot be saved: {error}") from error


_UNREGISTERED = (
    "register it as lookalike.encoders.registry describes, or wrap it by "
    "lookalike.encoders.from_callable"
)


def load_encoder(folder: str | Path) -> Encoder:
    """Load an encoder from its folder.

    Only the files that an encoder of its kind has are read, and only from this folder, so that an
    encoder of somebody else reaches no other files; nor does copying it.

    Raises:
        InputError: ``folder`` is no path.
        ArtifactError: not an encoder folder, or its description or a file is missing, broken,
            changed or not one that belongs there.
        FormatVersionError: a newer lookalike wrote it.
    """
    folder = as_path(folder, "folder")
    description = read_description(folder)
    files = read_encoder_files(folder, description)
    try:
        encoder = _restore(description, files)
        dim = encoder.dim
    except InputError as error:
        raise ArtifactError(f"{folder}: {error}") from error
    if not 1 <= dim <= MAX_DIM:
        raise ArtifactError(
            f"{folder}: its embeddings would have {dim:,} numbers; expected 1 to {MAX_DIM:,}"
        )
    expected = description.text("fingerprint")
    if encoder.fingerprint != expected:
        raise ArtifactError(
            f"{folder}: its files have changed since it was saved (fingerprint "
            f"{encoder.fingerprint[:12]}, expected {expected[:12]!r}); {description.hint}"
        )
    if description.integer("dim", 1, MAX_DIM, dim) != dim:
        raise description.invalid("dim", f"{dim}, as its files compute")
    return encoder


def read_description(folder: Path) -> Fields:
    """Return the fields of ``encoder.json``.

    Raises:
        ArtifactError: there is none, or it is broken.
        FormatVersionError: a newer lookalike wrote it.
    """
    return describe_manifest(read_manifest(folder / MANIFEST, what="an encoder"), folder / MANIFEST)


def describe_manifest(manifest: Mapping[str, Any], place: str | Path) -> Fields:
    """Return the fields of a manifest that was read from ``place``."""
    return Fields(manifest, str(place), "train or copy the encoder again")


def read_encoder_files(folder: Path, description: Fields) -> dict[str, bytes]:
    """Return the files of an encoder by name, each as it was when it was saved.

    Raises:
        ArtifactError: one is missing, a link, changed, or does not belong to such an encoder.
    """
    hashes = file_hashes(description)
    files = {}
    for name, expected in hashes.items():
        try:
            files[name] = read_regular(folder / name, limit=_LARGEST_FILE, follow=False)
        except OSError as error:
            raise ArtifactError(
                f"{folder}: its file {name} cannot be read ({error.strerror or error}); "
                f"{description.hint}"
            ) from error
        if expected and hashlib.sha256(files[name]).hexdigest() != expected:
            raise ArtifactError(
                f"{folder}: its file {name} has changed since it was saved; {description.hint}"
            )
    return files


def file_hashes(description: Fields) -> dict[str, str]:
    """Return the SHA-256 of an encoder's files by name; empty texts before they were recorded.

    Raises:
        ArtifactError: the description names a file that such an encoder does not have.
    """
    allowed = _file_names(description, [MAX_PARTS])
    names = [
        bare_name(name, description.place, allowed=allowed or (MANIFEST,))
        for name in description.texts("files")
    ]
    recorded = description.text_mapping("sha256", {})
    if recorded and recorded.keys() != set(names):
        raise description.invalid("sha256", "hashes of exactly its files")
    return {name: recorded.get(name, "") for name in names}


def _file_names(description: Fields, remaining: list[int]) -> set[str]:
    """Return the names of the files that an encoder may have, those of its parts included."""
    remaining[0] -= 1
    if remaining[0] < 0:
        raise ArtifactError(
            f"{description.place}: has more than {MAX_PARTS} parts; {description.hint}"
        )
    kind = description.text("kind")
    if kind not in _FILES:
        return set(_external(kind, description).files)
    names = set(_FILES[kind])
    if kind in _COMPOSITE:
        for number, part in enumerate(description_parts(description)):
            names |= {f"{number}-{name}" for name in _file_names(part, remaining)}
    return names


def _external(kind: str, description: Fields) -> EncoderSpec:
    """Return the spec of the package that restores a kind that is not built in.

    Raises:
        ArtifactError: no package that is installed does.
    """
    spec = external_kind(kind)
    if spec is None:
        raise ArtifactError(
            f"{description.place}: no installed package restores encoders of kind {kind[:60]!r}; "
            f"install the package that registers it (entry point {ENTRY_POINT_GROUP}), or "
            f"{description.hint}"
        )
    return spec


def _restore(description: Fields, files: Mapping[str, bytes]) -> Encoder:
    kind = description.text("kind")
    if kind in _HANDCRAFTED:
        return _HANDCRAFTED[kind].restore(description, files)
    if kind in _COMPOSITE:
        return _COMPOSITE[kind].restore(description, files, _restore)
    if kind not in _FILES:
        return restore_external(_external(kind, description), description, files)
    if kind == ExternalEncoder.kind:
        return ExternalEncoder.restore(description, files)
    from lookalike.encoders.image_text import ImageTextEncoder
    from lookalike.encoders.onnx import NetworkEncoder

    if kind == ImageTextEncoder.kind:
        return ImageTextEncoder.restore(description, files)
    return NetworkEncoder.restore(description, files)
