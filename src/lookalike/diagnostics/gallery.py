"""The checks of ``lookalike doctor GALLERY``: every file of a gallery is read and compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.artifacts import has_changed, sole_writer
from lookalike.diagnostics.checks import Check
from lookalike.documents import LARGE, read_json
from lookalike.encoders.base import MANIFEST as ENCODER_MANIFEST
from lookalike.encoders.persistence import file_hashes, load_encoder, read_description
from lookalike.errors import ArtifactError, BusyError, LookalikeError, SettingError
from lookalike.evaluation.saved import FILE as EVALUATION_FILE
from lookalike.explore.map import FILE as MAP_FILE
from lookalike.files import open_regular, unescape_name
from lookalike.formatting import format_count
from lookalike.gallery.archive import FILE as ARCHIVE_FILE
from lookalike.gallery.derived import DerivedFile
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ids import UPLOADS
from lookalike.gallery.removed import FILE as REMOVED_FILE
from lookalike.gallery.storage import (
    ENCODER,
    IMAGES,
    LOCK,
    MANIFEST,
    PARTS,
    STORE,
    is_outdated,
    outdated_error,
    read_folder,
)
from lookalike.images.decode import content_hash
from lookalike.labels.session import FILE as SESSION_FILE
from lookalike.progress import ProgressOption, reporting
from lookalike.stores.embedded.check import StoreReport, examine
from lookalike.stores.embedded.repair import RepairReport
from lookalike.stores.embedded.repair import repair as repair_store
from lookalike.stores.registry import is_address

_ROWS = 4_096
_LISTED = 10
"""File names that a check lists."""

_DERIVED: Sequence[DerivedFile[Any]] = (MAP_FILE, EVALUATION_FILE, SESSION_FILE)

_OWN = {MANIFEST, ARCHIVE_FILE, REMOVED_FILE, *PARTS, *(file.name for file in _DERIVED)}


def check_gallery(
    path: str, *, deep: bool = False, repair: bool = False, progress: ProgressOption = False
) -> Iterator[Check]:
    """Yield the checks of a gallery: its manifest, encoder, rows, uploads and further files.

    Args:
        path: its folder, or the address of its rows.
        deep: read every byte and compare all checksums; by default, structure and sizes.
        repair: if the rows are damaged, first write those anew that are not; implies ``deep``.
        progress: of reading the rows; see :mod:`lookalike.progress`.

    Raises:
        SettingError: ``repair`` is set, and the rows are not in the folder.
        BusyError: it is to be repaired while another process writes.
    """
    folder = None if is_address(path) else Path(path)
    fields: dict[str, object] = {}
    if folder is not None:
        try:
            fields = read_folder(folder)
        except LookalikeError as error:
            yield _broken("manifest", error)
            if not (folder / STORE).is_dir():
                return
        else:
            yield Check("manifest", True, f"format {fields['format']}", "read", required=True)
    if folder is None or "address" in fields:
        if repair:
            raise SettingError(
                f"{path}: rows outside its folder cannot be repaired; remove {{repair}}",
                repair=None,
            )
        yield from _check_collection(path)
        return
    if deep or repair:
        yield from _check_documents(folder)
    yield _check_encoder(folder)
    of_rows = []
    for check in _check_rows(folder, deep=deep, fix=repair, progress=progress):
        of_rows.append(check)
        yield check
    if all(check.ok for check in of_rows):
        yield from _check_opened(folder)


def _check_opened(folder: Path) -> Iterator[Check]:
    """Yield the checks of a gallery whose rows can be read."""
    try:
        gallery = Gallery.open(folder)
    except LookalikeError as error:
        yield _broken("gallery", error)
        return
    yield _tried("fingerprint", lambda: _compare_fingerprint(gallery), "compared")
    yield _tried("archive", lambda: _archive(gallery), "read")
    yield _tried("removed images", lambda: _removed(gallery), "read")
    yield _check_uploads(gallery)
    yield from _check_derived(gallery)
    yield _list_others(folder)


def _broken(name: str, error: Exception, tried: str = "") -> Check:
    return Check(name, False, str(error), tried, required=True)


def _tried(name: str, check: Callable[[], str], tried: str) -> Check:
    """Return the result of a function that returns facts, or raises what is wrong."""
    try:
        return Check(name, True, check(), tried, required=True)
    except LookalikeError as error:
        return _broken(name, error)


def _check_documents(folder: Path) -> Iterator[Check]:
    """Yield a check for each JSON document that differs from what was written."""
    derived = [file.name for file in _DERIVED]
    for name in (MANIFEST, f"{ENCODER}/{ENCODER_MANIFEST}", ARCHIVE_FILE, REMOVED_FILE, *derived):
        try:
            document = read_json(folder / name, limit=LARGE, follow=False)
        except (OSError, LookalikeError):  # it is missing, or its own check says why
            continue
        if isinstance(document, dict) and has_changed(document):
            detail = "has changed since lookalike wrote it: restore it, or check what is in it"
            yield Check(name, False, detail, required=True)


def _check_encoder(folder: Path) -> Check:
    def check() -> str:
        encoder = load_encoder(folder / ENCODER)
        description = read_description(folder / ENCODER)
        hashes = file_hashes(description)
        recorded = sum(map(bool, hashes.values()))
        return (
            f"{encoder.name}, {encoder.dim} dimensions, {format_count(len(hashes), 'file')}, "
            f"{recorded} with a checksum"
        )

    return _tried("encoder", check, "loaded, fingerprint computed")


def _check_rows(
    folder: Path, *, deep: bool, fix: bool, progress: ProgressOption
) -> Iterator[Check]:
    """Yield the checks of the rows; with ``fix``, repair them first if they are damaged."""
    if is_outdated(folder):
        yield _broken("rows", outdated_error(folder))
        return
    try:
        with reporting(progress, lines=True):
            report = examine(folder / STORE, deep=deep or fix)
        if fix and report.problems and report.is_readable:
            with (
                sole_writer(folder / LOCK, what=f"the gallery {folder}"),
                reporting(progress, lines=True),
            ):
                done = repair_store(folder / STORE)
            yield Check("repair", True, _describe_repair(done))
            with reporting(progress, lines=True):
                report = examine(folder / STORE, deep=True)
    except LookalikeError as error:
        if isinstance(error, BusyError):
            raise
        yield _broken("rows", error)
        return
    tried = "every byte read" if deep or fix else "structure and sizes checked"
    yield Check("rows", not report.problems, _describe_rows(folder, report), tried, required=True)
    if report.orphans:
        detail = f"{format_count(len(report.orphans), 'file')} of an interrupted write, harmless"
        yield Check("store files", True, f"{detail}: {_names(list(report.orphans))}")


def _describe_rows(folder: Path, report: StoreReport) -> str:
    if not report.problems:
        return f"{report.rows:,}, revision {report.revision}"
    more = len(report.problems) - _LISTED
    problems = "; ".join(report.problems[:_LISTED]) + (f"; {more:,} more" if more > 0 else "")
    if not report.is_readable:
        return (
            f"{problems}. It cannot be repaired: restore a copy of the gallery, or index the "
            "images into a new one: lookalike index NEW.gallery FOLDER"
        )
    name = shlex.quote(str(folder))
    return f"{problems}. To repair it: lookalike doctor {name} --repair, then index again"


def _describe_repair(done: RepairReport) -> str:
    detail = f"{done.rows:,} rows written anew"
    removed = len(done.removed) + done.lost
    if removed:
        detail += f"; {format_count(removed, 'row')} damaged and removed"
    if done.removed:
        detail += f": {_names(list(done.removed))}"
    if removed:
        detail += "; index the images again"
    for metric in done.graphs:
        detail += f"; the index for {metric} was dropped, lookalike index --ann makes it again"
    use = "where alone the labels of removed rows are" if removed else "which may be deleted"
    return f"{detail}; the damaged files are in {done.backup.name}, {use}"


def _compare_fingerprint(gallery: Gallery) -> str:
    gallery.check_fingerprint(gallery.encoder)
    return gallery.fingerprint[:12]


def _archive(gallery: Gallery) -> str:
    return f"what was written about {format_count(len(gallery.archive), 'removed image')}"


def _removed(gallery: Gallery) -> str:
    count = sum(map(len, gallery.removed.values()))
    return f"{format_count(count, 'image')} that index leaves out"


def _check_uploads(gallery: Gallery) -> Check:
    """Compare uploaded images with the hashes in their rows."""
    folder = gallery.path / IMAGES
    wrong, used = [], set()
    count = 0
    for record in gallery.store.records(f"{UPLOADS}:"):
        file = Path(unescape_name(record.uri))
        count += 1
        used.add(file.name)
        try:
            with open_regular(folder / file.name, follow=False) as opened:
                if content_hash(opened.read()) != record.content_hash:
                    wrong.append(f"{record.id} has another content")
        except OSError as error:
            wrong.append(f"{record.id}: {error.strerror or error}")
    others = sorted(each.name for each in folder.glob("*")) if folder.is_dir() else []
    orphans = [name for name in others if name not in used]
    detail = f"{format_count(count, 'image')} compared with hashes"
    if wrong:
        detail = (
            f"{len(wrong)} of {count:,} damaged: {'; '.join(wrong[:_LISTED])}. Upload them again"
        )
    if orphans:
        detail += f"; {format_count(len(orphans), 'file')} of no row: {_names(orphans)}"
    return Check("uploads", not wrong, detail, "read" if count else "", required=True)


def _check_derived(gallery: Gallery) -> Iterator[Check]:
    for file in _DERIVED:
        try:
            saved = file.load(gallery)
        except LookalikeError as error:
            yield _broken(file.name, error)
            continue
        if saved is not None:
            stale = f", stale: {saved.changes} since" if saved.stale else ""
            yield Check(file.name, True, f"of {saved.created_at}{stale}", "read", required=True)


def _list_others(folder: Path) -> Check:
    """List files that belong to no part of a gallery."""
    others = [each.name for each in folder.iterdir() if each.name not in _OWN]
    try:
        description = read_description(folder / ENCODER)
        parts = {ENCODER_MANIFEST, *file_hashes(description)}
        others += [
            f"{ENCODER}/{each.name}"
            for each in (folder / ENCODER).iterdir()
            if each.name not in parts
        ]
    except (LookalikeError, OSError):
        pass  # the check of the encoder says why
    if not others:
        return Check("other files", True, "none")
    return Check(
        "other files",
        True,
        f"{format_count(len(others), 'file')} not used by lookalike, may be deleted: "
        f"{_names(sorted(others))}",
    )


def _names(names: list[str]) -> str:
    more = "" if len(names) <= _LISTED else f" and {len(names) - _LISTED:,} more"
    return ", ".join(map(ascii, names[:_LISTED])) + more


def _check_collection(path: str) -> Iterator[Check]:
    """Yield the checks of a gallery whose rows are not in its folder."""
    try:
        gallery = Gallery.open(path)
    except LookalikeError as error:
        yield _broken("gallery", error)
        return
    yield Check("manifest", True, f"rows in {gallery.address}", "read", required=True)
    yield _check_encoder(gallery.path)

    def read() -> str:
        count = 0
        for rows in gallery.store.rows(_ROWS):
            count += len(rows)
            if not np.isfinite(rows.embeddings).all():
                raise ArtifactError("embeddings that are not finite; copy the gallery again")
        return f"{count:,}"

    yield _tried("rows", read, "all read")
    yield _tried("fingerprint", lambda: _compare_fingerprint(gallery), "compared")
    yield _tried("archive", lambda: _archive(gallery), "read")
    yield _tried("removed images", lambda: _removed(gallery), "read")
    yield from _check_derived(gallery)
