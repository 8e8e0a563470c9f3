"""Gallery: one encoder, one store and its sources, as a folder on disk."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from lookalike.artifacts import sole_writer
from lookalike.cancellation import check_cancelled
from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import (
    ArtifactError,
    CancelledError,
    FingerprintError,
    InputError,
    LookalikeError,
    ReplacedError,
    SettingError,
    SourceError,
    StorageError,
    UnknownNameError,
)
from lookalike.files import AnchoredPath, escape_name, unescape_name
from lookalike.filters import Where, as_filter
from lookalike.gallery.archive import ColumnArchive, values_by_content, written_values
from lookalike.gallery.derived import delete_outdated
from lookalike.gallery.ingest import (
    ExistingRows,
    IngestSummary,
    IngestTarget,
    Runner,
    Turn,
    count_changes,
    ingest,
    records_of,
)
from lookalike.gallery.state import GalleryState
from lookalike.gallery.storage import (
    ENCODER,
    IDENTITY,
    IMAGES,
    INDEXING,
    LOCK,
    QUEUE,
    create_storage,
    open_storage,
    read_gallery_manifest,
)
from lookalike.gallery.sync import (
    UPLOADS,
    LocatedSource,
    SyncReport,
    all_failed_error,
    is_gone,
    locate_source,
    matching_ids,
    missing_rows,
    same_location,
)
from lookalike.images.foreground import Box
from lookalike.images.local_features import reduce_image
from lookalike.search.query import Query, QueryRegion
from lookalike.search.search import SearchOptions
from lookalike.sources import (
    FolderSource,
    Item,
    ItemSource,
    Source,
    SourceOptions,
    open_items,
    open_source,
)
from lookalike.sources.base import source_name
from lookalike.sources.opening import with_name
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import (
    Record,
    RowReader,
    Rows,
    VectorStore,
    matching_rows,
    replaced_error,
)
from lookalike.stores.milvus.address import Address, is_address
from lookalike.types import (
    Hit,
    Hits,
    ImageArray,
    Metadata,
    Metric,
    ProgressCallback,
    ignore_progress,
)

_UPLOADED = re.compile(r"\.?[0-9a-f]{24}-[0-9a-f]{16}(\.[0-9a-z.]*)?")
"""Names of files of uploaded images, and of those that were being written."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Opened:
    """What belongs together in an open gallery: its storage, manifest, rows and encoder."""

    def __init__(self, location: str | Path) -> None:
        self.storage = open_storage(location)
        self.stamp = self.storage.stamp()
        self.fields = read_gallery_manifest(self.storage)
        self.store: RowReader = self.storage.store
        self._encoders: list[Encoder] = []  # at most one, shared with snapshots
        self._loading = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder of the rows."""
        return str(self.fields["encoder"]["fingerprint"])

    @property
    def encoder(self) -> Encoder:
        """The encoder of the rows, loaded once."""
        with self._loading:
            if not self._encoders:
                encoder = load_encoder(self.storage.path / ENCODER)
                self.check_fingerprint(encoder)
                self._encoders.append(encoder)
            return self._encoders[0]

    def check_fingerprint(self, encoder: Encoder) -> None:
        """Raise FingerprintError unless this is the encoder of the rows."""
        if encoder.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.storage.path}: its encoder is {self.fields['encoder']['name']!r} "
                f"({self.fingerprint[:12]}), not {encoder.name!r} ({encoder.fingerprint[:12]}); "
                "their embeddings cannot be mixed: create another gallery for the other encoder"
            )

    def snapshot(self) -> Self:
        """Return the same with the rows as they are now, or as they were in a snapshot."""
        if self.store is not self.storage.store:
            return self
        view = copy(self)
        view.store = self.storage.store.snapshot()
        return view

    def is_current(self, *, reread: bool) -> bool:
        """Return whether the gallery in its place is the one that was opened.

        Args:
            reread: read the manifest again, also if that in the folder has not changed.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        stamp = self.storage.stamp()
        try:
            identity = GalleryState.of(self.storage.store).identity
        except ReplacedError:
            return False
        if stamp == self.stamp and not reread:
            return True
        fields = self.storage.read()
        same_encoder = fields["encoder"] == self.fields["encoder"]
        if fields.get(IDENTITY, identity) != identity or not same_encoder:
            return False
        self.stamp, self.fields = stamp, fields
        return True


