"""The files of a Lance table: which version is the newest, and whether what it names is there.

Lance writes every file once and then only reads it, and trusts what it reads: it takes a manifest
of zeros, as a power failure may leave it, for an empty table, and follows paths out of the table's
folder. So each version is checked when it is opened: it is the newest that there is, has the
columns of a gallery, and all of its files are in the folder and complete. Checksums of the files
are recorded in the folder, for ``lookalike doctor``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lookalike.artifacts import flush
from lookalike.errors import ArtifactError
from lookalike.files import bare_name, check_no_link, check_regular, open_regular, read_regular
from lookalike.stores.lance.table import SIGNATURE, schema

VERSIONS = "_versions"
DATA = "data"
CHECKSUMS = "checksums.sha256"

_HINT = "latest_version_hint.json"
"""The only file that Lance replaces."""

_MANIFEST = re.compile(r"(\d{1,20})\.manifest")
_INVERTED = 20
"""Digits of a manifest's name that counts down from the largest number of 64 bits."""

_MAX_DIM = 1_000_000
_LARGEST_MANIFEST = 200_000_000
"""Bytes of a manifest or of the checksums, at most."""
_CHUNK = 1 << 22
_TAIL = 1 << 16
"""Bytes at the end of the checksums in which those of the last commits are."""

_LINE = re.compile(r"[0-9a-f]{64}  ")


def versions(path: Path) -> dict[int, Path]:
    """Return the manifests of a table by the number of their version, the newest first.

    Raises:
        OSError: there is no table.
    """
    found = {}
    for manifest in (path / VERSIONS).iterdir():
        match = _MANIFEST.fullmatch(manifest.name)
        if match is not None:
            number = int(match[1])
            found[2**64 - 1 - number if len(match[1]) == _INVERTED else number] = manifest
    return dict(sorted(found.items(), reverse=True))


def newest_version(names: Iterable[str]) -> tuple[int, str]:
    """Return number and name of the newest among names in :data:`VERSIONS`; 0 if there is none."""
    newest = 0, ""
    for name in names:
        match = _MANIFEST.fullmatch(name)
        if match is not None:
            number = int(match[1])
            number = 2**64 - 1 - number if len(match[1]) == _INVERTED else number
            newest = max(newest, (number, name))
    return newest


def check_manifest(path: Path, name: str) -> None:
    """Compare a version's manifest with its checksum, if one is recorded, before Lance reads it.

    Lance ends the process for some damaged manifests.

    Raises:
        ValueError: it has changed since it was written, or is too large to be one.
        OSError: it cannot be read.
    """
    size = (path / VERSIONS / name).stat().st_size
    if size > _LARGEST_MANIFEST:
        raise ValueError(f"{VERSIONS}/{name} has {size:,} bytes")
    expected = Checksums(path).find(f"{VERSIONS}/{name}")
    if expected and file_hash(path / VERSIONS / name) != expected:
        raise ValueError(f"{VERSIONS}/{name} has changed since it was written")


def check_version(dataset: Any, path: Path, newest: int) -> None:
    """Check that an opened version is not older than ``newest`` and can be read.

    Raises:
        ValueError: it is older, has no columns of a gallery, or a file is missing or incomplete.
        OSError: a file cannot be examined.
        ArtifactError: it refers to files outside of the folder.
    """
    if dataset.base_paths():
        raise _elsewhere(path)
    if dataset.version < newest:
        raise ValueError(f"version {newest} is damaged")
    fields = dataset.schema
    if "embedding" not in fields.names or not pa.types.is_fixed_size_list(
        fields.field("embedding").type
    ):
        raise ValueError("it has no embeddings")
    dim = fields.field("embedding").type.list_size
    if not 1 <= dim <= _MAX_DIM:
        raise ValueError(f"embeddings of {dim:,} dimensions")
    for expected in schema(dim):
        if expected.name == SIGNATURE and SIGNATURE not in fields.names:
            continue
        if expected.name not in fields.names or fields.field(expected.name).type != expected.type:
            raise ValueError(f"it has no column {expected.name} of type {expected.type}")
    for name, size in data_files(dataset, path):
        actual = (path / DATA / name).stat().st_size
        if size and actual != size:
            raise ValueError(f"{DATA}/{name} has {actual:,} of {size:,} bytes")


def data_files(dataset: Any, path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names of a version's data files and their sizes, 0 where none is recorded.

    Raises:
        ArtifactError: a file is not in the table's folder.
    """
    for fragment in dataset.get_fragments():
        for file in fragment.metadata.files:
            name = bare_name(file.path, str(path))
            if file.base_id is not None:
                raise _elsewhere(path)
            yield name, int(file.file_size_bytes or 0)


def _elsewhere(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path}: the table has files outside of its folder; copy the gallery again, by lookalike "
        "copy where it was made"
    )


def files_of(path: Path) -> set[Path]:
    """Return the files of a table."""
    return {Path(folder, name) for folder, _, names in os.walk(path) for name in names}


def check_links(path: Path) -> None:
    """Check that a table has only files and folders.

    Links could lead to files of others, and Lance would wait without end for a pipe.

    Raises:
        ArtifactError: it has something else.
    """
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            check_no_link(Path(folder, name), what="a gallery")
        for name in files:
            _check_no_pipe(Path(folder, name))


def _check_no_pipe(path: Path) -> None:
    try:
        check_regular(path)
    except FileNotFoundError:  # deleted by another process in the meantime
        return
    except OSError as error:
        raise ArtifactError(
            f"{path}: {error.strerror}; delete it, a gallery has only files"
        ) from error


class Checksums:
    """SHA-256 of a table's files, in a file of its folder, as sha256sum writes it."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        self.file = path / CHECKSUMS

    def read(self) -> dict[str, str]:
        """Return the checksums by path below the folder, without lines that are not complete.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            return _parse(read_regular(self.file, limit=_LARGEST_MANIFEST, follow=False))
        except FileNotFoundError:
            return {}

    def find(self, name: str) -> str:
        """Return the checksum of a file that was written lately; empty if it is not among the last.

        Raises:
            OSError: the checksums cannot be read.
        """
        try:
            with open_regular(self.file, follow=False) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return _parse(file.read()).get(name, "")
        except FileNotFoundError:
            return ""

    def add(self, paths: Iterable[Path]) -> None:
        """Record files that have just been written.

        Raises:
            OSError: they cannot be read, or the checksums cannot be written.
        """
        lines = [
            f"{file_hash(path)}  {path.relative_to(self._folder).as_posix()}\n"
            for path in sorted(paths)
            if path.name not in (_HINT, CHECKSUMS)
        ]
        if not lines:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self.file, flags, 0o666), "wb") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def forget_deleted(self, *, always: bool = False) -> None:
        """Remove the lines of files that are gone, once most of them are or if it is asked for.

        Raises:
            OSError: the checksums cannot be read or written.
        """
        known = self.read()
        kept = {name: digest for name, digest in known.items() if (self._folder / name).exists()}
        if len(kept) == len(known) or (len(kept) > len(known) / 2 and not always):
            return
        partial = self.file.with_name(f".{self.file.name}.new")
        partial.write_text("".join(f"{digest}  {name}\n" for name, digest in kept.items()))
        flush(partial)
        partial.replace(self.file)


def _parse(data: bytes) -> dict[str, str]:
    """Return checksums by name, of several the last one; incomplete lines are left out."""
    lines = data.decode(errors="replace").split("\n")[:-1]
    pairs = (line.split("  ", 1) for line in lines if _LINE.match(line))
    return {name: digest for digest, name in pairs}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path, follow=False) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
