"""Galleries of folders that are searched without an index step: one per folder and encoder, cached.

They are in ``galleries/NAME-HASH/ENCODER.gallery`` below the cache folder, where ``NAME-HASH``
stands for the folder's resolved path; ``folder.json`` beside them says which folder it is, and
which encoder was chosen for it by default. Nothing else is lost with them: all can be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from lookalike._version import __version__
from lookalike.artifacts import manifest_bytes, read_manifest, storage_error, write_cache
from lookalike.config import settings
from lookalike.documents import read_json
from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import named_files
from lookalike.errors import ArtifactError, BusyError, SourceError, StorageError
from lookalike.files import as_path, check_no_link, escape_name, expand_home, unescape_name
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import MANIFEST, is_outdated
from lookalike.gallery.sync import SyncReport
from lookalike.progress import ProgressOption, notice, reporting
from lookalike.sources import FolderSource, Source
from lookalike.sources.base import source_name
from lookalike.sources.folder import file_signature
from lookalike.sources.opening import open_source
from lookalike.sources.path_kinds import PathKind, kind_of_path, no_gallery_error
from lookalike.types import Failure, ProgressCallback

CACHE = "galleries"
"""Folder of the cache that holds galleries, also those of addresses."""

_FOLDER = "folder.json"
_WHAT = "a cached gallery"

_READABLE = 40
"""Characters of a folder's or an encoder's name at the start of that of its gallery."""

_HASH = 12


@dataclass(frozen=True, slots=True)
class OnDemand:
    """The gallery of a folder, brought up to date.

    Args:
        gallery: of the folder's images.
        report: what changed, failed and was skipped.
    """

    gallery: Gallery
    report: SyncReport


def open_on_demand(
    folder: str | Path,
    *,
    encoder: str | Path | Encoder | None = None,
    progress: ProgressOption | None = None,
) -> Gallery:
    """Return the cached gallery of a folder of images, created or brought up to date first.

    Args:
        folder: of images.
        encoder: as for :meth:`lookalike.Gallery.create`; there is a gallery for each. By default,
            one is chosen by the images of the folder, the first time.
        progress: True shows it on a terminal or in a notebook; a callback gets it. None is that of
            the work around.

    Raises:
        LookalikeError: see :func:`index_on_demand`.
    """
    return index_on_demand(folder, encoder=encoder, progress=progress).gallery


def index_on_demand(
    folder: str | Path,
    *,
    encoder: str | Path | Encoder | None = None,
    progress: ProgressOption | None = None,
) -> OnDemand:
    """Create the cached gallery of a folder of images, or bring it up to date.

    It follows the folder: rows of removed files are removed, however many. A folder without any
    image is refused, so that a drive that is not mounted costs no index. An interrupted first index
    is resumed by the next call. Of two processes that do it at once, the second waits.

    Args:
        folder: of images.
        encoder: as for :meth:`lookalike.Gallery.create`; there is a gallery for each. By default,
            one is chosen by the images of the folder, the first time.
        progress: True shows it on a terminal or in a notebook; a callback gets it. None is that of
            the work around.

    Raises:
        SourceError: there is no such folder, it is a file, has no images, or none of them can be
            indexed.
        UnknownNameError: no such encoder.
        StorageError: the cache cannot be written.
        BusyError: another process indexes the folder for too long.
        ArtifactError: the cached gallery is broken, or the encoder is no saved one.
        InputError: the encoder is none.
    """
    path = _folder(folder)
    place = _place(path)
    try:
        with reporting(progress) as on_progress:
            source = open_source(path, on_progress)
            gallery = _opened(place, path, source, encoder)
            with _advising(place):
                return OnDemand(gallery, _sync(gallery, source, on_progress))
    except BusyError as error:
        raise BusyError(
            f"{escape_name(str(path))}: another process is indexing it; wait until that is done, "
            f"and try again ({error})"
        ) from error
    except StorageError as error:
        raise StorageError(
            f"{escape_name(str(path))}: cannot be indexed on demand, since the cache cannot be "
            f"written: {error}; set LOOKALIKE_DATA to a folder that can, or index it yourself: "
            f"lookalike index {shlex.quote(path.name)}.gallery {shlex.quote(str(path))}"
        ) from error


@contextmanager
def _advising(place: Path) -> Iterator[None]:
    """Say of a cached gallery that is broken how to make it again.

    Raises:
        ArtifactError: it is broken.
    """
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{error}; it is only a cache: to make it again, delete {place}") from (
            error
        )


def open_or_index(path: str | Path, *, progress: ProgressOption | None = None) -> Gallery:
    """Return the gallery at a path or an address, or of a folder of images, brought up to date.

    Raises:
        ArtifactError: it is neither.
        LookalikeError: see :func:`index_on_demand` and :meth:`lookalike.Gallery.open`.
    """
    if kind_of_path(path) is PathKind.IMAGES:
        return open_on_demand(path, progress=progress)
    return Gallery.open(path)


def cached_galleries(folder: str | Path) -> list[Path]:
    """Return the cached galleries of a folder of images, sorted.

    Raises:
        SourceError: there is no such folder, or it is a file.
    """
    return sorted(each.parent for each in _place(_folder(folder)).glob(f"*.gallery/{MANIFEST}"))


def _folder(folder: str | Path) -> Path:
    """Return the resolved path of a folder, so that each has one gallery, by whatever path.

    Raises:
        SourceError: there is none.
    """
    written = as_path(folder, "folder")
    path = Path(expand_home(written))
    if not path.exists():
        raise SourceError(f"{escape_name(str(written))}: there is no such folder")
    if not path.is_dir():
        raise SourceError(str(no_gallery_error(written)))
    return path.resolve()


def _place(path: Path) -> Path:
    """Return the folder in the cache that has the galleries of a folder."""
    return settings().data / CACHE / _readable(path.name or "root", str(path))


def _readable(name: str, key: str) -> str:
    """Return a file name for every system that begins with a name, and differs by its key."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_READABLE].strip("-.") or "folder"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{plain}-{digest[:_HASH]}"


