"""Writing the rows of a gallery: one process at a time, each batch completely or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.arguments import checked
from lookalike.artifacts import sole_writer
from lookalike.config import settings
from lookalike.errors import (
    FingerprintError,
    InputError,
    SettingError,
    StorageError,
    UnknownNameError,
)
from lookalike.files import unescape_name
from lookalike.gallery.archive import ColumnArchive
from lookalike.gallery.edits import EDITED, written_values
from lookalike.gallery.ids import UPLOADS, as_ids
from lookalike.gallery.lookup import matching_ids, records_of
from lookalike.gallery.opening import StoredGallery
from lookalike.gallery.removed import Removed, RemovedImages
from lookalike.gallery.state import GalleryState
from lookalike.gallery.storage import (
    IMAGES,
    INDEXING,
    LOCK,
    QUEUE,
)
from lookalike.progress import ProgressOption, reporting
from lookalike.stores.base import (
    Rows,
    matching_rows,
)

if TYPE_CHECKING:
    from lookalike.filters import Where
    from lookalike.types import Metadata

_UPLOADED = re.compile(r"\.?[0-9a-f]{24}-[0-9a-f]{16}(\.[0-9a-z.]*)?")
"""Names of files of uploaded images, and of those that were being written."""

log = logging.getLogger(__name__)


class WritableGallery(StoredGallery):
    """A gallery whose rows can be written, removed and optimized."""

    @property
    def archive(self) -> Mapping[str, Mapping[str, Any]]:
        """What was written about images whose rows are gone: columns by content hash."""
        return self._archive().values

    def _archive(self) -> ColumnArchive:
        """Return what was written about images whose rows are gone."""
        opened = self._writer or self._current()
        return ColumnArchive(opened.storage, str(self.address or self.path))

    @property
    def removed(self) -> Removed:
        """Images that were removed while their files stayed: content hashes by id, by source."""
        return self._removed().read()

    def leave_out(self, removed: Removed) -> None:
        """Let syncs leave these images out, and no others; see :attr:`removed`.

        Raises:
            StorageError: it could not be written, or another process is writing.
        """
        with self._writing():
            self._removed().replace(removed)

    def _removed(self) -> RemovedImages:
        """Return the images that a sync leaves out."""
        opened = self._writer or self._current()
        return RemovedImages(opened.storage, str(self.address or self.path))

    @contextlib.contextmanager
    def _indexing(self) -> Iterator[None]:
        """Let no other process sync a source of the gallery during the block; others may write.

        Raises:
            InputError: this is a snapshot.
            ArtifactError: the gallery is gone, or broken.
            BusyError: another process is syncing for too long.
        """
        self.check_writable()
        what, wait = f"the gallery {self.path}", settings().lock_wait
        with sole_writer(self.path / INDEXING, what=what, wait=wait):
            self._current(reread=True)
            yield

    def check_writable(self) -> None:
        """Check that rows can be written here.

        Raises:
            InputError: this is a snapshot.
            ArtifactError: the gallery is gone, or broken.
        """
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
        self.check_writable()
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
        archive, columns = self._archive(), self.written - {EDITED}
        metadata = []
        for record in rows.records():
            row = before.get(record.id)
            if row is not None and row.content_hash == record.content_hash:
                own: Mapping[str, Any] = row.metadata
                del before[record.id]
            else:
                own = archive.values.get(record.content_hash, {})
            metadata.append({**record.metadata, **written_values(own, columns)})
        archive.keep(before.values(), self.written)
        return replace(rows, metadata=metadata)

    def _refuse_other_rows(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.path}: rows of the encoder with fingerprint {fingerprint[:12]} cannot be "
                f"mixed with rows of {self._encoder_facts['name']!r}"
            )

    @checked
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
        ids = as_ids(ids)
        view = self.snapshot().store
        if where is not None:
            from lookalike.filters import as_filter

            numbers = matching_rows(as_filter(where), view.columns())
            return [] if numbers is None else sorted(view.ids_at(numbers))
        return matching_ids(view, ids)

    @checked
    def remove_rows(
        self,
        ids: Sequence[str] | None = None,
        *,
        source: str | None = None,
        where: Where | None = None,
        purge: bool = False,
        wait: float | None = None,
    ) -> int:
        """Delete rows and return how many existed; the files of sources stay.

        The next sync of their source leaves them out, also under another name, unless it is told
        to restore them. What was written into columns that come from no source is kept for 30 days,
        and comes back with an image of the same content. Files of uploaded images are deleted.
        Other metadata of the rows is gone from disk with the next :meth:`purge`.

        Args:
            ids: of the rows.
            source: delete all rows of this source, and forget the source.
            where: delete the rows that match a filter.
            purge: keep nothing about them but ids and content hashes of what a sync leaves out, and
                :meth:`purge` the gallery.
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
            if source is None:
                self._removed().add(records, self.sources.keys() - {UPLOADS})
            count = self._store.delete(chosen)
            if source is not None:
                self.sources.pop(source, None)
                self.source_options.pop(source, None)
                self._write_manifest()
                self._removed().replace_source(source, {})
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

    @checked
    def optimize(self, *, wait: float | None = None) -> None:
        """Compact the files if over 30 % of their slots are of removed rows; update the index.

        Args:
            wait: seconds to wait for other writers; by default that of the settings.

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing(wait):
            self._archive().expire()
            self._sweep_uploads()
            self._compact()

    @checked
    def build_ann_index(self, *, progress: ProgressOption | None = None) -> dict[str, Any]:
        """Build an approximate (ANN) index, or add the rows that it lacks; return facts about it.

        From then on, search uses it unless ``exact`` is set: a few times as fast in over 100,000
        rows, and neighbors may be missing (:func:`lookalike.gallery.recall.measure_recall`). Rows
        that are newer, and filters that match few rows, are searched exactly. Each sync keeps it up
        to date. It is built by one thread, in about five minutes for 500,000 rows of 256
        dimensions; others may read and write meanwhile, and an interrupted one is resumed.

        Args:
            progress: True shows it on a terminal or in a notebook; a callback gets it.

        Raises:
            InputError: there are fewer than 100,000 rows, or they are on a server.
            MissingDependencyError: usearch is missing.
            StorageError: it could not be written, or another process is building it.
        """
        from lookalike.gallery import ann_index

        self.check_writable()
        with reporting(progress) as on_progress:
            ann_index.build(self.store, self.metric, on_progress)
        return dict(ann_index.facts(self.store, self.metric)["index"])

    @checked
    def drop_ann_index(self) -> bool:
        """Delete the approximate index, so that search is exact; return whether there was one.

        Raises:
            StorageError: it could not be deleted, or another process is writing.
        """
        from lookalike.gallery import ann_index

        with self._writing():
            return ann_index.drop(self._store, self.metric)

    def purge(self) -> None:
        """Delete what is left on disk of rows that were removed or replaced, at once.

        Labels that are kept for their images are deleted, too, and so is a map, evaluation or
        labeling session of an earlier state. Until then, the embeddings of removed rows stay in the
        files, where nothing reads them. Who reads the gallery meanwhile goes on undisturbed. An
        approximate index is not used afterwards, which is said (:meth:`build_ann_index`).

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing():
            archive = self._archive()
            archive.expire()
            archive.drop(archive.values)
            self._purge()

    def _purge(self) -> None:
        from lookalike.gallery import ann_index
        from lookalike.gallery.derived import delete_outdated

        self._sweep_uploads()
        delete_outdated(self.path, GalleryState.of(self._store))
        self._compact(purge=True)
        ann_index.note_if_unused(self.path, self._store, self.metric)

    def _compact(self, *, purge: bool = False) -> None:
        """Optimize the store; what was derived from its rows stays current."""
        from lookalike.gallery.derived import keep_current

        before = GalleryState.of(self._store)
        self._store.optimize(self.metric, purge=purge)
        keep_current(self.path, before, GalleryState.of(self._store))

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
