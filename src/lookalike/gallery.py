"""Gallery: one encoder bound to one store and its sources, as a folder on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from lookalike.artifacts import new_folder, read_manifest, write_manifest
from lookalike.encoders.base import Encoder
from lookalike.encoders.catalog import load_encoder, write_encoder
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    ImageError,
    InputError,
    SettingError,
    SourceError,
)
from lookalike.images import ImageInput, decode
from lookalike.ingest import Failure, ingest
from lookalike.sources import Item, ItemSource, Source, open_items, open_source
from lookalike.stores.base import Record, Rows, VectorStore
from lookalike.stores.lance import LanceStore
from lookalike.types import (
    Embeddings,
    Hit,
    Hits,
    ImageArray,
    Metric,
    ProgressCallback,
    ignore_progress,
)

MANIFEST = "gallery.json"
ENCODER = "encoder"
STORE = "store"

Query = ImageInput | Item


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, in images. ``moved`` are those found again under another id."""

    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    failed: tuple[Failure, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        failed = [{"uri": f.uri, "reason": f.reason} for f in self.failed]
        counts = {
            name: getattr(self, name)
            for name in ("added", "updated", "moved", "removed", "unchanged")
        }
        return {**counts, "failed": failed, "seconds": round(self.seconds, 3)}


class Gallery:
    """A searchable collection. Make one with :meth:`create` or :meth:`open`.

    ``path`` is its folder, ``metric`` the one that searches use unless told otherwise, and
    ``sources`` maps the name of each source to the text that opens it.
    """

    def __init__(self, path: Path, fields: Mapping[str, Any], store: LanceStore) -> None:
        self.path = path
        self.metric = Metric(fields["metric"])
        self.sources: dict[str, str] = dict(fields["sources"])
        self._described = fields["encoder"]
        self._store = store

    @classmethod
    def create(
        cls, path: str | Path, *, encoder: Encoder, metric: Metric | str = Metric.COSINE
    ) -> Self:
        """Make an empty gallery, whole or not at all.

        Raises:
            ArtifactError: the folder exists and is not empty.
            StorageError: it could not be written.
        """
        folder = Path(path)
        with new_folder(folder) as partial:
            (partial / ENCODER).mkdir()
            write_encoder(encoder, partial / ENCODER)
            LanceStore.create(partial / STORE, encoder.dim)
            described = {"name": encoder.name, "fingerprint": encoder.fingerprint}
            fields = {"encoder": described, "dim": encoder.dim, "metric": Metric(metric).value}
            write_manifest(partial / MANIFEST, {**fields, "sources": {}, "rows": 0})
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a gallery folder.

        Raises:
            ArtifactError: not a gallery, or broken.
            FormatVersionError: a newer lookalike wrote it.
        """
        folder = Path(path)
        fields = read_manifest(folder / MANIFEST, what="a gallery")
        store = LanceStore.open(folder / STORE)
        try:
            gallery = cls(folder, fields, store)
            expected = fields["dim"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / MANIFEST}: misses or misstates {error}") from error
        if store.dim != expected:
            raise ArtifactError(
                f"{folder}: its table has {store.dim} dimensions, {MANIFEST} says {expected}"
            )
        return gallery

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
        on_progress: ProgressCallback = ignore_progress,
    ) -> SyncReport:
        """Bring the rows of one source up to date: new, changed, moved and removed images.

        Args:
            source: what :func:`lookalike.open_source` takes, or an opened source.
            allow_removals: go on although more than half of the source's rows are gone.
            on_progress: told after every batch.

        Raises:
            SourceError: the source is missing or empty, another one has its name, more than half
                of its rows are gone, or not one of its images can be indexed.
            StorageError: a batch could not be written; those before it are kept.
        """
        start = time.perf_counter()
        opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
        self._check_source(opened)
        known = {r.id: r.content_hash for r in self._records_of(opened.name)}
        gone = known.keys() - {item.id for item in opened} if known else set()
        if 2 * len(gone) > len(known) and not allow_removals:
            raise SourceError(
                f"{opened.spec}: {len(gone):,} of the {len(known):,} images that the gallery has "
                "from it are gone; if that is right, say --allow-removals. Nothing was changed"
            )
        outcome = ingest(opened, self.encoder, self._store, known, on_progress)
        if len(outcome.failed) == len(opened):
            first = outcome.failed[0]
            raise SourceError(
                f"{opened.spec}: not one of its {len(opened):,} images could be indexed; "
                f"the first, {first.uri}: {first.reason}"
            )
        self._store.delete(sorted(gone))
        self._store.compact()
        self.sources[opened.name] = opened.spec
        self._write_manifest()
        gone_hashes = [known[row_id] for row_id in gone]
        new_hashes = {outcome.hashes[row_id] for row_id in outcome.added}
        moved = sum(h in new_hashes for h in gone_hashes)
        return SyncReport(
            added=len(outcome.added) - moved,
            updated=len(outcome.updated),
            moved=moved,
            removed=len(gone) - moved,
            unchanged=len(outcome.unchanged),
            failed=tuple(outcome.failed),
            seconds=time.perf_counter() - start,
        )

    def upsert(self, rows: Rows, *, fingerprint: str) -> None:
        """Insert or replace rows whose embeddings were made elsewhere.

        Raises:
            FingerprintError: not with this gallery's encoder.
            InputError: embeddings of another length, not finite, or an id twice.
        """
        if fingerprint != self._described["fingerprint"]:
            raise FingerprintError(
                f"{self.path}: rows made with an encoder of fingerprint {fingerprint[:12]} cannot "
                f"be mixed with those of {self._described['name']!r}"
            )
        self._store.upsert(rows)
        self._write_manifest()

    def search(
        self,
        query: Query | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the word its users have for it
        n: int = 7,
        metric: Metric | str | None = None,
    ) -> Hits:
        """Return the ``n`` rows that look most like one query, nearest first.

        Args:
            query: a path (``str`` or Path), a file's bytes, a PIL image, an array ``(H, W)`` or
                ``(H, W, 3)`` uint8, or an item of a source.
            id: instead of an image, the id of a row; the row itself is no hit.
            n: how many, at least 1.
            metric: ``l2`` or ``cosine``; the gallery's own unless given.

        Raises:
            ImageError: the query cannot be decoded, or the encoder does not take it.
            InputError: no row has the id, or not just one of query and id was given.
            SettingError: ``n`` out of range.
        """
        if (query is None) == (id is None):
            raise InputError("a search needs either a query image or the id of a row")
        if id is not None:
            row = self._store.get([id])
            hits = self.search_embeddings(row.embeddings, [id], n, metric)[0]
            return replace(hits, query=id, uri=row.uris[0])
        name, uri, image = _decode_query(query)
        try:
            embeddings = self.encoder.encode([image])
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        own = query.id if isinstance(query, Item) else None
        hits = self.search_embeddings(embeddings, [own], n, metric)[0]
        return replace(hits, query=name, uri=uri)

    def search_embeddings(
        self,
        embeddings: Embeddings,
        own: Sequence[str | None],
        n: int,
        metric: Metric | str | None = None,
    ) -> list[Hits]:
        """Return the ``n`` nearest rows to each of ``(q, dim)`` float32 embeddings.

        ``own`` holds each query's own id, if it may be a row: that row is never a hit.
        """
        chosen = self.metric if metric is None else Metric(metric)
        if n < 1:
            raise SettingError(f"n = {n}: must be at least 1")
        spare = any(row_id is not None for row_id in own)
        found = self._store.search(embeddings, n + spare, chosen)
        return [
            Hits(own_id or "query", chosen, _without(hits, own_id, n))
            for hits, own_id in zip(found, own, strict=True)
        ]

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
            "format": read_manifest(self.path / MANIFEST, what="a gallery")["format"],
            "rows": len(self),
            "encoder": self._described["name"],
            "fingerprint": self._described["fingerprint"],
            "dim": self._store.dim,
            "metric": self.metric.value,
            "sources": self.sources,
            "bytes": sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()),
        }

    def _records_of(self, source: str) -> list[Record]:
        prefix = f"{source}:"
        return [record for record in self._store.records() if record.id.startswith(prefix)]

    def _check_source(self, source: Source) -> None:
        recorded = self.sources.get(source.name)
        if recorded not in (None, source.base) and not f"{recorded}".startswith(f"{source.base}["):
            raise SourceError(
                f"{source.base}: the gallery already has a source called {source.name!r}, "
                f"{recorded}; rename the folder, or make another gallery"
            )

    def _write_manifest(self) -> None:
        write_manifest(
            self.path / MANIFEST,
            {
                "encoder": self._described,
                "dim": self._store.dim,
                "metric": self.metric.value,
                "sources": self.sources,
                "rows": len(self),
            },
        )


def _decode_query(query: Query | None) -> tuple[str, str | None, ImageArray]:
    """Return a query's name, its uri if it has one, and its image."""
    if isinstance(query, Item):
        return query.uri, query.uri, query.image()
    if query is None:
        raise InputError("no query was given")
    uri = str(query) if isinstance(query, str | Path) else None
    name = uri or f"query {type(query).__name__}"
    return name, uri, decode(query, name=name)


def _without(hits: Sequence[Hit], own: str | None, n: int) -> tuple[Hit, ...]:
    kept = [hit for hit in hits if hit.id != own][:n]
    return tuple(
        hit if hit.rank == rank else replace(hit, rank=rank) for rank, hit in enumerate(kept, 1)
    )
