"""A folder of image files, with an optional metadata table."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lookalike.errors import ImageError, SourceError
from lookalike.files import escape_name, normalize_name, unescape_name
from lookalike.images.formats import HEADER_BYTES, RAW_SUFFIXES, developed_raws, supported_suffixes
from lookalike.images.header import read_header
from lookalike.images.memory import read_file
from lookalike.sources import skipping
from lookalike.sources.base import Item, source_name, source_repr
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.skipping import SkipCounter, Skipped, reason_to_skip
from lookalike.sources.tables import SUFFIXES as TABLES
from lookalike.sources.tables import Table, find_column, read_table
from lookalike.texts import FORMS, normalized
from lookalike.types import Failure

_IGNORED_FOLDERS = frozenset(
    ("@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found")
)
"""System folders of network drives and desktops, in lower case."""

_GALLERY = "gallery.json"
"""A file that each gallery has."""

_METADATA_STEM = "metadata"
_PATH_COLUMNS = ("path", "file_name")
_MAX_COMPARED = 20_000
"""Names that are compared with one that does not exist, to find a similar one."""


@dataclass(frozen=True, slots=True, repr=False)
class FolderSource:
    """The image files below a folder; the name of a file's parent folder is its label.

    Images are recognized by suffix, in any case, and files without a suffix by their first bytes.
    Hidden files and folders and system folders are not read. Links to folders are followed if they
    lead out of the root, each folder once, so that loops end. All that is not taken is counted in
    ``skipped``.

    ``files`` are paths within the root, as the system names them; ``pages`` the page of each, if
    every page is an item; ``links`` lead to folders that are read by another path. ``columns``
    holds the rows of ``metadata.csv``, ``.jsonl``, ``.json`` or ``.parquet`` in the root, by file.
    ``named`` tells whether the caller chose the name.
    """

    root: Path
    name: str
    files: Sequence[str]
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS
    pages: Sequence[int] | None = None
    links: tuple[str, ...] = ()
    named: bool = False

    @classmethod
    def scan(cls, root: Path, options: SourceOptions = DEFAULT_SOURCE_OPTIONS) -> FolderSource:
        """List the image files below ``root``, in sorted order.

        Raises:
            SourceError: the root cannot be listed, or its metadata table cannot be read.
        """
        root = root.absolute()
        walk = _Walk(root, options)
        files = list(walk.files())
        name = source_name(root.resolve().name)
        prefixes = tuple(f"{name}:{escape_name(folder)}" for folder in walk.unlisted)
        source = cls(
            root,
            name,
            files,
            tuple(walk.problems),
            prefixes,
            skipped=walk.skipped.result(),
            options=options,
            links=tuple(f"{link}/" for link in walk.links),
        )
        if walk.table is not None:
            source = source._with_columns(walk.table)
        return source._with_pages() if options.pages == "all" else source

    @property
    def spec(self) -> str:
        """The folder's absolute path."""
        return escape_name(str(self.root))

    @property
    def base(self) -> str:
        """The folder's absolute path."""
        return self.spec

    def has_file(self, item_id: str) -> bool:
        """Return whether the file of an ID that is not among the items still exists.

        A page of a file whose other pages are items does not, nor a file that is read by another
        path.
        """
        key = unescape_name(item_id.removeprefix(f"{self.name}:"))
        if key.startswith(self.links):
            return False
        base, mark, page = key.rpartition("#")
        if mark and page.isdigit() and not _is_listed(self.root, key):
            return self.options.pages != "all" and _is_listed(self.root, base)
        return _is_listed(self.root, key)

    def __repr__(self) -> str:
        return source_repr(self)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        relative = self.files[index]
        path = f"{self.root}/{relative}"  # as text: there may be millions
        page = self.pages[index] if self.pages else 0
        suffix = f"#{page + 1}" if page else ""
        key = escape_name(relative)
        folder, _, _ = key.rpartition("/")
        label = folder.rpartition("/")[2]
        return Item(
            id=f"{self.name}:{key}{suffix}",
            uri=f"{escape_name(path)}{suffix}",
            metadata={**({"label": label} if label else {}), **self.columns.get(relative, {})},
            read=partial(read_file, path),
            signature=partial(file_signature, path),
            options=self.options.decoding,
            page=page,
            size=partial(file_size, path),
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def _with_columns(self, path: Path) -> FolderSource:
        table = read_table(path)
        column = find_column(table.names, _PATH_COLUMNS)
        if column is None:
            raise SourceError(
                f"{table.path}: has no column path (or file_name) with the image of each row; its "
                f"columns are {', '.join(table.names)}"
            )
        columns, problems = _by_path(table, column, self.files, self.root)
        return replace(self, columns=columns, problems=(*self.problems, *table.problems, *problems))

    def _with_pages(self) -> FolderSource:
        """Return the source with an item for each page of a file."""
        files: list[str] = []
        pages: list[int] = []
        for file in self.files:
            count = _page_count(f"{self.root}/{file}")
            files += [file] * count
            pages += range(count)
        return replace(self, files=files, pages=pages)


def file_signature(path: str | Path) -> str:
    """Return a file's size and modification time as text; empty if it cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the cost of Path.stat, and there may be millions
    except (OSError, ValueError):  # such as a name with NUL
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def file_size(path: str | Path) -> int:
    """Return the bytes of a file; 0 if it cannot be asked."""
    try:
        return os.path.getsize(path)  # noqa: PTH202 - half the cost of Path.stat
    except (OSError, ValueError):
        return 0


def matching_name(name: str, names: Container[str]) -> str | None:
    """Return the one of some paths that a text in a table means; None if there is none.

    It may have backslashes for slashes, be written with other Unicode characters of the same look
    (NFC or NFD), or be escaped as in IDs.
    """
    for text in (name, unescape_name(name)):
        for path in (text, text.replace("\\", "/")):
            if path in names:
                return path
            for form in FORMS:
                if (variant := normalized(form, path)) in names:
                    return variant
    return None


def similar_name(name: str, names: Sequence[str]) -> str:
    """Return the end of a message: "; did you mean ...?" with a similar path, if there is one."""
    base = name.rpartition("/")[2].casefold()
    same = [each for each in names if each.rpartition("/")[2].casefold() == base]
    near = same or difflib.get_close_matches(name, names[:_MAX_COMPARED], n=1, cutoff=0.75)
    return f"; did you mean {escape_name(near[0])!r}?" if near else ""


def _by_path(
    table: Table, column: str, files: Sequence[str], root: Path
) -> tuple[dict[str, Mapping[str, Any]], list[Failure]]:
    """Return the rows of a table by file, and those that belong to none.

    A row of a file that exists but is not taken is no failure: the file is counted as skipped.
    """
    columns: dict[str, Mapping[str, Any]] = {}
    problems = []
    names = frozenset(files)
    spellings: dict[str, str] = {}
    for number, row in enumerate(table.rows):
        place = table.place(number)
        value = str(row.get(column, ""))
        path = _below(root, os.path.normpath(value)) if value else ""
        file = matching_name(path, names)
        if file is None and path:  # of a name with both forms, one alone is not enough
            spellings = spellings or {normalize_name(name): name for name in files}
            file = spellings.get(normalize_name(path))
        if not value:
            problems.append(Failure(place, f"has no {column}"))
        elif file is None:
            outside = path.startswith(("/", "../"))
            if outside or not os.path.isfile(root / unescape_name(path)):  # noqa: PTH113
                hint = similar_name(path, files) if len(problems) < _EXPLAINED else ""
                problems.append(Failure(place, f"{value!r} is not an image in the folder{hint}"))
        elif file in columns:
            problems.append(Failure(place, f"{value!r} appears twice; the first row is used"))
        else:
            columns[file] = {key: value for key, value in row.items() if key != column}
    return columns, problems


def _below(root: Path, path: str) -> str:
    """Return a path with slashes, relative to the root if it is an absolute one below it."""
    if os.path.isabs(path):  # noqa: PTH117 - a text
        folders = (f"{root}{os.sep}", f"{root.resolve()}{os.sep}")
        path = next((path.removeprefix(each) for each in folders if path.startswith(each)), path)
    return path.replace(os.sep, "/")


_EXPLAINED = 20
"""Rows without an image for which a similar name is looked up."""


def _page_count(path: str) -> int:
    """Return the number of pages of a file; 1 if it cannot be read, which is said when it is."""
    if not os.path.splitext(path)[1]:  # noqa: PTH122 - a text
        return 1  # its pages could be mistaken for other files
    try:
        return max(1, read_header(Path(path)).pages)
    except (ImageError, OSError):
        return 1


def _is_listed(root: Path, relative: str) -> bool:
    """Return whether a folder lists a file, spelled like this, or cannot be asked."""
    path = root / relative
    try:
        path.lstat()
        return path.name in _names_in(str(path.parent), path.parent.stat().st_mtime_ns)
    except FileNotFoundError:
        return _is_below_broken_link(root, path)
    except (NotADirectoryError, ValueError):
        return False
    except OSError:
        return True


def _is_below_broken_link(root: Path, path: Path) -> bool:
    """Return whether a folder of a path leads nowhere now, as to a drive that is not mounted."""
    folders = (each for each in path.parents if each != root and root in each.parents)
    return any(each.is_symlink() and not each.exists() for each in folders)


@lru_cache(maxsize=8)
def _names_in(folder: str, changed_at: int) -> frozenset[str]:
    """Return the names in a folder; some systems find names of another case that it has not."""
    del changed_at
    return frozenset(os.listdir(folder))  # noqa: PTH208


class _Walk:
    """The image files below a root in sorted order, and what is not taken."""

    def __init__(self, root: Path, options: SourceOptions) -> None:
        self.root = root
        self.problems: list[Failure] = []
        self.unlisted: list[str] = []
        self.skipped = SkipCounter()
        self.links: list[str] = []
        self.table: Path | None = None
        self._options = options
        self._readable = supported_suffixes()
        self._real = os.path.realpath(root)
        self._linked: set[str] = set()

    def files(self) -> Iterator[str]:
        try:
            names = os.listdir(self.root)  # noqa: PTH208 - also to check that it is readable
        except OSError as error:
            raise SourceError(
                f"{escape_name(str(self.root))}: cannot be read ({error.strerror})"
            ) from error
        self.table = self._find_table(names)
        return self._files()

    def _find_table(self, names: Sequence[str]) -> Path | None:
        """Return the metadata table in the root; a document of another kind is ignored.

        Raises:
            SourceError: there are several.
        """
        tables = [
            self.root / name
            for name in sorted(names)
            if Path(name).stem.lower() == _METADATA_STEM and Path(name).suffix.lower() in TABLES
        ]
        tables = [path for path in tables if path.is_file()]
        if len(tables) > 1:  # a JSON document is often something else
            tables = [path for path in tables if path.suffix.lower() != ".json"] or tables
        if len(tables) > 1:
            listed = " and ".join(path.name for path in tables)
            raise SourceError(f"{self.root}: has {listed}; keep one of them")
        if tables and tables[0].suffix.lower() == ".json":
            try:
                read_table(tables[0])
            except SourceError:
                return None
        return tables[0] if tables else None

    def _files(self) -> Iterator[str]:
        """Yield the files of the root and, after those of each folder, of its sub-folders."""
        folders = [""]  # without recursion: there may be thousands in each other
        while folders:
            folder = folders.pop()
            subfolders: list[str] = []
            yield from self._files_in(folder, subfolders)
            folders += [f"{folder}{name}/" for name in reversed(subfolders)]

    def _files_in(self, folder: str, subfolders: list[str]) -> Iterator[str]:
        """Yield the files of a folder, and add its sub-folders that are read.

        Its path is empty or ends with a slash.
        """
        try:
            with os.scandir(self.root / folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror})"
            self.problems.append(Failure(escape_name(str(self.root / folder)), reason))
            self.unlisted.append(folder)
            return
        developed = self._developed(entries, folder)
        for entry in entries:
            if self._is_folder(entry):
                if self._enters(entry, folder):
                    subfolders.append(entry.name)
                continue
            reason, hint = self._reason_to_skip(entry, folder, developed)
            if reason:
                self.skipped.add(reason, folder + entry.name, hint)
            else:
                yield folder + entry.name

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a link whose target cannot be asked
            return False

    def _enters(self, entry: os.DirEntry[str], folder: str) -> bool:
        """Return whether a folder is read; if not, count what is in it."""
        name = entry.name
        if name.startswith(".") or name.lower() in _IGNORED_FOLDERS:
            reason = skipping.HIDDEN if name.startswith(".") else skipping.SYSTEM
            count = 1 if entry.is_symlink() else _count_files(entry.path)
            if count:
                self.skipped.add(reason, f"{folder}{name}/", count=count)
            return False
        if os.path.exists(f"{entry.path}/{_GALLERY}"):  # noqa: PTH110 - a text
            self.skipped.add(skipping.GALLERY, f"{folder}{name}/", count=_count_files(entry.path))
            return False
        if entry.is_symlink() and not self._leads_out(entry):
            self.skipped.add(skipping.LINK, folder + name)
            self.links.append(folder + name)
            return False
        return True

    def _leads_out(self, entry: os.DirEntry[str]) -> bool:
        """Tell whether a link leads to a folder outside the root that no other link leads to."""
        target = os.path.realpath(entry.path)
        inside = f"{target}/".startswith(f"{self._real}/")
        around = f"{self._real}/".startswith(f"{target}/")
        visited = any(f"{target}/".startswith(f"{linked}/") for linked in self._linked)
        if inside or around or visited:
            return False
        self._linked.add(target)
        return True

    def _developed(self, entries: Sequence[os.DirEntry[str]], folder: str) -> Collection[str]:
        """Return the raw photographs for which the JPEG beside them is taken."""
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
        if not any(name.lower().endswith(RAW_SUFFIXES) for name in names):
            return ()
        return developed_raws([each for each in names if self._takes(folder + each)])

    def _takes(self, relative: str) -> bool:
        return self._options.takes(escape_name(relative))

    def _reason_to_skip(
        self, entry: os.DirEntry[str], folder: str, developed: Collection[str]
    ) -> tuple[str, str | None]:
        """Return why a file is not taken, and a hint; empty if it is."""
        name = entry.name
        if name.startswith("."):
            return skipping.HIDDEN, None
        exists = _exists(entry)
        if exists and not entry.is_file():
            return skipping.NOT_REGULAR, None
        if self.table is not None and not folder and name == self.table.name:
            return skipping.TABLE, None
        if (unread := _unread_table(folder, name)) is not None:
            return unread
        skipped = reason_to_skip(name, self._readable, partial(_first_bytes, entry.path))
        if skipped is not None and not skipped[0].startswith("unsupported"):
            return skipped if exists else (skipping.NO_LINK, None)
        if not self._takes(folder + name):
            return skipping.EXCLUDED, None
        if name in developed:
            return skipping.DEVELOPED, None
        return skipped or ("", None)


def _unread_table(folder: str, name: str) -> tuple[str, str] | None:
    """Return why a metadata table is not read, and a hint; None if the file is none."""
    stem, _, suffix = name.lower().partition(".")
    if stem != _METADATA_STEM or f".{suffix}" not in (*TABLES, *_OTHER_TABLES):
        return None
    if folder and f".{suffix}" in TABLES:
        return "metadata table below the root, not read", "move its rows into one in the root"
    if suffix == "json":
        return f"{_METADATA_STEM}.json, not read", "give one table: a list of objects"
    return f"metadata table, not read: {suffix}", f"save it as {_METADATA_STEM}.csv"


_OTHER_TABLES = (
    *(".xlsx", ".xls", ".xlsm", ".ods", ".numbers", ".txt", ".xml", ".yaml", ".yml"),
    *(".csv.gz", ".csv.zip", ".jsonl.gz", ".json.gz"),
)
"""Suffixes of tables that other programs read."""


def _exists(entry: os.DirEntry[str]) -> bool:
    """Return whether a file exists; a link whose target does not is no file."""
    return not entry.is_symlink() or os.path.exists(entry.path)  # noqa: PTH110 - a text


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - there may be millions
            return file.read(HEADER_BYTES)
    except OSError:
        return b""


def _count_files(folder: str) -> int:
    """Return the number of files in a folder that is not read, links among them."""
    count, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        count += 1
        except OSError:
            continue
    return count
