"""From a text to a source: what each kind looks like is told here and nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lookalike.errors import SourceError
from lookalike.images import idx
from lookalike.images.decode import supported_suffixes
from lookalike.sources.arrays import DATASET_PREFIX, load_dataset, load_idx
from lookalike.sources.base import Item, Source
from lookalike.sources.folder import FolderSource, file_signature
from lookalike.sources.manifest import ManifestSource
from lookalike.sources.shards import (
    PARQUET,
    TAR,
    ParquetShard,
    ShardSource,
    TarShard,
    image_column,
    shards_in,
)
from lookalike.sources.tables import SUFFIXES as TABLES
from lookalike.sources.urls import read_url
from lookalike.types import ProgressCallback, ignore_progress


def open_source(
    spec: str | Path,
    on_progress: ProgressCallback = ignore_progress,
    *,
    empty: bool = False,
    name: str | None = None,
) -> Source:
    """Open a source of images.

    Args:
        spec: a folder of images or of shards; a manifest (``.csv``, ``.tsv``, ``.jsonl``,
            ``.ndjson``, ``.parquet`` with a column ``path`` or ``url``); a tar or Parquet file of
            images; the images file of an IDX pair (its labels are found beside it); or
            ``dataset:NAME/SPLIT``, with an optional slice as in ``dataset:mnist/train[:5000]``.
        on_progress: told of downloads.
        empty: take a folder without images too.
        name: what the source is called, instead of the folder's or the file's own name.

    Raises:
        SourceError: the path is missing, empty, or of no kind that is read.
        UnknownNameError: no such data set or split.
        FetchError: the data set could not be had.
    """
    source = _open(spec, on_progress)
    if not len(source) and not empty:
        listed = " ".join(sorted(supported_suffixes()))
        said = f"; {source.problems[0].reason}" if source.problems else ""
        kind = "the folder has no image files" if Path(spec).is_dir() else "holds no images"
        raise SourceError(f"{spec}: {kind} ({listed}){said}")
    return source if name is None else _called(source, name)


def open_items(uris: Sequence[str], on_progress: ProgressCallback = ignore_progress) -> list[Item]:
    """Open items by their uris; the four sources opened last are kept while their file is the same.

    A uri is a file's path, an address, or ``SOURCE#INDEX`` as in ``dataset:mnist/test#17``. An
    item opened by a path or an address has it as its id.

    Raises:
        SourceError: no such source, or an index outside it. A missing file is an error when read.
    """
    items = []
    for uri in uris:
        base, mark, number = uri.rpartition("#")
        if uri.startswith(("http://", "https://")):
            items.append(Item(uri, uri, {}, partial(read_url, uri)))
            continue
        if not mark or not number.isdigit() or (not base.startswith(DATASET_PREFIX) and _file(uri)):
            if uri.startswith(DATASET_PREFIX):
                raise SourceError(
                    f"{uri}: expected dataset:NAME/SPLIT#INDEX, as dataset:mnist/test#17"
                )
            path = Path(uri)
            items.append(Item(uri, uri, {}, path.read_bytes, partial(file_signature, path)))
            continue
        source = _kept(base, on_progress)
        if int(number) >= len(source):
            raise SourceError(f"{uri}: {base} has images 0 to {len(source) - 1}")
        items.append(source[int(number)])
    return items


def _kept(base: str, on_progress: ProgressCallback) -> Source:
    """Open a source, or return it if it was among the last and is still the same file."""
    try:
        found = os.stat(base)  # noqa: PTH116 - a uri need not be a path that can be
        version = found.st_mtime_ns, found.st_size
    except (OSError, ValueError):
        version = 0, 0  # a data set, whose bytes are pinned
    with _opening:
        before = _opened.pop(base, None)
        source = before[1] if before and before[0] == version else open_source(base, on_progress)
        _opened[base] = version, source
        while len(_opened) > _MOST_KEPT:
            del _opened[next(iter(_opened))]
        return source


_MOST_KEPT = 4
_opening = threading.Lock()
_opened: dict[str, tuple[tuple[int, int], Source]] = {}


def _open(spec: str | Path, on_progress: ProgressCallback) -> Source:
    text = str(spec)
    if text.startswith(DATASET_PREFIX):
        return load_dataset(text, on_progress)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder")
    suffix = path.suffix.lower()
    if suffix == TAR:
        return ShardSource.of(path, [TarShard(path)])
    if suffix == PARQUET and (column := image_column(path)) is not None:
        return ShardSource.of(path, [ParquetShard(path, column)])
    if suffix in TABLES:
        return ManifestSource.read(path)
    if idx.is_idx(path):
        return load_idx(path)
    raise SourceError(
        f"{path}: is neither a folder nor an IDX file of images, a manifest (.csv .jsonl .parquet) "
        "or a .tar; give the folder that holds the images, or dataset:NAME/SPLIT"
    )


def _open_folder(path: Path) -> Source:
    """Open a folder of images; if it has none, of shards."""
    folder = FolderSource.scan(path)
    return folder if len(folder) else shards_in(path) or folder


def _called(source: Source, name: str) -> Source:
    if not name or ":" in name:
        raise SourceError(f"--name {name!r}: must not be empty and holds no colon")
    if isinstance(source, FolderSource | ShardSource):
        unread = [name + below.removeprefix(source.name) for below in source.unread]
        return replace(source, name=name, unread=unread)
    if isinstance(source, ManifestSource):
        return replace(source, name=name)
    raise SourceError(f"--name {name}: {source.spec} has a name of its own, {source.name}")


def _file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - a uri need not be a path that can be
