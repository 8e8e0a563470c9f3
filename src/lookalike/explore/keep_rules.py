"""Which image of a group of duplicates is kept, and which rule decided it.

Facts about a file come from its header and its size, never from decoded pixels: large JPEGs are
decoded at a fraction of their size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import ImageError, SettingError, SourceError, UnknownNameError
from lookalike.gallery.ingest import item_hash
from lookalike.images.header import ImageHeader, read_header
from lookalike.sources import Item, open_items
from lookalike.sources.opening import native_path
from lookalike.sources.options import matches_glob
from lookalike.stores.base import Record

KEEP_RULES: Mapping[str, str] = {
    "largest": "the original, by the criteria below, in this order",
    "first": "first id in alphabetical order",
    "last": "last id in alphabetical order",
}
"""Rules for the image of a group that is kept, by name."""

READABLE, PREFERRED, ID = "readable", "preferred path", "id"

CRITERIA: Sequence[str] = (
    READABLE,
    "pixels",
    "lossless",
    "JPEG quality",
    "file size",
    "EXIF",
    "capture time",
    PREFERRED,
    ID,
)
"""What the rule ``largest`` compares, the most important first; ``first`` and ``last`` compare the
first and the last two."""

_ASSUMED_QUALITY = 75
"""Stands for the quality of lossy files that do not state it; the default of JPEG and WebP."""

_NO_DATE = "9999"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the file of a row says about itself.

    ``header`` is None for an image in an array file, which is lossless. ``pixels`` counts those of
    the file, ``size`` its bytes. ``path`` is the file itself, with links resolved; empty if it is
    no local file. ``changed``: its content is not the indexed one.
    """

    pixels: int
    size: int
    header: ImageHeader | None = None
    path: str = ""
    changed: bool = False


def read_facts(record: Record) -> FileFacts | None:
    """Read the header of a row's image, and compare its content with the indexed one.

    Returns:
        None if it cannot be read.
    """
    try:
        (item,) = open_items([record.uri])
        signature = item.signature()
        path = _local_path(item)
        if path and signature == record.signature.partition(" ")[0]:
            return _facts(read_header(path), Path(path).stat().st_size, path)
        content = item.content()
        changed = item_hash(item, content) != record.content_hash
        if not isinstance(content, bytes):
            return FileFacts(content.shape[0] * content.shape[1], content.nbytes, changed=changed)
        return _facts(read_header(content), len(content), path, changed=changed)
    except (ImageError, SourceError, OSError):
        return None


def _facts(header: ImageHeader, size: int, path: str, *, changed: bool = False) -> FileFacts:
    return FileFacts(header.width * header.height, size, header, path, changed)


def _local_path(item: Item) -> str:
    """Return the path of an item's file, with links resolved; empty if it is no local file."""
    uri = item.uri.rpartition("#")[0] if item.page else item.uri
    path = native_path(uri)
    return os.path.realpath(path) if item.signature() and Path(path).is_file() else ""


@dataclass(frozen=True, slots=True)
class KeepOrder:
    """The order in which the images of a group are kept.

    Args:
        rule: a name in :data:`KEEP_RULES`.
        prefer: patterns of paths, the most preferred first (see :func:`matches`).

    Raises:
        UnknownNameError: no such rule.
        SettingError: a pattern is empty.
    """

    rule: str
    prefer: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rule not in KEEP_RULES:
            raise UnknownNameError("keep rule", self.rule, KEEP_RULES)
        if not all(each.removeprefix("!") for each in self.prefer):
            raise SettingError("{prefer} must not be empty", prefer=None)

    @property
    def criteria(self) -> Sequence[str]:
        """The names of what is compared, the most important first."""
        return CRITERIA if self.rule == "largest" else (READABLE, PREFERRED, ID)

    def key(self, record: Record, place: int, facts: FileFacts | None) -> tuple[object, ...]:
        """Return a value for each of the criteria; of two images the one with less is kept.

        Args:
            record: the row.
            place: its place in the order of ids.
            facts: of its file; None if it cannot be read.
        """
        unlike = tuple(not matches(record, pattern) for pattern in self.prefer)
        last = (facts is None, unlike, -place if self.rule == "last" else place)
        if self.rule != "largest":
            return last
        if facts is None:
            return (True, 0, 0, 0, 0, 0, "", *last[1:])
        header = facts.header
        lossless = header is None or header.lossless
        quality = _ASSUMED_QUALITY if header is None else header.jpeg_quality or _ASSUMED_QUALITY
        captured = None if header is None else header.captured_at
        return (
            False,
            -facts.pixels,
            not lossless,
            0 if lossless else -quality,
            -facts.size,
            header is None or not header.has_exif,
            _NO_DATE if captured is None else str(captured),
            *last[1:],
        )

    def decision(self, kept: Iterable[object], other: Iterable[object]) -> str:
        """Return the name of the criterion by which the keys of two images differ first."""
        pairs = zip(self.criteria, kept, other, strict=True)
        return next((name for name, one, two in pairs if one != two), ID)


def matches(record: Record, pattern: str) -> bool:
    """Return whether a row's path below its source, its id or its location matches a pattern.

    The path may begin with the source's name, which by default is that of its folder.
    As for :class:`lookalike.sources.SourceOptions`; after ``!`` whether it does not.
    """
    if pattern.startswith("!"):
        return not matches(record, pattern[1:])
    source, _, path = record.id.partition(":")
    names = (path, record.id, f"{source}/{path}", record.uri)
    return any(matches_glob(name, (pattern,)) for name in names)
