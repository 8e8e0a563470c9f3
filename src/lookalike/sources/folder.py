"""A folder of image files, with an optional metadata table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.errors import SourceError
from lookalike.images.decode import has_image_signature, supported_suffixes
from lookalike.sources.base import Item, source_name
from lookalike.sources.tables import SUFFIXES as TABLES
from lookalike.sources.tables import Table, read_table
from lookalike.types import Failure

_IGNORED_FOLDERS = frozenset(
    ("@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found")
)
"""System folders of network drives and desktops, in lower case."""

_METADATA_STEM = "metadata"
_PATH_COLUMNS = ("path", "file_name")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The image files below a folder; the name of a file's parent folder is its label.

    Images are recognized by suffix, in any case, and files without a suffix by their first bytes.
    Hidden files and folders and system folders are ignored. Links to folders are followed if they
    lead out of the root, each folder once, so that loops end.

    ``columns`` holds the rows of ``metadata.csv``, ``.jsonl`` or ``.parquet`` in the root, by the
    path of the file within the root.
    """

    root: Path
    name: str
    files: Sequence[str]
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def scan(cls, root: Path) -> FolderSource:
        """List the image files below ``root``, in sorted order.

        Raises:
            SourceError: the root cannot be listed, or its metadata table cannot be read.
        """
        root = root.absolute()
        walk = _Walk(root)
        files = list(walk.files())
        name = source_name(root.resolve().name)
        prefixes = tuple(f"{name}:{folder}" for folder in walk.unlisted)
        return cls(root, name, files, tuple(walk.problems), prefixes)._with_columns()

    @property
    def spec(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    @property
    def base(self) -> str:
        """The folder's absolute path."""
        return self.spec

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        relative = self.files[index]
        path = f"{self.root}/{relative}"  # as text: there may be millions
        folder, _, _ = relative.rpartition("/")
        label = folder.rpartition("/")[2]
        return Item(
            id=f"{self.name}:{relative}",
            uri=path,
            metadata={**({"label": label} if label else {}), **self.columns.get(relative, {})},
            read=partial(_bytes_of, path),
            signature=partial(file_signature, path),
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def _with_columns(self) -> FolderSource:
        tables = [p for p in sorted(self.root.glob(f"{_METADATA_STEM}.*")) if p.suffix in TABLES]
        if not tables:
            return self
        if len(tables) > 1:
            names = " and ".join(path.name for path in tables)
            raise SourceError(f"{self.root}: has {names}; keep one of them")
        table = read_table(tables[0])
        column = next((name for name in _PATH_COLUMNS if name in table.names), None)
        if column is None:
            raise SourceError(
                f"{table.path}: has no column path (or file_name) with the image of each row; its "
                f"columns are {', '.join(table.names)}"
            )
        columns, problems = _by_path(table, column, frozenset(self.files))
        return replace(self, columns=columns, problems=(*self.problems, *problems))


def _bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


def file_signature(path: str | Path) -> str:
    """Return a file's size and modification time as text; empty if it cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the cost of Path.stat, and there may be millions
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _by_path(
    table: Table, column: str, files: frozenset[str]
) -> tuple[dict[str, Mapping[str, Any]], list[Failure]]:
    columns: dict[str, Mapping[str, Any]] = {}
    problems = []
    for number, row in enumerate(table.rows):
        place = table.place(number)
        value = str(row.get(column, ""))
        path = os.path.normpath(value).replace(os.sep, "/") if value else ""
        if path not in files:
            reason = f"{value!r} is not an image in the folder" if value else f"has no {column}"
            problems.append(Failure(place, reason))
        elif path in columns:
            problems.append(Failure(place, f"{value!r} appears twice; the first row is used"))
        else:
            columns[path] = {key: value for key, value in row.items() if key != column}
    return columns, problems


class _Walk:
    """The image files below a root in sorted order, and the folders that could not be listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Failure] = []
        self.unlisted: list[str] = []
        self._suffixes = supported_suffixes()
        self._real = os.path.realpath(root)
        self._linked: set[str] = set()

    def files(self) -> Iterator[str]:
        try:
            os.listdir(self.root)  # noqa: PTH208 - only to check that it is readable
        except OSError as error:
            raise SourceError(f"{self.root}: cannot be read ({error.strerror})") from error
        return self._files_below("")

    def _files_below(self, folder: str) -> Iterator[str]:
        """Yield the files of a sub-folder; its path is empty or ends with a slash."""
        try:
            with os.scandir(self.root / folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror})"
            self.problems.append(Failure(str(self.root / folder), reason))
            self.unlisted.append(folder)
            return
        subfolders = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _IGNORED_FOLDERS:
                continue
            if entry.is_dir():
                if not entry.is_symlink() or self._leads_out(entry):
                    subfolders.append(entry.name)
            elif self._may_be_image(entry):
                yield folder + entry.name
        for name in subfolders:
            yield from self._files_below(f"{folder}{name}/")

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

    def _may_be_image(self, entry: os.DirEntry[str]) -> bool:
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - there may be millions
        if suffix:
            return suffix in self._suffixes
        if not entry.is_file():
            return False
        try:
            with open(entry.path, "rb") as file:  # noqa: PTH123
                return has_image_signature(file.read(16))
        except OSError:
            return False