class Gallery:
    """A searchable collection of images. Create one with :meth:`create`, or :meth:`open` it.

    ``address`` is the Milvus collection of its rows, if they are not in the folder; ``metric`` the
    default metric of searches; ``sources`` maps the name of each source to its specification,
    ``source_options`` to the options that it was indexed with, as in
    :meth:`lookalike.sources.SourceOptions.as_dict`; ``written`` are metadata columns that come from
    no source, such as propagated labels: a sync keeps them while the image's content stays the
    same, and they come back with it.

    Whenever it is used, it sees what other processes have written. If another gallery was put in
    its place, that one is opened: encoder and rows are always of one gallery. Where there is none,
    or half of one, an ArtifactError says so, and the next use tries again.
    """

    def __init__(self, location: str | Path) -> None:
        is_folder = not (isinstance(location, str) and is_address(location))
        self._place = AnchoredPath(location) if is_folder else None
        self._address = location
        self._is_snapshot = False
        self._checking = threading.RLock()
        self._writer: _Opened | None = None
        self._writing_thread = 0
        self._is_swept = False
        self._open()

    def _open(self) -> None:
        """Open the gallery that is in its place."""
        opened = _Opened(self._address if self._place is None else self._place.path)
        self._apply(opened)
        self._opened = opened

    def _apply(self, opened: _Opened) -> None:
        """Take over what the manifest says."""
        fields = opened.fields
        self.address = opened.storage.address
        self.metric = Metric(fields["metric"])
        self.sources: dict[str, str] = dict(fields["sources"])
        self.source_options: dict[str, dict[str, Any]] = dict(fields.get("source_options", {}))
        self.written = frozenset(fields.get("written", ()))
        self._encoder_facts: Mapping[str, str] = {
            name: fields["encoder"][name] for name in ("name", "fingerprint")
        }

    def _current(self, *, check: bool = False, reread: bool = False) -> _Opened:
        """Return the parts of the gallery that is in its place, opened again if that is another.

        Args:
            check: check its rows too; by default only whether its manifest was written or replaced.
            reread: read its manifest again.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        if self._is_snapshot:
            return self._opened
        opened = self._opened
        if not (check or reread) and opened.storage.stamp() == opened.stamp:
            return opened
        with self._checking:
            opened = self._opened
            if not opened.is_current(reread=reread):
                self._open()
            elif self._writer is None:
                self._apply(opened)
            return self._opened

    def _read(self, work: Callable[[_Opened], T]) -> T:
        """Return what ``work`` reads; do it once more if the gallery was replaced meanwhile."""
        opened = self._current()
        try:
            return work(opened)
        except ArtifactError:
            if self._is_snapshot or self._current(check=True) is opened:
                raise
            return work(self._opened)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: Encoder,
        metric: Metric | str = Metric.COSINE,
        store: str | None = None,
    ) -> Self:
        """Create an empty gallery, completely or not at all.

        Args:
            path: its folder, or the address of a Milvus collection, ``milvus://HOST:PORT/NAME``.
            encoder: encodes its rows.
            metric: default metric of searches.
            store: address of a Milvus collection for the rows; the folder holds the address.

        Raises:
            ArtifactError: the folder exists and is not empty, or the collection exists.
            UnreachableError: the server does not answer.
            StorageError: it could not be written.
        """
        facts = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        fields = {"encoder": facts, "dim": encoder.dim, "metric": Metric(metric).value}
        address = None if store is None else Address.parse(store)
        create_storage(path, {**fields, "sources": {}, "rows": 0}, encoder, address)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a gallery by its folder, or by the address of its Milvus collection.

        Raises:
            ArtifactError: not a gallery, or broken.
            FormatVersionError: a newer lookalike wrote it.
            UnreachableError: the Milvus server does not answer.
        """
        return cls(path)

    @property
    def path(self) -> Path:
        """Its folder: as it was given, or absolute once the working directory has changed."""
        return self._opened.storage.path

    @property
    def encoder(self) -> Encoder:
        """The encoder of its rows.

        Raises:
            ArtifactError: it is missing or broken.
            FingerprintError: its fingerprint is not that of the rows.
        """
        self._current(check=self.address is not None)  # nothing in the folder shows a change
        return self._read(lambda opened: opened.encoder)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder of its rows."""
        return self._current(check=self.address is not None).fingerprint

    @property
    def state(self) -> GalleryState:
        """Its identity and revision: the key of whatever is computed from it.

        Raises:
            ArtifactError: the gallery is gone, or broken.
            UnreachableError: the Milvus server does not answer.
        """
        return self._read(lambda opened: GalleryState.of(opened.store))

    @property
    def store(self) -> RowReader:
        """The rows, for reading. They raise ReplacedError once another gallery is in the place."""
        return self._current().store

    @property
    def _store(self) -> VectorStore:
        """The rows, for writing."""
        return (self._writer or self._current()).storage.store

    def snapshot(self) -> Self:
        """Return the gallery as it is now, for several reads that must fit together.

        It is read-only, and later writes do not change it, nor another gallery in its place. Of
        rows in Milvus, only ids and metadata columns stay as they are.
        """
        if self._is_snapshot:
            return self

        def current(opened: _Opened) -> _Opened:
            view = opened.snapshot()
            GalleryState.of(view.store)  # which is from now on that of the snapshot
            return view

        view = copy(self)
        view._opened = self._read(current)
        view._is_snapshot, view._writer = True, None
        view._apply(view._opened)
        return view

    def __copy__(self) -> Self:
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        return view

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        """Pickle the gallery as its location: it is opened again there, as it is then.

        Raises:
            InputError: this is a snapshot, which no other process can read.
        """
        if self._is_snapshot:
            raise InputError(f"{self.path}: a snapshot cannot be pickled; pickle the gallery")
        location = self._address if self._place is None else self._place.path.absolute()
        return type(self).open, (str(location),)

    def check_identity(self, identity: str) -> None:
        """Check that the gallery that is in its place has an identity.

        Raises:
            ReplacedError: it has another one.
            ArtifactError: the gallery is gone, or broken.
        """
        storage = self._current().storage
        storage.stamp()
        if GalleryState.of(storage.store).identity != identity:
            raise replaced_error(self.path)

    def check_fingerprint(self, encoder: Encoder) -> None:
        """Raise FingerprintError unless this is the encoder of the rows."""
        self._current().check_fingerprint(encoder)

    def __len__(self) -> int:
        return self._read(lambda opened: opened.store.count())

    def sync(  # noqa: PLR0913 - keyword options of the public call
        self,
        source: str | Path | Source,
        *,
        allow_removals: bool = False,
        relocate: bool = False,
        dry_run: bool = False,
        rehash: bool = False,
        on_progress: ProgressCallback = ignore_progress,
        runner: Runner | None = None,
    ) -> SyncReport:
        """Bring the rows of one source up to date: new, changed, moved and removed images.

        Batches are committed to disk as they complete; an interrupted sync resumes when it is
        called again. A row is removed only if its file is gone: a file that exists but cannot be
        read now keeps its row. What was written into columns that come from no source is kept when
        a row is removed, and comes back with an image of the same content.

        A source that is gone from its recorded location, and most of whose images are here, has
        moved: its rows stay.

        Args:
            source: what :func:`lookalike.open_source` takes, or an opened source.
            allow_removals: allow removing more than half of the source's rows, or all.
            relocate: update the location of the source of this name; its rows stay.
            dry_run: count the changes without writing. Images are not decoded, so unreadable ones
                are not found.
            rehash: read files again whose size and modification time are unchanged.
            on_progress: called after every chunk of a batch.
            runner: encodes the images elsewhere (:mod:`lookalike.gallery.ray_runner`).

        Raises:
            SourceError: the source is missing or empty, another source has its name or location,
                more than half of its rows would be removed, or none of its images can be indexed.
            StorageError: a batch could not be written, or another process is writing.
            SettingError: a dry run has a runner.
        """
        if dry_run and runner is not None:
            raise SettingError(
                "{dry_run} encodes nothing; remove {runner}", dry_run=None, runner=None
            )
        start = time.perf_counter()
        if isinstance(source, str | Path):
            source = self.open_source(source, on_progress, empty=allow_removals)
        with contextlib.nullcontext() if dry_run else self._indexing():
            located = self._locate(source, relocate=relocate)
            source = located.source
            rows = {record.id: record for record in self._store.records(f"{source.name}:")}
            missing = missing_rows(source, rows, allow_removals=allow_removals)
            moved_from = {rows[row_id].content_hash: row_id for row_id in sorted(missing.removed)}
            values = {**self.archive, **values_by_content(rows.values(), self.written)}
            existing = ExistingRows(rows, moved_from, self.written, values, rehash)
            if dry_run:
                summary = count_changes(source, existing, on_progress)
            else:
                removed = sorted(missing.removed)
                summary = self._write_changes(source, existing, removed, on_progress, runner)
        return SyncReport.of(located, summary, missing, time.perf_counter() - start)

    def open_source(
        self,
        spec: str | Path,
        on_progress: ProgressCallback = ignore_progress,
        *,
        empty: bool = False,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Source:
        """Open a source with the options that it was indexed with.

        Args:
            spec: what :func:`lookalike.open_source` takes.
            on_progress: called during downloads.
            empty: allow a folder without images.
            name: the name of the source; by default the one that the gallery has for its location,
                or that of the folder or file.
            options: fields of :meth:`lookalike.sources.SourceOptions.as_dict` to change.

        Raises:
            SourceError: see :func:`lookalike.open_source`.
        """
        base = escape_name(str(spec))
        same = [each for each, other in self.sources.items() if same_location(base, other)]
        known = name or (same[0] if same else source_name(Path(spec).absolute().name))
        if known in self.sources and is_gone(base):
            raise SourceError(
                f"{base}: there is no such file or folder. If the source {known!r} has moved, "
                "index it from where it is now; to remove its rows: "
                f"lookalike remove {shlex.quote(str(self.address or self.path))} "
                f"--source {shlex.quote(known)}"
            )
        fields = {**self.source_options.get(known, {}), **(options or {})}
        opened = SourceOptions.from_dict(fields)
        return open_source(spec, on_progress, empty=empty, name=name, options=opened)

    def _locate(self, source: Source, *, relocate: bool) -> LocatedSource:
        """Return a source under its name in the gallery, opened with its recorded options.

        A source that has moved is recognized by the images that its options take.
        """
        located = locate_source(source, self.sources, self._store.records, relocate=relocate)
        if located.moved_from:
            return replace(located, source=self._reopened(source, located.source.name))
        folder = isinstance(source, FolderSource) and not source.named
        if not folder or located.source.name in self.sources:
            return located
        for name, options in self.source_options.items():
            if options and name in self.sources and is_gone(self.sources[name]):
                taken = self._reopened(source, name)
                again = locate_source(taken, self.sources, self._store.records, relocate=False)
                if again.moved_from:
                    return again
        return located

    def _reopened(self, source: Source, name: str) -> Source:
        """Return a source under a recorded name, with the options recorded of it."""
        recorded = self.source_options.get(name)
        if not recorded:
            return with_name(source, name)
        options = SourceOptions.from_dict({**recorded, **source.options.as_dict()})
        return open_source(source.spec, empty=True, name=name, options=options)

    @property
    def archive(self) -> Mapping[str, Mapping[str, Any]]:
        """What was written about images whose rows are gone: columns by content hash."""
        return self._archive().values

    def _archive(self) -> ColumnArchive:
        """Return what was written about images whose rows are gone."""
        opened = self._writer or self._current()
        return ColumnArchive(opened.storage, str(self.address or self.path))

    def _write_changes(
        self,
        source: Source,
        existing: ExistingRows,
        removed: Sequence[str],
        on_progress: ProgressCallback,
        runner: Runner | None,
    ) -> IngestSummary:
        """Add, update and remove the rows of a source.

        Others may write between its batches, unless a runner writes rows itself. The list of
        sources is restored if every image fails.
        """
        with contextlib.nullcontext() if runner is None else self._writing():
            before = self._register(source, existing, keep=runner is not None)
            encoder, identity = self.encoder, self.state.identity
            target = IngestTarget(encoder, self._store, lambda: self._turn(source, identity))
            summary = ingest(source, target, existing, on_progress, runner)
            with self._turn(source, identity) as turn:
                if len(source) and len(summary.failed) == len(source):
                    self._restore_source(source.name, *before)
                    raise all_failed_error(source, summary)
                turn.archive.keep(records_of(turn.store, removed), turn.written)
                turn.store.delete(removed)
                turn.archive.expire()
                self._sweep_uploads()
                turn.store.optimize(self.metric)
                self._write_manifest()
        return summary

    def _register(
        self, source: Source, existing: ExistingRows, *, keep: bool
    ) -> tuple[str | None, dict[str, Any] | None]:
        """List a source; return what was listed of it.

        With ``keep``, what was written for its rows goes to the archive first.
        """
        with self._writing():
            before = self.sources.get(source.name), self.source_options.get(source.name)
            self.sources[source.name] = source.spec
            self.source_options[source.name] = source.options.as_dict()
            self._write_manifest()
            if keep:
                self._archive().keep(existing.rows.values(), self.written)
        return before

    def _restore_source(self, name: str, spec: str | None, options: dict[str, Any] | None) -> None:
        """List a source as before, or not at all."""
        for fields, value in ((self.sources, spec), (self.source_options, options)):
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = value  # type: ignore[assignment]
        self._write_manifest()

    @contextlib.contextmanager
    def _turn(self, source: Source, identity: str) -> Iterator[Turn]:
        """Let no other process write during the block, in which a sync writes a batch.

        Raises:
            ReplacedError: another gallery was put in the place of the one that is synced.
            SourceError: its source was removed meanwhile.
            BusyError: another process writes for too long.
        """
        with self._writing():
            if GalleryState.of(self._store).identity != identity:
                raise replaced_error(self.path)
            if source.name not in self.sources:
                raise SourceError(
                    f"{source.spec}: the source {source.name!r} was removed from the gallery while "
                    "it was indexed; index it again to add it"
                )
            yield Turn(self._store, self._archive(), self.written)

    @contextlib.contextmanager
    def _indexing(self) -> Iterator[None]:
        """Let no other process sync a source of the gallery during the block; others may write.

        Raises:
            InputError: this is a snapshot.
            ArtifactError: the gallery is gone, or broken.
            BusyError: another process is syncing for too long.
        """
        self._check_writable()
        what, wait = f"the gallery {self.path}", settings().lock_wait
        with sole_writer(self.path / INDEXING, what=what, wait=wait):
            self._current(reread=True)
            yield

    def _check_writable(self) -> None:
        if self._is_snapshot:
            raise InputError(f"{self.path}: this is a snapshot, which cannot be written")
        self._current()  # or a lock would create the folder of a gallery that is gone

    @contextlib.contextmanager
    def _writing(self, wait: float | None = None) -> Iterator[None]:
        """Hold the write lock, with the manifest read again: others may have written before.

        What is written goes to this very gallery, or fails if another was put in its place. Blocks
        may be nested.

        Args:
            wait: seconds to wait for other writers, which take turns; by default that of the
                settings.

        Raises:
            InputError: this is a snapshot.
            ArtifactError: the gallery is gone, or broken.
            BusyError: others write for too long.
        """
        if self._writing_thread == threading.get_ident():
            yield
            return
        self._check_writable()
        with sole_writer(
            self.path / LOCK,
            what=f"the gallery {self.path}",
            wait=settings().lock_wait if wait is None else wait,
            queue=self.path / QUEUE,
        ):
            with self._checking:
                self._writer = self._current(reread=True)
            self._writing_thread = threading.get_ident()
            try:
                if not self._is_swept:  # once: only a process that was killed leaves files
                    self._sweep_uploads()
                yield
            finally:
                self._writer = None
                self._writing_thread = 0

    def upsert(  # noqa: PLR0913 - what rows bring with them
        self,
        rows: Rows | Iterable[Rows],
        *,
        fingerprint: str,
        sources: Mapping[str, str] | None = None,
        source_options: Mapping[str, dict[str, Any]] | None = None,
        written: Set[str] = frozenset(),
        archive: Mapping[str, Metadata] | None = None,
        keep_written: bool = False,
        wait: float | None = None,
    ) -> None:
        """Insert or replace rows that are already encoded, in one batch or several.

        Args:
            rows: the rows.
            fingerprint: of their encoder.
            sources: specifications of new sources, by name.
            source_options: the options that these were indexed with.
            written: metadata columns that come from no source.
            archive: what was written about images that are not among the rows.
            keep_written: add what was written for images of the same content, as a sync does.
            wait: seconds to wait for other writers; by default that of the settings.

        Raises:
            FingerprintError: they are not of this gallery's encoder.
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            BusyError: others write for too long; nothing was written.
            StorageError: they could not be written.
        """
        with self._writing(wait):
            self._refuse_other_rows(fingerprint)
            if archive:
                self._archive().add(archive)
            before = dict(self.sources), dict(self.source_options), self.written
            self.written |= written  # known before the rows, or a sync would drop them
            self.sources |= sources or {}
            self.source_options |= source_options or {}
            if (self.sources, self.source_options, self.written) != before:
                self._write_manifest()
            for batch in (rows,) if isinstance(rows, Rows) else rows:
                self._store.upsert(self._with_written(batch) if keep_written else batch)
            self._write_count()

    def _with_written(self, rows: Rows) -> Rows:
        """Return rows with what was written for their contents; archive that of replaced ones."""
        before = {record.id: record for record in records_of(self._store, rows.ids)}
        archive = self._archive()
        metadata = []
        for record in rows.records():
            row = before.get(record.id)
            if row is not None and row.content_hash == record.content_hash:
                own: Mapping[str, Any] = written_values(row.metadata, self.written)
                del before[record.id]
            else:
                own = archive.values.get(record.content_hash, {})
            metadata.append({**record.metadata, **own})
        archive.keep(before.values(), self.written)
        return replace(rows, metadata=metadata)

    def _refuse_other_rows(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.path}: rows of the encoder with fingerprint {fingerprint[:12]} cannot be "
                f"mixed with rows of {self._encoder_facts['name']!r}"
            )

    def select(
        self,
        ids: Sequence[str] = (),
        *,
        source: str | None = None,
        where: Where | None = None,
    ) -> list[str]:
        """Return the ids of rows, sorted.

        Args:
            ids: ids, or patterns of ids with ``*``, ``?`` and ``[...]``.
            source: all rows of this source.
            where: rows that match a filter.

        Raises:
            MissingRowError: no row has an id, or matches a pattern.
            UnknownNameError: no such source.
            SettingError: none or several of the arguments are given.
            InputError: the filter cannot be parsed.
        """
        if (bool(ids) + (source is not None) + (where is not None)) != 1:
            raise SettingError(
                "choose rows by one of {id}, {source} and {where}", id=None, source=None, where=None
            )
        if source is not None:
            if source not in self.sources:
                raise UnknownNameError("source", source, self.sources)
            return [record.id for record in self.store.records(f"{source}:")]
        view = self.snapshot().store
        known = view.ids()
        if where is not None:
            places = matching_rows(as_filter(where), view.columns())
            return [] if places is None else [known[place] for place in places]
        return matching_ids(ids, known)

    def remove(
        self,
        ids: Sequence[str] | None = None,
        *,
        source: str | None = None,
        where: Where | None = None,
        purge: bool = False,
        wait: float | None = None,
    ) -> int:
        """Delete rows and return how many existed; the images of sources stay.

        What was written into columns that come from no source is kept for 30 days, and comes back
        with an image of the same content. Files of uploaded images are deleted. Other metadata of
        the rows is gone from disk with the next :meth:`purge`.

        Args:
            ids: of the rows.
            source: delete all rows of this source, and forget the source.
            where: delete the rows that match a filter.
            purge: keep nothing about them, and :meth:`purge` the gallery.
            wait: seconds to wait for other writers; by default that of the settings.

        Raises:
            UnknownNameError: no such source.
            SettingError: none or several of the arguments are given.
            InputError: the filter cannot be parsed.
            StorageError: they could not be deleted, or another process is writing.
        """
        with self._writing(wait):
            chosen = ids if ids is not None else self.select(source=source, where=where)
            records = list(records_of(self._store, chosen))
            if not purge:
                self._archive().keep(records, self.written)
            count = self._store.delete(chosen)
            if source is not None:
                self.sources.pop(source, None)
                self.source_options.pop(source, None)
                self._write_manifest()
            else:
                self._write_count()
            self._delete_uploads(record.uri for record in records)
            if purge:
                self._archive().drop(record.content_hash for record in records)
                self._purge()
        return count

    def _delete_uploads(self, uris: Iterable[str]) -> None:
        """Delete the files of rows that are gone, if they are in the gallery's folder."""
        folder = (self.path / IMAGES).resolve()
        for uri in uris:
            file = Path(unescape_name(uri))
            if file.parent == folder:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _sweep_uploads(self) -> None:
        """Delete files of uploads that no row has; a process that was killed leaves them.

        Nothing is uploading meanwhile: files are written while the write lock is held.
        """
        self._is_swept = True
        folder = self.path / IMAGES
        try:
            names = [name for name in os.listdir(folder) if _UPLOADED.fullmatch(name)]  # noqa: PTH208
        except OSError:  # there is no such folder, or it is not to be read
            return
        if not names:
            return
        records = self._store.records(f"{UPLOADS}:")
        used = {unescape_name(record.uri).rpartition("/")[2] for record in records}
        for name in names:
            if name not in used:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()

    def optimize(self, *, wait: float | None = None) -> None:
        """Merge small files, update the index and delete old versions of the table.

        Args:
            wait: seconds to wait for other writers; by default that of the settings.

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing(wait):
            self._archive().expire()
            self._sweep_uploads()
            self._store.optimize(self.metric)

    def purge(self) -> None:
        """Delete what is left on disk of rows that were removed or replaced, at once.

        Labels that are kept for their images are deleted, too, and so is a map, evaluation or
        labeling session of an earlier state. The rows are also deleted by the first
        :meth:`optimize` after seven days, and 15 minutes later at the earliest, since others may
        read old versions of them until then.

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing():
            archive = self._archive()
            archive.expire()
            archive.drop(archive.values)
            self._purge()

    def _purge(self) -> None:
        self._sweep_uploads()
        delete_outdated(self.path, GalleryState.of(self._store))
        self._store.optimize(self.metric, purge=True)

    def search(  # noqa: PLR0913 - keyword options of the public call
        self,
        query: Query | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name everywhere else
        text: str | None = None,
        k: int = 7,
        metric: Metric | str | None = None,
        where: Where | None = None,
        max_distance: float | None = None,
        exact: bool = False,
        box: Sequence[int] | None = None,
        foreground: bool = False,
        multi_crop: bool = False,
        rerank: str | Sequence[str] | None = None,
        keywords: str | None = None,
    ) -> Hits:
        """Return the ``k`` most similar rows to one query, nearest first.

        Args:
            query: a path (``str`` or Path), a file's bytes, a PIL image, an array ``(H, W)`` or
                ``(H, W, 3)`` uint8, or an item of a source.
            id: use this row as the query; it is not among the hits.
            text: a text query, for encoders of images and text.
            k: results, at least 1.
            metric: ``l2`` or ``cosine``; the gallery's own by default.
            where: filter by metadata, e.g. ``"year >= 2020"`` or ``{"year": {"gte": 2020}}`` (see
                :mod:`lookalike.filters`).
            max_distance: maximum distance, in the metric's units.
            exact: exact search; skip the approximate index of a large gallery.
            box: crop the query to x, y, width and height in pixels.
            foreground: crop the query to its main object, if one is detected.
            multi_crop: also search with 13 crops of the query; each row counts with its nearest.
            rerank: names in :data:`lookalike.search.RERANKINGS`, or one string of them joined by
                ``+``, applied one after another to the first 200 hits. They change the order;
                distances stay those from the query to the rows.
            keywords: full-text search in metadata (:mod:`lookalike.search.keywords`), fused by
                rank with the image ranking, or alone if there is no other query.

        Raises:
            ImageError: the query cannot be decoded, or the encoder refuses it.
            MissingRowError: there is no row with this id.
            InputError: there is no query or more than one, the encoder does not support text, the
                filter cannot be parsed or does not fit the metadata, or the box is not inside the
                image.
            SettingError: ``k``, ``metric`` or ``max_distance`` is out of range.
            UnknownNameError: no such re-ranking.
        """
        region = QueryRegion(
            None if box is None else Box.from_sequence(box), foreground, multi_crop
        )
        options = SearchOptions(
            k=k,
            metric=self.metric if metric is None else Metric(metric),
            where=where,
            max_distance=max_distance,
            exact=exact,
            rerank=rerank,
            keywords=keywords,
        )
        if sum(each is not None for each in (query, id, text)) > 1:
            raise InputError("a search has one query: an image, the id of a row, or a text")
        if query is None and id is None and text is None and keywords is None:
            raise InputError("no query: pass an image, the id of a row, a text or keywords")

        def run(opened: _Opened) -> Hits:
            if text is not None:
                vectors = region.encode_text(text, opened.encoder)
            elif id is not None:
                opened = opened.snapshot()  # the query is a row of what is searched
                needs = options.needs_image
                vectors = region.encode_row(id, opened, self.open_rows, needs)
            elif query is not None:
                vectors = region.encode_image(query, opened.encoder)
            else:
                vectors = region.without_image(str(keywords), opened.store.dim)
            # The snapshot is of the gallery of this encoder, or an error.
            read = partial(self.read_images, reduce=reduce_image)
            hits = options.run(opened.snapshot().store, vectors, read)
            return Hits(vectors.name, options.metric, hits, vectors.uri)

        return self._read(run)

    def items(self) -> ItemSource:
        """Return the rows as a source of images, ordered by id.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        records = self._read(lambda opened: list(opened.store.records()))
        return ItemSource(self.path.name, str(self.path), self.open_rows(records))

    def open_rows(self, rows: Iterable[Record | Hit], *, public_only: bool = False) -> list[Item]:
        """Open the images of rows, which are fetched and decoded as when they were indexed.

        Args:
            rows: of this gallery.
            public_only: fetch from the public internet only, whatever is recorded.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        recorded = {
            name: SourceOptions.from_dict(fields) for name, fields in self.source_options.items()
        }
        items: list[Item] = []
        for row in rows:
            options = recorded.get(row.id.partition(":")[0], DEFAULT_SOURCE_OPTIONS)
            if public_only:
                options = replace(options, allow_private_urls=False)
            (item,) = open_items([row.uri], options=options)
            items.append(replace(item, id=row.id, metadata=row.metadata))
        return items

    def read_image(self, row: Record | Hit, *, full_size: bool = False) -> ImageArray | None:
        """Return the image of a row, see :meth:`open_rows`; None if it cannot be read.

        Raises:
            CancelledError: the work was cancelled, or its time is over.
        """
        try:
            return self.open_rows([row])[0].image(full_size=full_size)
        except CancelledError:
            raise
        except LookalikeError:  # whatever its URI names: a file, an address, a data set, a shard
            return None

    def read_images(
        self,
        rows: Iterable[Record | Hit],
        reduce: Callable[[ImageArray], ImageArray] | None = None,
    ) -> list[ImageArray | None]:
        """Return the images of rows; None where one cannot be read.

        Args:
            rows: of this gallery.
            reduce: applied to each image as soon as it is decoded, so that only as many as there
                are threads are ever in memory at full size.

        Raises:
            CancelledError: the work was cancelled, or its time is over.
        """

        def read(row: Record | Hit) -> ImageArray | None:
            check_cancelled()
            image = self.read_image(row)
            return image if image is None or reduce is None else reduce(image)

        return list(thread_map(read, rows, batch_size=1))

    def info(self) -> dict[str, Any]:
        """Return facts about the gallery, as JSON values."""
        now = self.snapshot()
        state, opened = now.state, now._opened
        return {
            "format": opened.fields["format"],
            "identity": state.identity,
            "revision": state.revision,
            "rows": len(now),
            "encoder": now._encoder_facts["name"],
            "fingerprint": opened.fingerprint,
            "dim": now.store.dim,
            "metric": now.metric.value,
            "sources": now.sources,
            **({"source_options": now.source_options} if now.source_options else {}),
            "bytes": _size(now.path),
            **opened.storage.facts,
        }

    def _write_count(self) -> None:
        """Write the manifest, of which only the number of rows has changed since they were written.

        They are written, whatever happens here: nobody relies on that number.
        """
        try:
            self._write_manifest()
        except StorageError as error:
            log.warning("%s: its number of rows is out of date: %s", self.path, error)

    def _write_manifest(self) -> None:
        opened = self._writer or self._current()
        opened.storage.write(
            {
                "encoder": self._encoder_facts,
                "dim": self._store.dim,
                "metric": self.metric.value,
                "sources": self.sources,
                "source_options": {
                    name: options for name, options in self.source_options.items() if options
                },
                "written": sorted(self.written),
                "rows": len(self),
            }
        )


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; files may come and go meanwhile."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size
