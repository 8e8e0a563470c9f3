"""Copy a gallery, from a folder to a store with an address or back, and verify the copy.

Galleries of formats 1 to 4 in folders are copied, too, which is how they are migrated.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookalike.encoders.base import Encoder
from lookalike.errors import ArtifactError, FingerprintError, InputError, SettingError
from lookalike.files import as_path, check_no_link
from lookalike.formatting import format_count
from lookalike.gallery.copied_images import CopiedRows, RowsWithImages
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ids import UPLOADS
from lookalike.gallery.recall import search_recall
from lookalike.gallery.removed import Removed
from lookalike.gallery.storage import IMAGES, gallery_exists, is_outdated
from lookalike.stores.base import Record, Rows
from lookalike.stores.registry import StoreAddress, is_address, parse_address
from lookalike.types import Metadata, Metric, Progress, ProgressCallback, ignore_progress

BATCH = 4_096

SAMPLE_ROWS = 500
"""Rows that are read from both galleries at the end and compared."""

RECALL_QUERIES = 100
RECALL_K = 10


@dataclass(frozen=True, slots=True, repr=False)
class CopyReport:
    """What a copy did, in rows.

    Args:
        added: rows that were not in the target.
        updated: rows that differed.
        removed: rows that are not in the source.
        unchanged: rows that were identical.
        rows: rows of the target now.
        compared: rows that were read from both galleries and are identical.
        queries: rows whose nearest neighbors were searched for in the copy.
        recall: recall@10 of these searches against exact search; None without any.
        seconds: duration.
    """

    added: int
    updated: int
    removed: int
    unchanged: int
    rows: int
    compared: int
    queries: int
    recall: float | None
    seconds: float

    def __repr__(self) -> str:
        recall = "" if self.recall is None else f"recall@10 {self.recall:.4f}, "
        return (
            f"<CopyReport: {self.added:,} added, {self.updated:,} updated, {self.removed:,} "
            f"removed, {self.unchanged:,} unchanged, {recall}in {self.seconds:.1f} s>"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields = asdict(self)
        return {**fields, "seconds": round(self.seconds, 3)}


class _Original(Protocol):
    """What is copied: a snapshot of a gallery, or a gallery of an older format."""

    @property
    def path(self) -> Path: ...

    @property
    def address(self) -> StoreAddress | None: ...

    @property
    def encoder(self) -> Encoder: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def sources(self) -> dict[str, str]: ...

    @property
    def source_options(self) -> dict[str, dict[str, Any]]: ...

    @property
    def written(self) -> frozenset[str]: ...

    @property
    def archive(self) -> Mapping[str, Metadata]: ...

    @property
    def removed(self) -> Removed: ...

    @property
    def store(self) -> CopiedRows: ...

    def __len__(self) -> int: ...


class _WithImages:
    """A snapshot of a gallery in a folder, with its uploaded images where they are copied to."""

    address = None

    def __init__(self, gallery: Gallery, target: Path) -> None:
        check_no_link(gallery.path / IMAGES, what="a gallery")
        self.path, self.encoder, self.metric = gallery.path, gallery.encoder, gallery.metric
        self.fingerprint, self.source_options = gallery.fingerprint, gallery.source_options
        self.written, self.archive = gallery.written, gallery.archive
        self.removed = gallery.removed
        self.store = RowsWithImages(gallery.store, gallery.path / IMAGES, target / IMAGES)
        self.sources = self.store.sources(gallery.sources)

    def __len__(self) -> int:
        return self.store.count()


def copy(
    gallery: Gallery | str | Path,
    target: str | Path,
    *,
    store: str | None = None,
    allow_removals: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> CopyReport:
    """Copy the encoder, rows and sources of a gallery; images of sources stay where they are.

    Uploaded images, which are in a gallery's folder, are copied to that of a copy in a folder.
    Batches are committed as they complete. An interrupted copy resumes when it is called again;
    called later, it brings the copy up to date.

    A folder of formats 1 to 4 is migrated by copying it to a new folder, with its uploaded images,
    so that the old one can be deleted. This needs the extra ``lance``.

    Args:
        gallery: copied from: a gallery, or its folder or address.
        target: a folder or an address of rows; created if it does not exist.
        store: for a new folder, the address of its rows.
        allow_removals: delete target rows that are missing from the gallery.
        on_progress: called after every batch.

    Raises:
        InputError: the target is the gallery itself, or its rows are not in ``store``; or a gallery
            of an older format is to be copied to a server.
        MissingDependencyError: Lance is not installed, which galleries of older formats need.
        FingerprintError: the target has another encoder.
        ArtifactError: the target has rows that the gallery does not have, or rows read back differ.
        UnreachableError: a server does not answer.
        StorageError: the target could not be written.
    """
    start = time.perf_counter()
    if not (isinstance(target, str) and is_address(target)):
        target = as_path(target, "target")
    original = _open_original(gallery, target, store)
    _check_place(original, target)
    copied = Gallery.open(target) if gallery_exists(target) else None
    if copied is not None:
        _check(original, copied, target, store)
    if isinstance(original, Gallery) and isinstance(target, Path):
        original = _with_images(original, target, copied, store)
    if copied is not None:
        digests = {record.id: _digest(record) for record in copied.store.records()}
    else:
        encoder, metric = original.encoder, original.metric
        copied = Gallery.create(target, encoder=encoder, metric=metric, store=store)
        digests = {}
    extra = sorted(digests.keys() - set(original.store.ids())) if digests else []
    if extra and not allow_removals:
        raise ArtifactError(
            f"{target}: has {format_count(len(extra), 'row')} that {original.path.name} does not "
            f"have, e.g. {extra[0]!r}; to delete them, set {{allow_removals}}. Nothing was changed",
            allow_removals=None,
        )
    counts = {"added": 0, "updated": 0, "unchanged": 0}
    changed = _changed_rows(original, digests, counts, on_progress)
    copied.upsert(
        changed,
        fingerprint=original.fingerprint,
        sources=original.sources,
        source_options=original.source_options,
        written=original.written,
        archive=original.archive,
    )
    removed = copied.remove_rows(extra) if extra else 0
    copied.leave_out(original.removed)
    copied.optimize()
    compared = _compare(original, copied)
    queries, recall = _measure_recall(original, copied)
    seconds = time.perf_counter() - start
    return CopyReport(
        **counts,
        removed=removed,
        rows=len(copied),
        compared=compared,
        queries=queries,
        recall=recall,
        seconds=seconds,
    )


def _open_original(
    gallery: Gallery | str | Path, target: str | Path, store: str | None
) -> _Original:
    """Return a snapshot of a gallery, or a gallery of an older format.

    Raises:
        InputError: a gallery of an older format is to be copied to a server.
        MissingDependencyError: Lance is not installed, which such a gallery needs.
        ArtifactError: there is no gallery, or it is broken.
    """
    if isinstance(gallery, Gallery):
        return gallery.snapshot()
    if (isinstance(gallery, str) and is_address(gallery)) or not is_outdated(
        folder := as_path(gallery, "gallery")
    ):
        return Gallery.open(gallery).snapshot()
    if store is not None or is_address(target):
        raise InputError(
            f"{folder}: was written by an earlier lookalike; copy it to a folder first, and that "
            f"one to {store or target}"
        )
    if folder.resolve() == Path(target).resolve():
        raise InputError(
            f"{target}: is the gallery itself; to keep its name, rename it first and copy it to "
            "the old name"
        )
    from lookalike.gallery.migration import OldGallery

    return OldGallery(folder, Path(target))


def _with_images(
    gallery: Gallery, target: Path, copied: Gallery | None, store: str | None
) -> _Original:
    """Return a gallery whose uploaded images are copied, if it has any and both are in folders."""
    to_folder = store is None if copied is None else copied.address is None
    if UPLOADS in gallery.sources and gallery.address is None and to_folder:
        return _WithImages(gallery, target)
    return gallery


def _check_place(gallery: _Original, target: str | Path) -> None:
    """Refuse to write a copy into the folder of the gallery, among its own files."""
    if is_address(target):
        return
    if gallery.path.resolve() in Path(target).resolve().parents:
        raise InputError(f"{target}: is inside the gallery itself; choose another target")


def _check(gallery: _Original, copied: Gallery, target: str | Path, store: str | None) -> None:
    if store is not None and parse_address(store) != copied.address:
        raise SettingError(
            f"{target}: its rows are in {copied.address or 'its folder'}, not in {store}; remove "
            "{store}",
            store=None,
        )
    same = gallery.path.resolve() == copied.path.resolve()
    if same or (gallery.address is not None and gallery.address == copied.address):
        raise InputError(f"{target}: is the gallery itself; choose another target")
    if gallery.fingerprint != copied.fingerprint:
        raise FingerprintError(
            f"{target}: has another encoder ({copied.fingerprint[:12]}, not "
            f"{gallery.fingerprint[:12]}); choose another target"
        )


def _changed_rows(
    gallery: _Original,
    digests: Mapping[str, bytes],
    counts: dict[str, int],
    on_progress: ProgressCallback,
) -> Iterator[Rows]:
    """Yield the rows that are missing from the target or differ there; count all."""
    total, done = len(gallery), 0
    on_progress(Progress("copy", 0, total, "rows"))
    for rows in gallery.store.rows(BATCH):
        columns = zip(rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, strict=True)
        before = [digests.get(row_id) for row_id in rows.ids]
        changed = [
            place
            for place, (fields, digest) in enumerate(zip(columns, before, strict=True))
            if digest != _digest(Record(*fields))
        ]
        counts["updated"] += sum(before[place] is not None for place in changed)
        counts["added"] += sum(before[place] is None for place in changed)
        counts["unchanged"] += len(rows) - len(changed)
        if changed:
            yield _take(rows, changed)
        done += len(rows)
        on_progress(Progress("copy", done, total, "rows"))


def _take(rows: Rows, places: list[int]) -> Rows:
    """Return the rows at these places."""
    if len(places) == len(rows):
        return rows
    columns = {
        name: [getattr(rows, name)[place] for place in places]
        for name in ("ids", "uris", "metadata", "hashes", "signatures")
    }
    return replace(rows, **columns, embeddings=rows.embeddings[places])


def _digest(record: Record) -> bytes:
    """Return a digest of all fields of a row; its content hash stands for the embedding."""
    text = json.dumps(
        [record.uri, dict(record.metadata), record.content_hash, record.signature], sort_keys=True
    )
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _compare(gallery: _Original, copied: Gallery) -> int:
    """Read a sample of rows from both galleries; return its size.

    Raises:
        ArtifactError: rows differ, or their number does.
    """
    place = copied.address or copied.path
    if len(gallery) != len(copied):
        raise ArtifactError(
            f"{place}: has {len(copied):,} of {len(gallery):,} rows after the copy; another "
            "process may have written. Copy again"
        )
    one = gallery.store.sample(SAMPLE_ROWS)
    other = copied.store.get(one.ids)
    same = (one.uris, one.metadata, one.hashes, one.signatures) == (
        *(other.uris, other.metadata, other.hashes, other.signatures),
    )
    if not same or not np.array_equal(one.embeddings, other.embeddings):
        raise ArtifactError(f"{place}: rows read back differ from those written. Copy again")
    return len(one)


def _measure_recall(gallery: _Original, copied: Gallery) -> tuple[int, float | None]:
    """Return the number of queries, and the recall of the copy's search for them, if any."""
    queries = gallery.store.sample(RECALL_QUERIES).embeddings
    if not len(queries):
        return 0, None
    local = gallery if isinstance(gallery, Gallery) and gallery.address is None else copied
    exact = local.store.search(queries, RECALL_K, gallery.metric, exact=True)
    results = copied.store.search(queries, RECALL_K, gallery.metric)
    return len(queries), search_recall(results, exact)
