"""Export the rows of a gallery to files for other tools."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np

from lookalike.artifacts import new_folder, storage_error
from lookalike.errors import ArtifactError, MissingDependencyError, UnknownNameError, requiring
from lookalike.files import as_path
from lookalike.gallery.gallery import Gallery
from lookalike.stores.base import Rows
from lookalike.stores.lance_tables import import_lance
from lookalike.types import Progress, ProgressCallback, ignore_progress

BATCH = 8_192


def export(
    gallery: Gallery,
    path: str | Path,
    *,
    layout: str = "parquet",
    on_progress: ProgressCallback = ignore_progress,
) -> int:
    """Export all rows, completely or not at all; return their number.

    Args:
        gallery: exported.
        path: the new file or folder.
        layout: ``parquet``, one file with the columns ``id``, ``uri``, ``content_hash``,
            ``metadata`` (JSON) and ``embedding``; ``npy``, a folder in the layout of
            clip-retrieval: ``img_emb/img_emb_0.npy``, ``(rows, dim)`` float32, and
            ``metadata/metadata_0.parquet`` with ``image_path`` and the columns above, in the same
            order; ``jsonl``, a folder with ``embeddings.npy``, ``(rows, dim)`` float32, and
            ``rows.jsonl`` with ``id``, ``uri``, ``content_hash`` and ``metadata`` (an object) in
            the same order; or ``lance``, a folder with a Lance table of the columns of ``parquet``.
            All but ``jsonl`` need the extra of their file format, ``parquet`` or ``lance``.
        on_progress: called after every batch.

    Raises:
        UnknownNameError: no such layout.
        MissingDependencyError: the layout needs a package that is not installed.
        ArtifactError: ``path`` exists.
        StorageError: it could not be written.
    """
    target = as_path(path, "path")
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, tuple(LAYOUTS))
    import_packages, write = LAYOUTS[layout]
    try:
        import_packages(f"the layout {layout!r}")
    except MissingDependencyError as error:
        raise error.or_else("layout", "jsonl") from error.__cause__
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{target}: already exists; choose another name or remove it first")
    gallery = gallery.snapshot()
    total = len(gallery)
    done = 0
    try:
        for written in write(gallery, target, total):
            done += written
            on_progress(Progress("export", done, total, "rows"))
    except OSError as error:
        raise storage_error(target, error) from error
    return done


def _write_parquet(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    import pyarrow.parquet as pq

    del total
    schema = _schema(gallery)
    with _new_file(target) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in gallery.store.rows(BATCH):
            writer.write_table(_table(rows, schema))
            yield len(rows)


def _write_lance(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    lance = import_lance("the layout 'lance'")
    del total
    schema = _schema(gallery)
    with new_folder(target) as partial:
        lance.write_dataset(schema.empty_table(), partial, mode="create")
        for rows in gallery.store.rows(BATCH):
            lance.write_dataset(_table(rows, schema), partial, mode="append")
            yield len(rows)
        dataset = lance.dataset(partial)
        dataset.optimize.compact_files()
        dataset.cleanup_old_versions(timedelta(0), delete_unverified=True)


def _write_npy(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in ("image_path", *_TEXTS)])
    with new_folder(target) as partial:
        (partial / "img_emb").mkdir()
        (partial / "metadata").mkdir()
        with (
            (partial / "img_emb" / "img_emb_0.npy").open("wb") as embeddings,
            pq.ParquetWriter(partial / "metadata" / "metadata_0.parquet", schema) as writer,
        ):
            for rows in _written(gallery, embeddings, total):
                writer.write_table(pa.table([list(rows.uris), *_texts(rows)], schema=schema))
                yield len(rows)


def _write_jsonl(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    with (
        new_folder(target) as partial,
        (partial / "embeddings.npy").open("wb") as embeddings,
        (partial / "rows.jsonl").open("w", encoding="utf-8") as lines,
    ):
        for rows in _written(gallery, embeddings, total):
            for row in rows.records():
                values = (row.id, row.uri, row.content_hash, dict(row.metadata))
                fields = dict(zip(_TEXTS, values, strict=True))
                lines.write(json.dumps(fields, ensure_ascii=False) + "\n")
            yield len(rows)


def _written(gallery: Gallery, file: IO[bytes], total: int) -> Iterator[Rows]:
    """Yield all rows in batches, with their embeddings written to a file of numpy's.

    One after another: on a full disk, writing to mapped memory kills the process.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (total, gallery.store.dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for rows in gallery.store.rows(BATCH):
        file.write(rows.embeddings.astype("<f4").tobytes())
        yield rows


def _import_arrow(purpose: str) -> None:
    with requiring("pyarrow", purpose, "parquet"):
        import pyarrow.parquet  # noqa: F401


def _import_nothing(purpose: str) -> None:
    del purpose


_Write = Callable[[Gallery, Path, int], Iterator[int]]

LAYOUTS: Mapping[str, tuple[Callable[[str], object], _Write]] = {
    "parquet": (_import_arrow, _write_parquet),
    "npy": (_import_arrow, _write_npy),
    "jsonl": (_import_nothing, _write_jsonl),
    "lance": (import_lance, _write_lance),
}
"""Layouts by name: what imports the packages that they need, and what writes them."""

_TEXTS = ("id", "uri", "content_hash", "metadata")


def _schema(gallery: Gallery) -> Any:
    """Return the Arrow schema of the rows of a gallery."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in _TEXTS]
    return pa.schema([*texts, ("embedding", pa.list_(pa.float32(), gallery.store.dim))])


def _table(rows: Rows, schema: Any) -> Any:
    """Return rows as an Arrow table."""
    import pyarrow as pa

    dim = schema.field("embedding").type.list_size
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.embeddings.ravel()), dim)
    return pa.table([*_texts(rows), vectors], schema=schema)


def _texts(rows: Rows) -> list[list[str]]:
    """Return the columns of texts."""
    metadata = [json.dumps(dict(fields), ensure_ascii=False) for fields in rows.metadata]
    return [list(rows.ids), list(rows.uris), list(rows.hashes), metadata]


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes ``path`` if the block succeeds, else is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)
