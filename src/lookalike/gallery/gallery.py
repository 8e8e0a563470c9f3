"""Gallery: one encoder, one store and its sources, as a folder on disk."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from lookalike.artifacts import sole_writer
from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    InputError,
    ReplacedError,
    SettingError,
)
from lookalike.filters import Where
from lookalike.gallery.ingest import (
    ExistingRows,
    IngestSummary,
    IngestTarget,
    Runner,
    count_changes,
    ingest,
)
from lookalike.gallery.state import GalleryState
from lookalike.gallery.storage import (
    ENCODER,
    IDENTITY,
    MANIFEST,
    create_storage,
    open_storage,
    read_gallery_manifest,
)
from lookalike.gallery.sync import SyncReport, all_failed_error, check_source, removed_ids
from lookalike.images.foreground import Box
from lookalike.search.query import Query, QueryRegion, read_images
from lookalike.search.search import SearchOptions
from lookalike.sources import ItemSource, Source, open_items, open_source
from lookalike.stores.base import RowReader, Rows, VectorStore, replaced_error
from lookalike.stores.milvus.address import Address
from lookalike.types import Hits, Metric, ProgressCallback, ignore_progress

LOCK = "writing.lock"

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
        """Return the same with the rows as they are now."""
        view = copy(self)
        view.store = self.storage.store.snapshot()
        return view

    def is_current(self) -> bool:
        """Return whether the gallery in its place is the one that was opened, and read it again.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        stamp = self.storage.stamp()
        fields = self.storage.read()
        try:
            identity = GalleryState.of(self.storage.store).identity
        except ReplacedError:
            return False
        same_encoder = fields["encoder"] == self.fields["encoder"]
        if fields.get(IDENTITY, identity) != identity or not same_encoder:
            return False
        self.stamp, self.fields = stamp, fields
        return True


