"""Export the rows of a gallery to files for other tools."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.artifacts import new_folder, storage_error
from lookalike.errors import ArtifactError, UnknownNameError
from lookalike.files import as_path
from lookalike.gallery.gallery import Gallery
from lookalike.stores.base import Rows
from lookalike.types import Progress, ProgressCallback, ignore_progress

LAYOUTS = ("parquet", "npy")
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
            ``metadata`` (JSON) and ``embedding``; or ``npy``, a folder in the layout of
            clip-retrieval: ``img_emb/img_emb_0.npy``, ``(rows, dim)`` float32, and
            ``metadata/metadata_0.parquet`` with ``image_path`` and the columns above, in the same
            order.
        on_progress: called after every batch.

    Raises:
        UnknownNameError: no such layout.
        ArtifactError: ``path`` exists.
        StorageError: it could not be written.
    """
    target = as_path(path, "path")
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{target}: already exists; choose another name or remove it first")
    gallery = gallery.snapshot()
    total = len(gallery)
    write = _write_parquet if layout == "parquet" else _write_npy
    done = 0
    try:
        for written in write(gallery, target, total):
            done += written
            on_progress(Progress("export", done, total, "rows"))
    except OSError as error:
        raise storage_error(target, error) from error
    return done


def _write_parquet(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    del total
    schema = pa.schema([*_FIELDS, pa.field("embedding", pa.list_(pa.float32(), gallery.store.dim))])
    with _new_file(target) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in gallery.store.rows(BATCH):
            vectors = pa.FixedSizeListArray.from_arrays(
                pa.array(rows.embeddings.ravel()), gallery.store.dim
            )
            writer.write_table(pa.table([*_columns(rows), vectors], schema=schema))
            yield len(rows)


def _write_npy(gallery: Gallery, target: Path, total: int) -> Iterator[int]:
    schema = pa.schema([pa.field("image_path", pa.string()), *_FIELDS])
    with new_folder(target) as partial:
        (partial / "img_emb").mkdir()
        (partial / "metadata").mkdir()
        # Written one after another: on a full disk, writing to mapped memory kills the process.
        with (
            (partial / "img_emb" / "img_emb_0.npy").open("wb") as embeddings,
            pq.ParquetWriter(partial / "metadata" / "metadata_0.parquet", schema) as writer,
        ):
            header = {"descr": "<f4", "fortran_order": False, "shape": (total, gallery.store.dim)}
            np.lib.format.write_array_header_1_0(embeddings, header)
            for rows in gallery.store.rows(BATCH):
                embeddings.write(rows.embeddings.astype("<f4").tobytes())
                writer.write_table(pa.table([list(rows.uris), *_columns(rows)], schema=schema))
                yield len(rows)


_FIELDS = [pa.field(name, pa.string()) for name in ("id", "uri", "content_hash", "metadata")]


def _columns(rows: Rows) -> list[list[str]]:
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
