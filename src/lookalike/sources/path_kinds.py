"""What a path is where a gallery or a source was expected, and the command that leads on."""

from __future__ import annotations

import difflib
import os
import shlex
from collections import deque
from enum import Enum, auto
from pathlib import Path

from lookalike.artifacts import ENCODER_MANIFEST, GALLERY_MANIFEST
from lookalike.errors import ArtifactError, SourceError
from lookalike.files import escape_name, expand_home
from lookalike.images import idx
from lookalike.images.formats import format_of_suffix
from lookalike.sources.arrays import DATASET_PREFIX
from lookalike.sources.shards import TAR
from lookalike.sources.tables import SUFFIXES as TABLES

_ENTRIES = 2_000
"""Files and folders among which an image is looked for, at most."""

_NEAR = 0.6

_SUFFIX = ".gallery"


class PathKind(Enum):
    """What a path leads to."""

    MISSING = auto()
    GALLERY = auto()
    ENCODER = auto()
    IMAGES = auto()
    """A folder with images."""
    FOLDER = auto()
    """Another folder."""
    IMAGE = auto()
    SOURCE = auto()
    """A file with or about several images: a table, a tar, an IDX file."""
    FILE = auto()
    """Another file."""


def kind_of_path(path: str | Path) -> PathKind:
    """Return what a path leads to; files are told by their suffix, data sets by their prefix."""
    if not str(path):
        return PathKind.MISSING
    path = Path(expand_home(path))
    if not os.path.lexists(path):
        is_set = str(path).startswith(DATASET_PREFIX)
        return PathKind.SOURCE if is_set else PathKind.MISSING
    if path.is_dir():
        if (path / GALLERY_MANIFEST).exists():
            return PathKind.GALLERY
        if (path / ENCODER_MANIFEST).exists():
            return PathKind.ENCODER
        return PathKind.IMAGES if _holds_images(path) else PathKind.FOLDER
    suffix = path.suffix.lower()
    if format_of_suffix(suffix) is not None:
        return PathKind.IMAGE
    is_source = suffix in (*TABLES, TAR) or (path.is_file() and idx.is_idx(path))
    return PathKind.SOURCE if is_source else PathKind.FILE


def no_gallery_error(path: str | Path) -> ArtifactError:
    """Return the error that a path is no gallery: what it is, and the command that leads on."""
    typed = escape_name(str(path)) or "''"
    quoted = shlex.quote(typed)
    without = f"; or search without: lookalike search {quoted} QUERY"
    what, advice = {
        PathKind.MISSING: (
            "not a gallery (there is no such folder)",
            f"{_near(path)}create one: lookalike index {_gallery_name(path)} FOLDER",
        ),
        PathKind.ENCODER: (
            "is an encoder, not a gallery",
            f"index images with it: lookalike index photos.gallery FOLDER --encoder {quoted}",
        ),
        PathKind.IMAGES: (
            "is a folder of images, not a gallery",
            f"{_existing_gallery(path)}create one: lookalike index {_gallery_name(path)} {quoted}"
            f"{'' if typed.endswith(_SUFFIX) else without}",
        ),
        PathKind.IMAGE: (
            "is an image, not a gallery",
            f"search for images like it: lookalike search FOLDER {quoted}",
        ),
        PathKind.SOURCE: (
            "is a source of images, not a gallery",
            f"create one: lookalike index {_gallery_name(path)} {quoted}",
        ),
    }.get(
        kind_of_path(path),
        (
            f"not a gallery (has no {GALLERY_MANIFEST})",
            "create one: lookalike index photos.gallery FOLDER",
        ),
    )
    return ArtifactError(f"{typed}: {what}; {advice}")


def check_source(path: Path) -> None:
    """Check that a path exists, and is neither a gallery nor an encoder.

    Raises:
        SourceError: it is, or there is none; what is similar is suggested.
    """
    typed = escape_name(str(path))
    quoted = shlex.quote(typed)
    if not path.exists():
        near = _near(path).strip()
        raise SourceError(f"{typed}: there is no such file or folder{near and f'; {near}'}")
    if (path / GALLERY_MANIFEST).is_file():
        raise SourceError(
            f"{typed}: is a gallery, not a source of images; bring it up to date: lookalike index "
            f"{quoted}; or copy it: lookalike copy {quoted} TARGET"
        )
    if (path / ENCODER_MANIFEST).is_file():
        raise SourceError(
            f"{typed}: is an encoder, not a source of images; index images with it: lookalike "
            f"index photos.gallery FOLDER --encoder {quoted}"
        )


def gallery_name(path: str | Path) -> str:
    """Return what the gallery of a folder, file or data set is called by default.

    That is ``photos.gallery`` of a folder ``photos``, without characters that no gallery's path can
    have; the gallery of a folder that is called like one has another name.
    """
    path = Path(expand_home(path))
    name = path.name if path.name not in ("", "..") else path.resolve().name
    if str(path).startswith(DATASET_PREFIX):
        name = str(path).removeprefix(DATASET_PREFIX).partition("/")[0]
    elif path.is_file():
        name = name.partition(".")[0] or name
    name = "".join(each if each.isprintable() else "-" for each in name) or "photos"
    stem = name.removesuffix(_SUFFIX)
    is_taken = stem != name and path.is_dir() and not (path / GALLERY_MANIFEST).exists()
    return f"{stem}{'-2' if is_taken else ''}{_SUFFIX}"


def _existing_gallery(path: str | Path) -> str:
    """Return the beginning of advice: the gallery here that a folder's images may be in."""
    folder = Path(expand_home(path))
    for place in (Path(), folder.parent):
        gallery = place / gallery_name(folder)
        if (gallery / GALLERY_MANIFEST).exists():
            return f"did you mean {shlex.quote(escape_name(str(gallery)))}? "
    return ""


def _gallery_name(path: str | Path) -> str:
    return shlex.quote(escape_name(gallery_name(path)))


def _near(path: str | Path) -> str:
    """Return the beginning of advice: the existing path that is most like one that is missing."""
    missing = Path(expand_home(path))
    try:
        names = [each.name for each in os.scandir(missing.parent)]
    except (OSError, ValueError):
        return ""
    name = missing.name
    is_gallery = name.endswith(_SUFFIX)
    # Of a folder and a gallery of one name, the last is suggested: what was typed.
    ordered = sorted(names, key=lambda each: (each.endswith(_SUFFIX) == is_gallery, each))
    bare = {each.removesuffix(_SUFFIX): each for each in ordered}
    matches = difflib.get_close_matches(name.removesuffix(_SUFFIX), bare, n=1, cutoff=_NEAR)
    if not matches:
        return ""
    similar = missing.parent / bare[matches[0]]
    return f"did you mean {shlex.quote(escape_name(str(similar)))}? "


def _holds_images(folder: Path) -> bool:
    """Return whether one of the first files in a folder or below it is an image, by its suffix."""
    waiting, left = deque([folder]), _ENTRIES
    while waiting:
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return False
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif format_of_suffix(os.path.splitext(entry.name)[1]) is not None:  # noqa: PTH122
                        return True
        except OSError:
            continue
    return False
