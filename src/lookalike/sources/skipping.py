"""What a source has but does not take as an image, counted by reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from lookalike.files import escape_name
from lookalike.images.formats import (
    HEADER_BYTES,
    IMAGE_SUFFIXES,
    detect_format,
    how_to_read,
    install_command,
)

HIDDEN = "hidden"
SYSTEM = "system folder"
GALLERY = "files of a gallery"
LINK = "link to a folder that is read anyway"
NOT_REGULAR = "not a regular file"
NOT_IMAGE = "not an image"
ARCHIVE = "archive"
OTHER_SUFFIX = "image with another suffix"
EXCLUDED = "excluded"
DEVELOPED = "raw beside its JPEG or HEIC"
TABLE = "metadata table, read for its columns"
SECOND = "second image of a key"
ORPHAN = "caption or metadata without an image"
NO_LINK = "broken link"
REMOVED = "removed from the gallery before"

_OTHER_FILES = frozenset(
    (
        *(".txt", ".xmp", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xml"),
        *(".html", ".htm", ".md", ".rst", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".db"),
        *(".sqlite", ".log", ".py", ".js", ".css", ".sh", ".bat", ".doc", ".docx", ".xls"),
        *(".xlsx", ".ppt", ".pptx", ".odt", ".rtf", ".mp4", ".mov", ".avi", ".mkv", ".webm"),
        *(".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".lrv", ".mp3", ".m4a", ".wav", ".flac"),
        *(".ogg", ".aae", ".pto", ".npy", ".npz", ".pkl", ".pt", ".pth", ".onnx", ".h5", ".hdf5"),
        *(".lock", ".url", ".lnk", ".exe", ".dll", ".so", ".lrcat", ".lrprev"),
    )
)
"""Suffixes of files that are no images, so that none is opened to find that out."""

_ARCHIVES = frozenset((".tar", ".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst"))


@dataclass(frozen=True, slots=True)
class Skipped:
    """Files, members or rows of a source that are not taken, for one reason.

    Args:
        reason: short, such as ``unsupported: heic`` or ``hidden``.
        count: how many.
        example: one of them, relative to the source.
        hint: the command or option with which they would be read, if there is one.
    """

    reason: str
    count: int
    example: str
    hint: str | None = None

    @property
    def is_installable(self) -> bool:
        """Whether these are images that would be read once a package is installed."""
        return self.hint is not None and self.hint.startswith("pip install ")


class SkipCounter:
    """Counts what is skipped, with the first example of each reason."""

    def __init__(self) -> None:
        self._skipped: dict[str, Skipped] = {}

    def add(self, reason: str, example: str, hint: str | None = None, count: int = 1) -> None:
        """Count something that is skipped; ``example`` may be a native path."""
        before = self._skipped.get(reason)
        if before is None:
            before = Skipped(reason, 0, escape_name(example), hint)
        self._skipped[reason] = Skipped(
            reason, before.count + count, before.example, before.hint or hint
        )

    def result(self) -> tuple[Skipped, ...]:
        """Return the counts, the largest first."""
        return tuple(sorted(self._skipped.values(), key=lambda each: (-each.count, each.reason)))


def reason_to_skip(
    name: str, readable: Collection[str], read_header: Callable[[], bytes] | None = None
) -> tuple[str, str | None] | None:
    """Return why a file is no image that is read here, and a hint; None if it is one.

    Args:
        name: of the file; its suffix decides.
        readable: the suffixes of :func:`lookalike.images.formats.supported_suffixes`.
        read_header: returns its first bytes, which decide if there is no suffix.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - there may be millions
    if suffix in readable:
        return None
    if suffix in IMAGE_SUFFIXES:
        return f"unsupported: {suffix[1:]}", how_to_read(suffix) or "convert it to PNG or TIFF"
    if suffix in _ARCHIVES:
        tar = suffix == ".tar"
        return ARCHIVE, "index it by itself" if tar else "unpack it"
    if suffix in _OTHER_FILES or read_header is None:
        return NOT_IMAGE, None
    kind = detect_format(read_header()[:HEADER_BYTES], name)
    if kind is None:
        return NOT_IMAGE, None
    if not kind.is_readable:
        return f"unsupported: {kind.suffixes[0][1:]}", install_command(kind)
    return (OTHER_SUFFIX, f"rename to end in {kind.suffixes[0]}") if suffix else None