class Gallery:
    """A searchable collection of images. Create one with :meth:`create`, or :meth:`open` it.

    ``path`` is its folder; ``address`` the Milvus collection of its rows, if they are not in the
    folder; ``metric`` the default metric of searches; ``sources`` maps the name of each source to
    its specification; ``written`` are metadata columns that come from no source, such as
    propagated labels: a sync keeps them while the image's content stays the same.

    Whenever it is used, it sees what other processes have written. If another gallery was put in
    its place, that one is opened: encoder and rows are always of one gallery. Where there is none,
    or half of one, an ArtifactError says so, and the next use tries again.
    """

    def __init__(self, location: str | Path) -> None:
        self._location = location
        self._is_snapshot = False
        self._checking = threading.RLock()
        self._writer: _Opened | None = None
        self._open()

    def _open(self) -> None:
        """Open the gallery that is in its place."""
        opened = _Opened(self._location)
        try:
            self._apply(opened)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{opened.storage.path / MANIFEST}: missing or invalid field {error}"
            ) from error
        self._opened = opened

    def _apply(self, opened: _Opened) -> None:
        """Take over what the manifest says."""
        fields = opened.fields
        self.path = opened.storage.path
        self.address = opened.storage.address
        self.metric = Metric(fields["metric"])
        self.sources: dict[str, str] = dict(fields["sources"])
        self.written = frozenset(fields.get("written", ()))
        self._encoder_facts: Mapping[str, str] = {
            name: fields["encoder"][name] for name in ("name", "fingerprint")
        }

    def _current(self, *, check: bool = False) -> _Opened:
        """Return the parts of the gallery that is in its place, opened again if that is another.

        Args:
            check: check its rows too; by default only whether its manifest was written or replaced.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        if self._is_snapshot:
            return self._opened
        opened = self._opened
        if not check and opened.storage.stamp() == opened.stamp:
            return opened
        with self._checking:
            opened = self._opened
            if not opened.is_current():
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
    def encoder(self) -> Encoder:
        """The encoder of its rows.

        Raises:
            ArtifactError: it is missing or broken.
            FingerprintError: its fingerprint is not that of the rows.
        """
        return self._read(lambda opened: opened.encoder)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder of its rows."""
        return self._current().fingerprint

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
        view = copy(self)
        view._opened = self._read(_Opened.snapshot)
        view._is_snapshot, view._writer = True, None
        view._apply(view._opened)
        return view

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

    def sync(
        self,
        source: str | Path | Source,
        *,
        allow_removals: bool = False,
        relocate: bool = False,
        dry_run: bool = False,
        on_progress: ProgressCallback = ignore_progress,
        runner: Runner | None = None,
    ) -> SyncReport:
        """Bring the rows of one source up to date: new, changed, moved and removed images.

        Batches are committed to disk as they complete; an interrupted sync resumes when it is
        called again. An image that can no longer be read keeps its row.

        Args:
            source: what :func:`lookalike.open_source` takes, or an opened source.
            allow_removals: allow removing more than half of the source's rows, or all.
            relocate: update the location of the source of this name; its rows stay.
            dry_run: count the changes without writing. Images are not decoded, so unreadable ones
                are not found.
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
            source = open_source(source, on_progress, empty=allow_removals)
        with contextlib.nullcontext() if dry_run else self._writing():
            check_source(source, self.sources, relocate=relocate)
            rows = {record.id: record for record in self._store.records(f"{source.name}:")}
            removed = removed_ids(source, rows, allow_removals=allow_removals)
            moved_from = {rows[row_id].content_hash: row_id for row_id in sorted(removed)}
            existing = ExistingRows(rows, moved_from, self.written)
            if dry_run:
                summary = count_changes(source, existing, on_progress)
            else:
                target = IngestTarget(self.encoder, self._store)
                summary = self._write_changes(source, target, existing, on_progress, runner)
                self._store.delete(sorted(removed))
                self._store.optimize(self.metric)
                self._write_manifest()
        return SyncReport.of(source, summary, removed, time.perf_counter() - start)

    def _write_changes(
        self,
        source: Source,
        target: IngestTarget,
        existing: ExistingRows,
        on_progress: ProgressCallback,
        runner: Runner | None,
    ) -> IngestSummary:
        """Add and update the rows of a source; restore the list of sources if every image fails."""
        before = dict(self.sources)
        self.sources[source.name] = source.spec
        self._write_manifest()
        summary = ingest(source, target, existing, on_progress, runner)
        if len(source) and len(summary.failed) == len(source):
            self.sources = before
            self._write_manifest()
            raise all_failed_error(source, summary)
        return summary

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the write lock, with the manifest read again: others may have written before.

        What is written goes to this very gallery, or fails if another was put in its place.

        Raises:
            InputError: this is a snapshot.
            ArtifactError: the gallery is gone, or broken.
        """
        if self._is_snapshot:
            raise InputError(f"{self.path}: this is a snapshot, which cannot be written")
        self._current()  # or the lock would create the folder of a gallery that is gone
        with sole_writer(self.path / LOCK, what=f"the gallery {self.path}"):
            with self._checking:
                self._writer = self._current(check=True)
            try:
                yield
            finally:
                self._writer = None

    def upsert(
        self,
        rows: Rows | Iterable[Rows],
        *,
        fingerprint: str,
        sources: Mapping[str, str] | None = None,
        written: Set[str] = frozenset(),
    ) -> None:
        """Insert or replace rows that are already encoded, in one batch or several.

        Args:
            rows: the rows.
            fingerprint: of their encoder.
            sources: specifications of new sources, by name.
            written: metadata columns that come from no source.

        Raises:
            FingerprintError: they are not of this gallery's encoder.
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
        """
        with self._writing():
            self._refuse_other_rows(fingerprint)
            for batch in (rows,) if isinstance(rows, Rows) else rows:
                self._store.upsert(batch)
            self.sources |= sources or {}
            self.written |= written
            self._write_manifest()

    def _refuse_other_rows(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.path}: rows of the encoder with fingerprint {fingerprint[:12]} cannot be "
                f"mixed with rows of {self._encoder_facts['name']!r}"
            )

    def remove(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed.

        Raises:
            StorageError: they could not be deleted, or another process is writing.
        """
        with self._writing():
            count = self._store.delete(ids)
            self._write_manifest()
        return count

    def optimize(self) -> None:
        """Merge small files, update the index and delete old versions of the table.

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing():
            self._store.optimize(self.metric)

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
                needs = options.needs_image
                vectors = region.encode_row(id, opened.store, lambda: opened.encoder, needs)
            elif query is not None:
                vectors = region.encode_image(query, opened.encoder)
            else:
                vectors = region.without_image(str(keywords), opened.store.dim)
            # The snapshot is of the gallery of this encoder, or an error.
            hits = options.run(opened.snapshot().store, vectors, read_images)
            return Hits(vectors.name, options.metric, hits, vectors.uri)

        return self._read(run)

    def items(self) -> ItemSource:
        """Return the rows as a source of images, ordered by id.

        Raises:
            SourceError: the source of some rows is missing. A missing file raises when it is read.
        """
        records = self._read(lambda opened: list(opened.store.records()))
        opened = open_items([record.uri for record in records])
        items = [
            replace(item, id=record.id, metadata=record.metadata)
            for item, record in zip(opened, records, strict=True)
        ]
        return ItemSource(self.path.name, str(self.path), items)

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
            "bytes": _size(now.path),
            **opened.storage.facts,
        }

    def _write_manifest(self) -> None:
        opened = self._writer or self._current()
        opened.storage.write(
            {
                "encoder": self._encoder_facts,
                "dim": self._store.dim,
                "metric": self.metric.value,
                "sources": self.sources,
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
