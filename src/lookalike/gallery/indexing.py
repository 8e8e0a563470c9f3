"""Syncing a gallery with its sources."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.arguments import checked
from lookalike.errors import (
    InputError,
    SettingError,
    SourceError,
)
from lookalike.files import escape_name
from lookalike.gallery.archive import values_by_content
from lookalike.gallery.lookup import records_of
from lookalike.gallery.state import GalleryState
from lookalike.gallery.writing import WritableGallery
from lookalike.progress import ProgressOption, reporting
from lookalike.stores.base import (
    replaced_error,
)

if TYPE_CHECKING:
    from lookalike.gallery.ingest import ExistingRows, IngestSummary, Runner, Turn
    from lookalike.gallery.sync import LocatedSource, SyncReport
    from lookalike.sources import Source
    from lookalike.types import ProgressCallback

# Sources, and with them all decoders of images, are imported when something is indexed: most
# galleries are opened to be searched.


class IndexedGallery(WritableGallery):
    """A gallery that follows sources of images."""

    @checked
    def sync(  # noqa: PLR0913 - keyword options of the public call
        self,
        source: str | Path | Source,
        *,
        allow_removals: bool = False,
        relocate: bool = False,
        dry_run: bool = False,
        rehash: bool = False,
        restore_removed: bool = False,
        progress: ProgressOption = True,
        runner: Runner | None = None,
    ) -> SyncReport:
        """Bring the rows of one source up to date: new, changed, moved and removed images.

        Batches are committed to disk as they complete; an interrupted sync resumes when it is
        called again. A row is removed only if its file is gone: a file that exists but cannot be
        read now keeps its row. What was written into columns that come from no source is kept when
        a row is removed, and comes back with an image of the same content. Images that were removed
        from the gallery (:meth:`remove`) are left out, and counted as skipped.

        A source that is gone from its recorded location, and most of whose images are here, has
        moved: its rows stay.

        Args:
            source: what :func:`lookalike.open_source` takes, or an opened source.
            allow_removals: allow removing more than half of the source's rows, or all.
            relocate: update the location of the source of this name; its rows stay.
            dry_run: count the changes without writing. Images are not decoded, so unreadable ones
                are not found.
            rehash: read files again whose size and modification time are unchanged.
            restore_removed: add the images again that were removed from the gallery.
            progress: True shows it on a terminal or in a notebook; False does not; a callback gets
                it after every chunk of a batch.
            runner: encodes the images elsewhere (:mod:`lookalike.gallery.ray_runner`).

        Raises:
            SourceError: the source is missing or empty, another source has its name or location,
                more than half of its rows would be removed, or none of its images can be indexed.
            StorageError: a batch could not be written, or another process is writing.
            SettingError: a dry run has a runner.
        """
        from lookalike.gallery import ann_index
        from lookalike.gallery.ingest import ExistingRows, count_changes
        from lookalike.gallery.sync import SyncReport, missing_ids, missing_rows
        from lookalike.sources import Source

        if dry_run and runner is not None:
            raise SettingError(
                "{dry_run} encodes nothing; remove {runner}", dry_run=None, runner=None
            )
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            on_progress = stack.enter_context(reporting(progress))
            if isinstance(source, str | Path):
                source = self.open_source(source, on_progress, empty=allow_removals)
            elif not isinstance(source, Source):
                raise InputError(
                    f"source: expected a folder, or whatever else lookalike.open_source opens, not "
                    f"{type(source).__name__}; images are added with Gallery.add"
                )
            if not dry_run:
                self._check_encodes()
                stack.enter_context(self._indexing())
            located = self._locate(source, relocate=relocate)
            source = located.source
            rows = {record.id: record for record in self._store.records(f"{source.name}:")}
            missing = missing_rows(source, rows, allow_removals=allow_removals)
            moved_from = {rows[row_id].content_hash: row_id for row_id in sorted(missing.removed)}
            values = {**self.archive, **values_by_content(rows.values(), self.written)}
            known = self.removed.get(source.name, {})
            left_out = {} if restore_removed else known
            gone = missing_ids(source, left_out.keys()).removed
            existing = ExistingRows(
                rows,
                moved_from,
                left_out,
                frozenset(left_out[row_id] for row_id in gone),
                self.written,
                values,
                rehash,
            )
            if dry_run:
                summary = count_changes(source, existing, on_progress)
            else:
                removed = sorted(missing.removed)
                restored = known.keys() - left_out.keys() | known.keys() & rows.keys() | gone
                summary = self._write_changes(
                    source, existing, removed, restored, on_progress, runner
                )
                ann_index.update(self.store, self.metric, on_progress)
        return SyncReport.of(located, summary, missing, time.perf_counter() - start)

    @checked
    def open_source(
        self,
        spec: str | Path,
        progress: ProgressOption = True,
        *,
        empty: bool = False,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Source:
        """Open a source with the options that it was indexed with.

        Args:
            spec: what :func:`lookalike.open_source` takes.
            progress: True shows downloads on a terminal or in a notebook; a callback gets it.
            empty: allow a folder without images.
            name: the name of the source; by default the one that the gallery has for its location,
                or that of the folder or file.
            options: fields of :meth:`lookalike.sources.SourceOptions.as_dict` to change.

        Raises:
            SourceError: see :func:`lookalike.open_source`.
        """
        from lookalike.gallery.sync import is_gone, same_location
        from lookalike.sources import SourceOptions, open_source
        from lookalike.sources.base import source_name

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
        return open_source(spec, progress, empty=empty, name=name, options=opened)

    def _check_encodes(self) -> None:
        """Refuse an external encoder whose function is not here, before each image fails.

        Raises:
            InputError: it is one.
        """
        encoder = self.encoder
        if not encoder.is_available:
            encoder.encode_batch([])

    def _locate(self, source: Source, *, relocate: bool) -> LocatedSource:
        """Return a source under its name in the gallery, opened with its recorded options.

        A source that has moved is recognized by the images that its options take.
        """
        from lookalike.gallery.sync import is_gone, locate_source
        from lookalike.sources import FolderSource

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
        from lookalike.sources import SourceOptions, open_source
        from lookalike.sources.opening import with_name

        recorded = self.source_options.get(name)
        if not recorded:
            return with_name(source, name)
        options = SourceOptions.from_dict({**recorded, **source.options.as_dict()})
        return open_source(source.spec, empty=True, name=name, options=options)

    def _write_changes(
        self,
        source: Source,
        existing: ExistingRows,
        removed: Sequence[str],
        restored: Set[str],
        on_progress: ProgressCallback,
        runner: Runner | None,
    ) -> IngestSummary:
        """Add, update and remove the rows of a source; ids in ``restored`` are no longer left out.

        Others may write between its batches, unless a runner writes rows itself. The list of
        sources is restored if every image fails.
        """
        from lookalike.gallery.ingest import IngestTarget, ingest
        from lookalike.gallery.sync import all_failed_error

        with contextlib.nullcontext() if runner is None else self._writing():
            before = self._register(source, existing, keep=runner is not None)
            encoder, identity = self.encoder, self.state.identity
            target = IngestTarget(encoder, self._store, lambda: self._turn(source, identity))
            summary = ingest(source, target, existing, on_progress, runner)
            with self._turn(source, identity) as turn:
                if len(source) and len(summary.failed) == len(source):
                    self._restore_source(source.name, *before)
                    raise all_failed_error(source, summary)
                self._follow_removed(source.name, restored, summary.left_out)
                turn.archive.keep(records_of(turn.store, removed), turn.written)
                turn.store.delete(removed)
                turn.archive.expire()
                self._sweep_uploads()
                turn.store.optimize(self.metric)
                self._write_manifest()
        return summary

    def _follow_removed(self, name: str, restored: Set[str], left_out: Mapping[str, str]) -> None:
        """Bring the images of a source that are left out up to date; some have moved."""
        before = self._removed().read().get(name, {})
        now = {row_id: each for row_id, each in before.items() if row_id not in restored}
        now |= left_out
        if now != before:
            self._removed().replace_source(name, now)

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
        from lookalike.gallery.ingest import Turn

        with self._writing():
            if GalleryState.of(self._store).identity != identity:
                raise replaced_error(self.path)
            if source.name not in self.sources:
                raise SourceError(
                    f"{source.spec}: the source {source.name!r} was removed from the gallery while "
                    "it was indexed; index it again to add it"
                )
            yield Turn(self._store, self._archive(), self.written)
