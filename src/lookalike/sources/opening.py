"""Open sources and items; the only place that recognizes the kinds of sources."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lookalike.arguments import checked
from lookalike.errors import SettingError, SourceError
from lookalike.files import (
    as_path,
    check_regular,
    escape_name,
    expand_home,
    is_url,
    unescape_name,
)
from lookalike.images import idx
from lookalike.images.formats import supported_suffixes
from lookalike.images.memory import read_file
from lookalike.images.options import DEFAULT_OPTIONS, DecodeOptions
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.arrays import DATASET_PREFIX, ArraySource, load_dataset, load_idx
from lookalike.sources.base import Item, Source
from lookalike.sources.folder import FolderSource, file_signature, file_size
from lookalike.sources.manifest import ManifestSource
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.parquet import image_column
from lookalike.sources.path_kinds import check_source
from lookalike.sources.shards import PARQUET, TAR, ShardSource, open_shards
from lookalike.sources.tables import SUFFIXES as TABLES
from lookalike.sources.urls import read_url
from lookalike.types import ProgressCallback, ignore_progress


@checked
def open_source(
    spec: str | Path,
    progress: ProgressOption = True,
    *,
    empty: bool = False,
    name: str | None = None,
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS,
) -> Source:
    """Open a source of images.

    Args:
        spec: a folder of images or of shards; a manifest (``.csv``, ``.tsv``, ``.jsonl``,
            ``.ndjson``, ``.json``, ``.parquet`` with a column ``path`` or ``url``); a tar or
            Parquet file of images; the images file of an IDX pair (its labels are found beside
            it); or ``dataset:NAME/SPLIT``, with an optional slice, ``dataset:mnist/train[:5000]``.
        progress: True shows downloads on a terminal or in a notebook; False does not; a callback
            gets their progress.
        empty: allow a folder without images.
        name: the name of the source; by default that of the folder or file.
        options: what is taken, and how it is decoded.

    Raises:
        InputError: ``spec`` is no path.
        SourceError: the path does not exist, has no images, or is of an unknown kind.
        SettingError: an option is not for this kind of source.
        UnknownNameError: no such data set or split.
        FetchError: the data set could not be fetched.
    """
    if not isinstance(spec, str):
        spec = as_path(spec, "spec")
    with reporting(progress) as on_progress:
        source = _open(spec, on_progress, options)
    if not len(source) and not empty:
        raise _empty_error(spec, source)
    return source if name is None else with_name(source, name)


def _empty_error(spec: str | Path, source: Source) -> SourceError:
    """Return the error that a source has no images; it says what it has instead."""
    folder = isinstance(source, FolderSource)
    problem = "the folder has no image files" if folder else "has no images"
    reasons = [
        f"{each.count:,} {each.reason}" + (f" ({each.hint})" if each.hint else "")
        for each in source.skipped[:_REASONS]
    ]
    reasons += [failure.reason for failure in source.problems[:1]]
    skipped = f"; skipped: {', '.join(reasons)}" if reasons else "; formats: lookalike doctor"
    return SourceError(f"{escape_name(str(spec))}: {problem}{skipped}")


_REASONS = 5


def open_items(
    uris: Sequence[str],
    on_progress: ProgressCallback = ignore_progress,
    *,
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS,
) -> list[Item]:
    """Open items by URI.

    A path; a page of a file, as in ``stack.tif#2``; a URL; or an image of a source, by its number,
    as in ``dataset:mnist/test#17``. The id of an item opened by path or URL is that path or URL.
    The last four sources are cached until their file changes. ``options``
    are those of their source: how images are decoded, and from where they are fetched.

    Raises:
        SourceError: no such source, or its index is out of range. A missing file raises on reading.
    """
    return [_open_item(uri, on_progress, options) for uri in uris]


def _open_item(uri: str, on_progress: ProgressCallback, options: SourceOptions) -> Item:
    base, mark, number = uri.rpartition("#")
    if is_url(uri):
        allow_private = options.allow_private_urls
        read = partial(read_url, uri, allow_private=allow_private)
        return Item(uri, uri, {}, read, options=options.decoding, allow_private_urls=allow_private)
    numbered = bool(mark) and number.isdecimal() and len(number) <= _DIGITS
    if uri.startswith(DATASET_PREFIX):
        if not numbered:
            raise SourceError(f"{uri}: expected dataset:NAME/SPLIT#INDEX, as dataset:mnist/test#17")
    elif not numbered or _is_file(native_path(uri)):
        return file_item(uri, native_path(uri), options.decoding)
    elif os.path.splitext(base)[1].lower() in supported_suffixes():  # noqa: PTH122 - a text
        return replace(
            file_item(uri, native_path(base), options.decoding), page=max(0, int(number) - 1)
        )
    source = _open_cached(base, on_progress)
    get = source.at_number if isinstance(source, ShardSource) else source.__getitem__
    try:
        return replace(get(int(number)), options=options.decoding)
    except IndexError:
        raise SourceError(f"{uri}: {base} has images 0 to {len(source) - 1}") from None


_DIGITS = 18
"""Digits of the number of an image in a source, at most."""


def file_item(uri: str, path: str, options: DecodeOptions = DEFAULT_OPTIONS) -> Item:
    """Return the image of a file as an item; ``path`` is its name for the system."""
    text = escape_name(uri) if uri == path else uri
    return Item(
        text,
        text,
        {},
        partial(read_file, path),
        partial(file_signature, path),
        options,
        size=partial(file_size, path),
        path=path,
    )


def native_path(uri: str) -> str:
    """Return the path of a URI, as the system names it; a path that exists is taken as it is."""
    path = unescape_name(uri)
    return uri if path != uri and not os.path.lexists(path) else path


def _open_cached(base: str, on_progress: ProgressCallback) -> Source:
    """Open a source, or return it from the cache if its file is unchanged."""
    try:
        status = os.stat(native_path(base))  # noqa: PTH116 - Path() would refuse some URIs
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


def _open(spec: str | Path, on_progress: ProgressCallback, options: SourceOptions) -> Source:
    text = str(spec)
    if text.startswith(DATASET_PREFIX):
        return _refuse_options(load_dataset(text, on_progress), options)
    path = Path(native_path(expand_home(spec)))
    check_source(path)
    if path.is_dir():
        folder = FolderSource.scan(path, options)
        shards = None if len(folder) else open_shards(path, options)
        return folder if shards is None else _refuse_pages(shards, options)
    _check_regular(path)
    suffix = path.suffix.lower()
    if suffix == TAR or (suffix == PARQUET and image_column(path) is not None):
        shards = open_shards(path, options)
        assert shards is not None
        return _refuse_pages(shards, options)
    if suffix in TABLES:
        return _refuse_pages(ManifestSource.read(path, options), options)
    if idx.is_idx(path):
        return _refuse_options(load_idx(path), options)
    raise SourceError(
        f"{escape_name(str(path))}: is neither a folder nor an IDX file of images, a manifest "
        "(.csv .jsonl .parquet) or a .tar; give the folder that holds the images, or "
        "dataset:NAME/SPLIT"
    )


def _check_regular(path: Path) -> None:
    try:
        check_regular(path)
    except OSError as error:
        raise SourceError(f"{escape_name(str(path))}: cannot be read ({error.strerror})") from error


def _refuse_pages(source: Source, options: SourceOptions) -> Source:
    """Refuse an option that is for folders only."""
    if options.pages == "all":
        raise SettingError(
            f"{{pages}} needs a folder; {source.spec} is not one", pages=options.pages
        )
    return source


def _refuse_options(source: ArraySource, options: SourceOptions) -> ArraySource:
    """Refuse options for files, since arrays have none."""
    if options.as_dict():
        name = next(iter(options.as_dict()))
        raise SettingError(f"{{{name}}} is for image files; {source.spec} has none", **{name: None})
    return source


def with_name(source: Source, name: str) -> Source:
    """Return a source under another name.

    Raises:
        SourceError: the name is empty or has a colon, or the source has a fixed name.
    """
    if not name or ":" in name:
        raise SourceError("{name} must not be empty or contain a colon", name=name)
    if isinstance(source, FolderSource | ManifestSource | ShardSource):
        prefixes = [name + each.removeprefix(source.name) for each in source.unlisted_prefixes]
        return replace(source, name=name, unlisted_prefixes=prefixes, named=True)
    raise SourceError(
        f"{{name}} is not allowed: {source.spec} has a fixed name, {source.name}", name=name
    )


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path() would refuse some URIs
