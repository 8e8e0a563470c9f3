"""What the search prints and does with its results: tables, JSON, CSV, paths, copies, a viewer."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.cli import console
from lookalike.errors import InputError, SettingError, StorageError
from lookalike.files import escape_name, is_url, unescape_name
from lookalike.formatting import format_count, format_distance, printable, shorten

if TYPE_CHECKING:
    from lookalike.search.hits import Hits
    from lookalike.search.ordering import SortKey
    from lookalike.types import Hit

_CSV_COLUMNS = ("query", "rank", "id", "path", "distance", "similarity", "label")

_SHOWN = 24
"""Images of a preview, at most; the terminal is narrower."""

_NAME_CHARACTERS = 60
_TITLE_CHARACTERS = 200
"""Of a query, in the name of its folder and above its table."""

_LISTED = 20

_VIEWERS = {"darwin": "open", "linux": "xdg-open"}


@dataclass(frozen=True, slots=True)
class Result:
    """The hits of one query, or of a listing.

    Args:
        hits: a page of them.
        label: of the query, if it has one.
        order: of a listing.
    """

    hits: Hits
    label: object = None
    order: Sequence[SortKey] = ()


@dataclass(frozen=True, slots=True)
class Paths:
    """Writes the locations of images as a person typed their folder.

    Args:
        root: resolved path of the folder that is searched; None for a gallery, whose paths are
            absolute.
        typed: the folder as it was typed.
    """

    root: str | None = None
    typed: str = ""

    def file(self, uri: str) -> str | None:
        """Return the path of the file of an image, as the system names it; None if it has none."""
        if not uri or is_url(uri) or uri.startswith("dataset:"):
            return None
        path = unescape_name(uri)
        base, mark, page = path.rpartition("#")
        if mark and page.isdecimal() and not os.path.lexists(path):
            path = base
        if self.root is None or not path.startswith(f"{self.root}{os.sep}"):
            return path
        return os.path.join(self.typed, path[len(self.root) + 1 :])  # noqa: PTH118 - a text

    def check_outside(self, path: Path) -> None:
        """Check that images are not written into the folder that is searched.

        Raises:
            SettingError: they would be.
        """
        if self.root is not None and path.resolve().is_relative_to(self.root):
            raise SettingError(
                f"{escape_name(str(path))}: is in the folder that is searched, and would be a "
                "result of the next search; name a place outside, or use {force}",
                force=True,
            )

    def shown(self, uri: str) -> str:
        """Return the location of an image as valid text."""
        path = self.file(uri)
        return uri if path is None else escape_name(path)


class Table:
    """Prints a table for each query, and its images where the terminal can show them."""

    def __init__(self, paths: Paths, protocol: str | None) -> None:
        self._paths = paths
        self._protocol = protocol

    def write(self, result: Result) -> None:
        """Print a result."""
        hits = result.hits
        place = "id" if self._paths.root is None else "path"
        distance = ["distance"] if hits.has_distances else []
        sorted_by = [key.name for key in result.order if key.is_column]
        metadata = dict.fromkeys((*sorted_by, *(["label"] if _are_labeled(hits) else [])))
        rows = [
            (
                str(hit.rank),
                *([format_distance(hit.distance)] if distance else []),
                *(_cell(hit, name) for name in metadata),
                hit.id if self._paths.root is None else self._paths.shown(hit.uri),
            )
            for hit in hits
        ]
        query = shorten(self._paths.shown(hits.query), _TITLE_CHARACTERS)
        title = f"{query}: {_count(hits)}, {_order(result)}"
        if not rows:
            console.print_lines(title)
            return
        console.print_table(("rank", *distance, *metadata, place), rows, title=title)
        end = hits[-1].rank
        if hits.total is not None and end < hits.total:
            console.note(f"more: --offset {end}")
        if self._protocol is not None:
            from lookalike.cli.terminal_images import print_images

            first = [] if hits.uri is None or is_url(hits.uri) else [hits.query_image()]
            local = tuple(hit for hit in hits[:_SHOWN] if not is_url(hit.uri))  # may take long
            print_images([*first, *replace(hits, rows=local).images()], self._protocol)


def _are_labeled(hits: Hits) -> bool:
    return any("label" in hit.metadata for hit in hits)


def _cell(hit: Hit, column: str) -> str:
    value = hit.metadata.get(column)
    return "" if value is None else str(value)


def _count(hits: Hits) -> str:
    """Return how many hits there are, on this page and on all of them."""
    first = hits[0].rank if hits else 1
    if first > 1:
        whole = "" if hits.total is None else f" of {hits.total:,}"
        return f"results {first:,} to {hits[-1].rank:,}{whole}"
    if hits.total is None or hits.total == len(hits):
        return format_count(len(hits), "result")
    return f"{len(hits):,} of {format_count(hits.total, 'result')}"


def _order(result: Result) -> str:
    """Return what hits are ordered by; distances may be in another order than the ranks."""
    hits = result.hits
    if result.order:
        return f"by {', '.join('-' * key.descending + key.name for key in result.order)}"
    if hits.ranked_by == "embedding+keywords":
        return f"{hits.measure} and keywords"
    distances = [hit.distance for hit in hits]
    return hits.measure if distances == sorted(distances) else f"{hits.measure}, re-ranked"


class JsonLines:
    """Prints a JSON line for each query."""

    def write(self, result: Result) -> None:
        """Print a result."""
        console.print_json(result.hits.as_dict(), one_line=True)


class CsvRows:
    """Prints a CSV file with a row for each hit."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._columns: Sequence[str] | None = _CSV_COLUMNS

    def write(self, result: Result) -> None:
        """Print a result."""
        from lookalike.csv_text import csv_bytes
        from lookalike.types import Metric

        hits = result.hits
        cosine = hits.measure == Metric.COSINE.value
        rows = [
            (
                hits.query,
                hit.rank,
                hit.id,
                self._paths.shown(hit.uri),
                hit.distance if hits.has_distances else "",
                1 - hit.distance if cosine else "",
                hit.metadata.get("label", ""),
            )
            for hit in hits
        ]
        lines = csv_bytes(_CSV_COLUMNS, rows).decode().split("\r\n", 1)
        head = "" if self._columns is None else f"{lines[0]}\n"
        self._columns = None
        print(head + lines[1].replace("\r\n", "\n"), end="", flush=True)