def _opened(
    place: Path, path: Path, source: Source, encoder: str | Path | Encoder | None
) -> Gallery:
    """Open the gallery of a folder and an encoder, which is created if there is none."""
    check_no_link(place, what=_WHAT)
    chosen = _default(place) if encoder is None else encoder
    reason = ""
    if chosen is None:
        from lookalike.gallery.encoder_choice import better_encoder, default_for

        chosen, kind = default_for(source)
        reason = f" ({kind}); {better_encoder(chosen)}"
    name, key = _encoder_key(chosen)
    gallery = place / f"{_readable(name, key)}.gallery"
    passed = chosen if isinstance(chosen, Encoder) else None
    _delete_outdated(gallery)
    if not (gallery / MANIFEST).exists():
        _create(gallery, chosen, source)
        _say_first(source, name, reason)
    if reason or not (place / _FOLDER).exists():
        default = name if encoder is None else ""
        facts = {"folder": escape_name(str(path)), "encoder": default}
        write_cache(place / _FOLDER, manifest_bytes(facts))
    with _advising(place):
        return Gallery.open(gallery, encoder=passed)


def _delete_outdated(gallery: Path) -> None:
    """Delete a cached gallery of a format that is no longer read: it is indexed again.

    Raises:
        StorageError: it cannot be deleted.
    """
    if not is_outdated(gallery):
        return
    gallery.with_suffix(".json").unlink(missing_ok=True)
    old = gallery.with_name(f".{gallery.name}.{os.urandom(8).hex()}")
    try:
        gallery.replace(old)  # so that no other process opens half of it
    except FileNotFoundError:  # another process did
        return
    except OSError as error:
        raise storage_error(gallery, error) from error
    shutil.rmtree(old, ignore_errors=True)


