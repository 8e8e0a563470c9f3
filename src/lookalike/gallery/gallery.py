"""Gallery: one encoder bound to one store and its sources, as a folder on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from lookalike.artifacts import sole_writer
from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, FingerprintError, InputError
from lookalike.filters import Where
from lookalike.gallery.ingest import ExistingRows, IngestSummary, Runner, ingest
from lookalike.gallery.storage import (
    ENCODER,
    MANIFEST,
    GalleryStorage,
    create_storage,
    open_storage,
    read_gallery_manifest,
)
from lookalike.gallery.sync import SyncReport, all_failed_error, check_source, removed_ids
from lookalike.images.foreground import Box
from lookalike.search.query import Query, QueryRegion, read_images
from lookalike.search.search import SearchOptions
from lookalike.sources import ItemSource, Source, open_items, open_source
from lookalike.stores.base import Rows, VectorStore
from lookalike.stores.milvus.address import Address
from lookalike.types import Hits, Metric, ProgressCallback, ignore_progress

LOCK = "writing.lock"


class Gallery:
    """A searchable collection. Make one with :meth:`create` or :meth:`open`.

    ``path`` is its folder, ``address`` where its rows are if not in it, ``metric`` the one that
    searches use unless told otherwise, ``sources`` maps the name of each source to the text that
    opens it, and ``written`` are columns that no source gave, as labels: they stay while images do.
    """

    def __init__(self, home: GalleryStorage, fields: Mapping[str, Any]) -> None:
        self.path = home.path
        self.address = home.address
        self.metric = Metric(fields["metric"])
        self.sources: dict[str, str] = dict(fields["sources"])
        self.written = frozenset(fields.get("written", ()))
        self._described = fields["encoder"]
        self._home = home
        self._store = home.store

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: Encoder,
        metric: Metric | str = Metric.COSINE,
        store: str | None = None,
    ) -> Self:
        """Make an empty gallery, whole or not at all.

        Args:
            path: its folder; or the address of a collection, ``milvus://HOST:PORT/NAME``.
            encoder: of its rows.
            metric: what its searches use unless told otherwise.
            store: an address: the rows go there, and the folder holds the address.

        Raises:
            ArtifactError: the folder exists and is not empty, or the collection exists.
            UnreachableError: the server does not answer.
            StorageError: it could not be written.
        """
        made = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        fields = {"encoder": made, "dim": encoder.dim, "metric": Metric(metric).value}
        address = None if store is None else Address.parse(store)
        create_storage(path, {**fields, "sources": {}, "rows": 0}, encoder, address)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a gallery by its folder, or by the address of its rows in Milvus.

        Raises:
            ArtifactError: not a gallery, or broken.
            FormatVersionError: a newer lookalike wrote it.
            UnreachableError: the server of its rows does not answer.
        """
        home = open_storage(path)
        try:
            return cls(home, read_gallery_manifest(home))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{home.path / MANIFEST}: misses or misstates {error}") from error

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of all its rows.

        Raises:
            ArtifactError: it is missing or broken.
            FingerprintError: it is not the one that the rows were made with.
        """
        encoder = load_encoder(self.path / ENCODER)
        self.check_fingerprint(encoder)
        return encoder

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder that its rows were made with."""
        return str(self._described["fingerprint"])

    @property
    def store(self) -> VectorStore:
        """The rows."""
        return self._store

    def check_fingerprint(self, encoder: Encoder) -> None:
        """Raise FingerprintError unless the rows were made with this encoder."""
        expected = self._described["fingerprint"]
        if encoder.fingerprint != expected:
            raise FingerprintError(
                f"{self.path}: made with encoder {self._described['name']!r} "
                f"({expected[:12]}), not with {encoder.name!r} ({encoder.fingerprint[:12]}); "
                "their vectors cannot be mixed: make a new gallery for the other encoder"
            )

    def __len__(self) -> int:
        return self._store.count()

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

        Batches are committed, and on disk, as they come; interrupted at any point and called
        again, it goes on from there. An image that can no longer be read keeps the row it had.

        Args:
            source: what :func:`lookalike.open_source` takes, or an opened source.
            allow_removals: go on although the source is empty or more than half of its rows gone.
            relocate: the source of this name now lies here; its rows are kept.
            dry_run: change nothing, only say what would be done. Nothing is decoded, so that
                broken images are not found.
            on_progress: told after every piece of a batch.
            runner: where images are encoded, if not here (:mod:`lookalike.gallery.ray_runner`).

        Raises:
            SourceError: the source is missing or empty, its name or its place is taken by another
                one, more than half of its rows are gone, or not one of its images can be indexed.
            StorageError: a batch could not be written, or another process is writing.
        """
        start = time.perf_counter()
        if isinstance(source, str | Path):
            source = open_source(source, on_progress, empty=allow_removals)
        with contextlib.nullcontext() if dry_run else self._writing():
            check_source(source, self.sources, relocate=relocate)
            rows = {record.id: record for record in self._store.records(f"{source.name}:")}
            gone = removed_ids(source, rows, allow_removals=allow_removals)
            moved = {rows[row_id].content_hash: row_id for row_id in sorted(gone)}
            known = ExistingRows(rows, moved, self.written)
            run = partial(ingest, on_progress=on_progress, runner=runner)
            if dry_run:
                outcome = run(source, None, None, known)
            else:
                outcome = self._take_in(source, known, gone, run)
        return SyncReport.of(source, outcome, gone, time.perf_counter() - start)

    def _take_in(
        self, source: Source, known: ExistingRows, gone: Set[str], run: Callable[..., IngestSummary]
    ) -> IngestSummary:
        """Write what is new of a source and delete what is gone."""
        before = dict(self.sources)
        self.sources[source.name] = source.spec
        self._write_manifest()
        outcome = run(source, self.encoder, self._store, known)
        if len(source) and len(outcome.failed) == len(source):
            self.sources = before
            self._write_manifest()
            raise all_failed_error(source, outcome)
        self._store.delete(sorted(gone))
        self._store.optimize(self.metric)
        self._write_manifest()
        return outcome

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only writer, knowing what others wrote before."""
        with sole_writer(self.path / LOCK, what=f"the gallery {self.path}"):
            fields = self._home.read()
            self.sources = dict(fields["sources"])
            self.written = frozenset(fields.get("written", ()))
            yield

    def upsert(
        self,
        rows: Rows | Iterable[Rows],
        *,
        fingerprint: str,
        sources: Mapping[str, str] | None = None,
        written: Set[str] = frozenset(),
    ) -> None:
        """Insert or replace rows whose embeddings were made elsewhere, in one batch or several.

        ``sources`` maps names of sources, new ones among them, to the texts that open them;
        ``written`` are columns that no source gives.

        Raises:
            FingerprintError: not with this gallery's encoder.
            InputError: embeddings of another length, not finite, or an id twice.
        """
        if fingerprint != self._described["fingerprint"]:
            raise FingerprintError(
                f"{self.path}: rows made with an encoder of fingerprint {fingerprint[:12]} cannot "
                f"be mixed with those of {self._described['name']!r}"
            )
        with self._writing():
            for batch in (rows,) if isinstance(rows, Rows) else rows:
                self._store.upsert(batch)
            self.sources |= sources or {}
            self.written |= written
            self._write_manifest()

    def remove(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many there were.

        Raises:
            StorageError: they could not be deleted, or another process is writing.
        """
        with self._writing():
            count = self._store.delete(ids)
            self._write_manifest()
        return count

    def optimize(self) -> None:
        """Merge small files that many small writes left, and drop versions long past.

        Raises:
            StorageError: it could not be done, or another process is writing.
        """
        with self._writing():
            self._store.optimize(self.metric)

    def search(
        self,
        query: Query | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the word its users have for it
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
        """Return the ``k`` rows that look most like one query, nearest first.

        Args:
            query: a path (``str`` or Path), a file's bytes, a PIL image, an array ``(H, W)`` or
                ``(H, W, 3)`` uint8, or an item of a source.
            id: instead of an image, the id of a row; the row itself is no hit.
            text: instead of an image, words, if the encoder takes them.
            k: how many, at least 1.
            metric: ``l2`` or ``cosine``; the gallery's own unless given.
            where: only rows whose metadata match, as ``"year >= 2020"`` or
                ``{"year": {"gte": 2020}}`` (see :mod:`lookalike.filters`).
            max_distance: only hits as near as this, in the metric's units.
            exact: look at every row, also of a gallery so large that it has an index.
            box: x, y, width and height in pixels: only this part of the query.
            foreground: of the query, only the part that holds its item, where one is found.
            multi_crop: look at parts of the query too; each row counts with the nearest.
            rerank: names in :data:`lookalike.search.search.RERANKINGS`, or a text of them joined by
                ``+``, applied one after another to the first 200 hits. The order is theirs then,
                distances stay those from the query to the rows.
            keywords: looked for in the metadata (:mod:`lookalike.search.keywords`); fused by rank
                with what looks alike or, without a query, alone.

        Raises:
            ImageError: the query cannot be decoded, or the encoder does not take it.
            InputError: no row has the id, not just one of query, id and text was given, the
                encoder takes no words, the filter cannot be understood or does not fit, or the
                box is not inside the image.
            SettingError: ``k`` out of range.
            UnknownNameError: no such re-ranking.
        """
        look = QueryRegion(None if box is None else Box.from_sequence(box), foreground, multi_crop)
        metric = self.metric if metric is None else Metric(metric)
        asked = SearchOptions.of(k, metric, where, max_distance, exact, rerank, keywords)
        given = sum(each is not None for each in (query, id, text))
        if given > 1 or (given == 0 and keywords is None):
            raise InputError("a search needs one of a query image, the id of a row, or a text")
        if given == 0:
            views = look.without_image(str(keywords), self._store.dim)
        elif text is not None:
            views = look.encode_text(text, self.encoder)
        elif id is not None:
            views = look.encode_row(id, self._store, lambda: self.encoder, asked.needs_image)
        else:
            views = look.encode_image(query, self.encoder)
        return Hits(views.name, metric, asked.run(self._store, views, read_images), views.uri)

    def items(self) -> ItemSource:
        """Return the rows as a source of images, in order of id.

        Raises:
            SourceError: a source that rows came from is gone. A missing file is an error when read.
        """
        records = list(self._store.records())
        opened = open_items([record.uri for record in records])
        items = [
            replace(item, id=record.id, metadata=record.metadata)
            for item, record in zip(opened, records, strict=True)
        ]
        return ItemSource(self.path.name, str(self.path), items)

    def info(self) -> dict[str, Any]:
        """Return the facts that ``lookalike info`` prints."""
        return {
            "format": self._home.read()["format"],
            "rows": len(self),
            "encoder": self._described["name"],
            "fingerprint": self._described["fingerprint"],
            "dim": self._store.dim,
            "metric": self.metric.value,
            "sources": self.sources,
            "bytes": sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()),
            **self._home.facts,
        }

    def _write_manifest(self) -> None:
        self._home.write(
            {
                "encoder": self._described,
                "dim": self._store.dim,
                "metric": self.metric.value,
                "sources": self.sources,
                "written": sorted(self.written),
                "rows": len(self),
            }
        )