class PathLines:
    """Prints the path of each hit: as it is for programs, escaped on a terminal."""

    def __init__(self, paths: Paths, *, null: bool) -> None:
        self._paths = paths
        self._null = null

    def write(self, result: Result) -> None:
        """Print a result."""
        names = (self._paths.file(hit.uri) or hit.uri for hit in result.hits)
        distinct = list(dict.fromkeys(name for name in names if name))
        if not self._null and sys.stdout.isatty():
            console.print_lines("\n".join(map(printable, distinct)))
            return
        end = "\0" if self._null else "\n"
        text = "".join(f"{name}{end}" for name in distinct)
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:  # a stream of text in the place of stdout
            print(text, end="", flush=True)
            return
        sys.stdout.flush()
        binary.write(text.encode("utf-8", "surrogateescape"))
        binary.flush()


Output = Table | JsonLines | CsvRows | PathLines


class Collector:
    """Copies or links the files of results into a folder, none over a file that exists.

    Names begin with the rank; of several queries, each has a sub-folder.
    """

    def __init__(self, folder: Path, paths: Paths, *, link: bool, force: bool) -> None:
        self._folder = folder
        self._paths = paths
        self._link = link
        self._force = force
        self._several = False
        self._queries = 0
        self._done = 0
        self._existing: list[str] = []
        self._others: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether all files are copied or linked."""
        return not (self._existing or self._others)

    def open(self, *, several: bool) -> None:
        """Make the folder.

        Raises:
            SettingError: it is a file, or in the folder that is searched.
            StorageError: it cannot be written.
        """
        self._several = several
        if self._folder.exists() and not self._folder.is_dir():
            raise SettingError(f"{escape_name(str(self._folder))}: is a file; name a folder")
        if not self._force:
            self._paths.check_outside(self._folder)
        self._make(self._folder)

    def write(self, result: Result) -> None:
        """Copy or link the files of one query."""
        self._queries += 1
        folder = self._folder
        if self._several:
            folder /= f"{self._queries:03}-{_plain(result.hits.query)}"
            self._make(folder)
        width = max([2, *(len(str(hit.rank)) for hit in result.hits)])
        for hit in result.hits:
            try:
                self._put(hit.uri, folder, f"{hit.rank:0{width}}")
                self._done += 1
            except FileExistsError as error:
                self._existing.append(escape_name(str(error.filename)))
            except OSError as error:
                reason = error.strerror or str(error)
                self._others.append(f"{self._paths.shown(hit.uri) or hit.id}: {reason}")

    def report(self) -> None:
        """Say how many files there are now, and which are not."""
        verb = "linked" if self._link else "copied"
        place = escape_name(str(self._folder))
        console.note(f"{verb}: {format_count(self._done, 'file')} into {place}")
        if self._existing:
            count = format_count(len(self._existing), "file")
            console.note(
                f"not {verb}: {count} that already exist, e.g. {self._existing[0]}; overwrite: "
                "--force"
            )
        for failure in self._others[:_LISTED]:
            console.note(f"not {verb}: {failure}")
        if len(self._others) > _LISTED:
            console.note(f"... and {len(self._others) - _LISTED:,} more")

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{escape_name(str(folder))}: cannot be written ({error.strerror})"
            ) from error

    def _put(self, uri: str, folder: Path, rank: str) -> None:
        """Copy or link one file.

        Raises:
            OSError: it is no file, cannot be read or written, or the new name exists.
        """
        from lookalike.files import check_regular

        path = self._paths.file(uri)
        if path is None:
            raise OSError("its image is not a file of its own")
        check_regular(path)
        target = folder / f"{rank}-{os.path.basename(path)}"  # noqa: PTH119 - a text
        if os.path.lexists(target):
            if not self._force or target.is_dir():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            if not target.is_symlink() and target.samefile(path):
                raise OSError("is the result itself")
            target.unlink()
        if self._link:
            target.symlink_to(os.path.abspath(path))  # noqa: PTH100 - a text
        else:
            _copy(path, target)


def _copy(path: str, target: Path) -> None:
    """Copy a file to a new name, completely or not at all.

    Raises:
        OSError: it cannot be read, or the copy not be written.
    """
    with open(path, "rb") as source:  # noqa: PTH123 - a text
        copy = target.open("xb")
        try:
            with copy:
                shutil.copyfileobj(source, copy)
            shutil.copystat(path, target)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise


def _plain(name: str) -> str:
    """Return the last part of a query's name, as a part of a folder's name on every system."""
    last = os.path.basename(name.rstrip("/")) or "query"  # noqa: PTH119 - a text
    return re.sub(r"[^\w.-]+", "-", last)[:_NAME_CHARACTERS].strip(".-") or "query"


def without_queries(hits: Hits, queries: Sequence[str], page: slice) -> tuple[Hits, bool]:
    """Return a page of the hits that are no query's own file, and whether there were such.

    Args:
        hits: from the first one on, some more than to the end of the page.
        queries: locations of the query images.
        page: of the hits that are left.
    """
    files = [
        query if is_url(query) else _real_path(unescape_name(query)) for query in queries if query
    ]
    rows = [hit for hit in hits if not any(_is_same_image(file, hit.uri) for file in files)]
    kept = tuple(
        replace(hit, rank=rank) for rank, hit in enumerate(rows[page], (page.start or 0) + 1)
    )
    return replace(hits, rows=kept), len(rows) < len(hits)


def _is_same_image(file: str, uri: str) -> bool:
    """Return whether a location is that of a file, whose path has no links, or the same URL."""
    if not uri or is_url(uri):
        return bool(uri) and file == uri
    folder, name = os.path.split(unescape_name(uri))
    path = os.path.join(_real_folder(folder), name)  # noqa: PTH118 - a text
    if os.path.islink(path):  # noqa: PTH114
        path = _real_path(path)
    if file == path or file.casefold() != path.casefold():
        return file == path
    try:
        return os.path.samefile(file, path)  # noqa: PTH121
    except (OSError, ValueError):
        return False


def _real_path(path: str) -> str:
    """Return a path without links; as it is if it can be none."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return path


@cache
def _real_folder(path: str) -> str:
    """Return the path without links of a folder, of which there are fewer than images."""
    return _real_path(path)


def open_in_viewer(path: Path) -> None:
    """Open an image in the platform's viewer, without a shell.

    Raises:
        InputError: there is none.
    """
    if sys.platform == "win32":
        os.startfile(path)
        return
    name = _VIEWERS.get(sys.platform, "xdg-open")
    program = shutil.which(name)
    if program is None:
        raise InputError(
            f"{path}: cannot be opened, since {name} is not installed; open it yourself"
        )
    viewer = subprocess.Popen(
        [program, str(path.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=viewer.wait, daemon=True).start()  # it may stay open for long