def _create(path: Path, encoder: str | Path | Encoder, source: Source) -> None:
    """Create the gallery of a folder and an encoder, unless another process does."""
    from lookalike.gallery.encoder_choice import choose_encoder  # loads every encoder

    chosen = choose_encoder(encoder, source)
    try:
        with _advising(path.parent):
            Gallery.create(path, encoder=chosen)
    except (ArtifactError, StorageError):
        if not (path / MANIFEST).exists():  # otherwise another process created it
            raise


def _say_first(source: Source, name: str, reason: str) -> None:
    """Say that a folder is indexed, which may take long, and by which encoder."""
    count = format_count(len(source), "image")
    notice(f"indexing {count} for the first time; encoder: {name}{reason}")


def _default(place: Path) -> str | None:
    """Return the encoder that was chosen for a folder; None if none was."""
    try:
        name = read_manifest(place / _FOLDER, what=_WHAT).get("encoder")
    except ArtifactError:
        return None
    return name if isinstance(name, str) and name else None


def _encoder_key(encoder: str | Path | Encoder) -> tuple[str, str]:
    """Return the name of an encoder, and a text that tells it from others of that name."""
    if isinstance(encoder, Encoder):
        return encoder.name, encoder.fingerprint
    text = str(encoder)
    is_folder = os.path.isdir(expand_home(text))  # noqa: PTH112 - a name
    files = [Path(expand_home(text))] if is_folder else named_files(text)
    if not files:
        return text, text
    states = [f"{file.absolute()} {file_signature(file)}" for file in files]
    return source_name(Path(text).name), "\n".join((*([] if is_folder else [text]), *states))


def _sync(gallery: Gallery, source: Source, on_progress: ProgressCallback) -> SyncReport:
    """Bring a gallery up to date, unless neither the folder nor its rows have changed since.

    What they were is recorded beside the gallery; an unchanged folder costs a listing of its files,
    and nothing is locked or written.
    """
    record = gallery.path.with_suffix(".json")
    listing = _listing(source)
    recorded = _recorded(record)
    failures = _recorded_failures(recorded)
    if listing and recorded == _record(listing, gallery, failures):
        unchanged, skipped = len(source) - len(failures), tuple(source.skipped)
        return SyncReport(0, 0, 0, 0, unchanged, failures, 0.0, skipped=skipped)
    report = gallery.sync(source, allow_removals=True, progress=on_progress)
    if listing:
        write_cache(record, json.dumps(_record(listing, gallery, report.failed)).encode())
    return report


def _record(listing: str, gallery: Gallery, failures: Sequence[Failure]) -> dict[str, Any]:
    """Return what a folder and its gallery are now, and what could not be indexed.

    A failure counts while its file is as it was, permissions included.
    """
    state = gallery.state
    failed = [[each.uri, each.reason, _change_time(each.uri)] for each in failures]
    fields = {"listing": listing, "identity": state.identity, "revision": state.revision}
    return fields | {"failed": failed}


def _change_time(path: str) -> int:
    """Return when a file, or its permissions, changed, in nanoseconds; 0 if that is not known."""
    try:
        return os.stat(unescape_name(path)).st_ctime_ns  # noqa: PTH116 - any text
    except (OSError, ValueError):
        return 0


def _recorded_failures(recorded: object) -> tuple[Failure, ...]:
    """Return the failures of a record; none of one that is broken."""
    try:
        return tuple(Failure(str(uri), str(reason)) for uri, reason, _ in recorded["failed"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return ()


def _recorded(path: Path) -> object:
    """Return what was recorded; None if nothing was, or nothing that can be read."""
    try:
        return read_json(path, follow=False)
    except (OSError, ArtifactError):
        return None


def _listing(source: Source) -> str:
    """Return a hash of the names, sizes, times and metadata of a folder's files.

    Empty if some cannot be listed, or if the images are in files of several.
    """
    if not isinstance(source, FolderSource) or source.problems:
        return ""
    facts = (
        __version__,
        PIL.__version__,
        source.spec,
        source.name,
        source.options.as_dict(),
        source.columns,
    )
    digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass"))
    for file in source.files:
        signature = file_signature(f"{source.root}/{file}")
        if not signature:
            return ""
        digest.update(f"{file}\0{signature}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
