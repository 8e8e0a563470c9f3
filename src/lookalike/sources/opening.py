"""Open sources and items; the only place that recognizes the kinds of sources."""

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
        on_progress: called during downloads.
        empty: allow a folder without images.
        name: the name of the source; by default that of the folder or file.

    Raises:
        SourceError: the path does not exist, has no images, or is of an unknown kind.
        UnknownNameError: no such data set or split.
        FetchError: the data set could not be fetched.
    """
    source = _open(spec, on_progress)
    if not len(source) and not empty:
        listed = " ".join(sorted(supported_suffixes()))
        detail = f"; {source.problems[0].reason}" if source.problems else ""
        problem = "the folder has no image files" if Path(spec).is_dir() else "has no images"
        raise SourceError(f"{spec}: {problem} ({listed}){detail}")
    return source if name is None else _renamed(source, name)


def open_items(uris: Sequence[str], on_progress: ProgressCallback = ignore_progress) -> list[Item]:
    """Open items by URI: a path, a URL, or ``SOURCE#INDEX`` as in ``dataset:mnist/test#17``.

    The id of an item opened by path or URL is that path or URL. The last four sources are cached
    until their file changes.

    Raises:
        SourceError: no such source, or its index is out of range. A missing file raises on reading.
    """
    items = []
    for uri in uris:
        base, mark, number = uri.rpartition("#")
        if uri.startswith(("http://", "https://")):
            items.append(Item(uri, uri, {}, partial(read_url, uri)))
            continue
        if (
            not mark
            or not number.isdigit()
            or (not base.startswith(DATASET_PREFIX) and _is_file(uri))
        ):
            if uri.startswith(DATASET_PREFIX):
                raise SourceError(
                    f"{uri}: expected dataset:NAME/SPLIT#INDEX, as dataset:mnist/test#17"
                )
            path = Path(uri)
            items.append(Item(uri, uri, {}, path.read_bytes, partial(file_signature, path)))
            continue
        source = _open_cached(base, on_progress)
        if int(number) >= len(source):
            raise SourceError(f"{uri}: {base} has images 0 to {len(source) - 1}")
        items.append(source[int(number)])
    return items


def _open_cached(base: str, on_progress: ProgressCallback) -> Source:
    """Open a source, or return it from the cache if its file is unchanged."""
    try:
        status = os.stat(base)  # noqa: PTH116 - Path() would refuse some URIs
        version = status.st_mtime_ns, status.st_size
    except (OSError, ValueError):
        version = 0, 0  # a data set: its content is pinned
    with _cache_lock:
        entry = _cache.pop(base, None)
        source = entry[1] if entry and entry[0] == version else open_source(base, on_progress)
        _cache[base] = version, source
        while len(_cache) > _CACHE_SIZE:
            del _cache[next(iter(_cache))]
        return source


_CACHE_SIZE = 4
_cache_lock = threading.Lock()
_cache: dict[str, tuple[tuple[int, int], Source]] = {}


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
    """Open a folder of images or, if it has none, of shards."""
    folder = FolderSource.scan(path)
    return folder if len(folder) else shards_in(path) or folder


def _renamed(source: Source, name: str) -> Source:
    if not name or ":" in name:
        raise SourceError("{name} must not be empty or contain a colon", name=name)
    if isinstance(source, FolderSource | ShardSource):
        prefixes = [name + each.removeprefix(source.name) for each in source.unlisted_prefixes]
        return replace(source, name=name, unlisted_prefixes=prefixes)
    if isinstance(source, ManifestSource):
        return replace(source, name=name)
    raise SourceError(
        f"{{name}} is not allowed: {source.spec} has a fixed name, {source.name}", name=name
    )


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path() would refuse some URIs
