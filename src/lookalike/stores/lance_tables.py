"""Reading the Lance tables in which galleries of formats 1 to 4 have their rows.

Lance trusts what it reads: it takes a manifest of zeros, as a power failure may leave it, for an
empty table, follows paths out of the table's folder, and ends the process for some damaged
manifests. So the newest version is checked before anything is read: its manifest has the recorded
checksum, it has the columns of a gallery, and all of its files are in the folder and complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.cancellation import check_cancelled
from lookalike.errors import (
    ArtifactError,
    MissingDependencyError,
    is_installed,
    is_panic,
    requiring,
)
from lookalike.files import bare_name, check_no_link, check_regular, read_regular
from lookalike.metadata import parse_metadata
from lookalike.process_state import default_environment
from lookalike.stores.base import Rows, sample_places
from lookalike.types import Embeddings

VERSIONS = "_versions"
"""Folder of the manifests of a table's versions."""

_PURPOSE = "reading a gallery of an earlier lookalike"

_DATA = "data"
_CHECKSUMS = "checksums.sha256"

_MANIFEST = re.compile(r"(\d{1,20})\.manifest")
_INVERTED = 20
"""Digits of a manifest's name that counts down from the largest number of 64 bits."""

_MAX_DIM = 1_000_000
_LARGEST_MANIFEST = 200_000_000
"""Bytes of a manifest or of the checksums, at most."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")

_TEXTS = ("id", "uri", "metadata", "content_hash")
_SIGNATURE = "signature"
"""A column that tables of format 1 lack."""


def import_lance(purpose: str) -> Any:
    """Return the module of Lance.

    Raises:
        MissingDependencyError: it is not installed; the message begins with ``purpose``.
    """
    if not is_installed("lance"):
        raise MissingDependencyError("pylance", purpose, "lance")
    with requiring("lance", purpose, "lance"), default_environment(LANCE_LOG="error"):
        import lance  # which reads the variable

    return lance


class LanceTable:
    """The newest version of a table, for reading.

    Raises:
        MissingDependencyError: Lance is not installed.
        ArtifactError: the table is missing or broken, or has links or files of others.
    """

    def __init__(self, path: Path) -> None:
        lance = import_lance(_PURPOSE)
        self._path = path
        _check_links(path)
        with _reading(path):
            number, name = _newest_version(path)
            _check_manifest(path, name)
            self._dataset = lance.dataset(path)
            self.dim = _check_columns(self._dataset, path)
            if self._dataset.version < number:
                raise ValueError(f"version {number} is damaged")
            _check_files(self._dataset, path)

    def __repr__(self) -> str:
        return f"LanceTable({str(self._path)!r}, dim={self.dim})"

    @property
    def _names(self) -> list[str]:
        names = self._dataset.schema.names
        return [*_TEXTS, "embedding", *([_SIGNATURE] if _SIGNATURE in names else [])]

    def count(self) -> int:
        """Return the number of rows."""
        with _reading(self._path):
            return int(self._dataset.count_rows())

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        with _reading(self._path):
            return sorted(self._dataset.to_table(columns=["id"])["id"].to_pylist())

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return ``k`` different random rows in random order, or all rows if there are fewer.

        Raises:
            SettingError: ``k`` is not positive.
        """
        places = sample_places(self.count(), k, seed)
        with _reading(self._path):
            return _rows(self._dataset.take(places, columns=self._names), self.dim)

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows in any order, at most ``count`` at a time."""
        with _reading(self._path):
            batches = iter(self._dataset.to_batches(columns=self._names, batch_size=count))
        while True:
            check_cancelled()
            with _reading(self._path):
                batch = next(batches, None)
                if batch is None:
                    return
                rows = _rows(batch, self.dim)
            if len(rows):
                yield rows


def _rows(table: Any, dim: int) -> Rows:
    """Return the rows of a table or batch of Arrow columns."""
    ids, uris, metadata, hashes = (table.column(name).to_pylist() for name in _TEXTS)
    signatures = (
        [text or "" for text in table.column(_SIGNATURE).to_pylist()]
        if _SIGNATURE in table.schema.names
        else ()
    )
    parsed = [parse_metadata(text) for text in metadata]
    return Rows(ids, uris, _embeddings(table, dim), parsed, hashes, signatures)


def _embeddings(table: Any, dim: int) -> Embeddings:
    """Return the embeddings of a table or batch, ``(rows, dim)`` float32."""
    column = table.column("embedding")
    chunks = getattr(column, "chunks", [column])
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate([np.empty(0, np.float32), *values]).reshape(-1, dim)


def _newest_version(path: Path) -> tuple[int, str]:
    """Return number and name of the manifest of the newest version.

    Raises:
        OSError: there is no table.
        ValueError: it has no version.
    """
    newest = 0, ""
    for name in os.listdir(path / VERSIONS):  # noqa: PTH208 - names only
        match = _MANIFEST.fullmatch(name)
        if match is not None:
            number = int(match[1])
            number = 2**64 - 1 - number if len(match[1]) == _INVERTED else number
            newest = max(newest, (number, name))
    if not newest[1]:
        raise ValueError("it has no version")
    return newest


def _check_manifest(path: Path, name: str) -> None:
    """Compare a manifest with its checksum, if one is recorded, before Lance reads it.

    Raises:
        ValueError: it has changed since it was written, or is too large to be one.
        OSError: it cannot be read.
    """
    data = read_regular(path / VERSIONS / name, limit=_LARGEST_MANIFEST, follow=False)
    expected = _checksums(path).get(f"{VERSIONS}/{name}")
    if expected and hashlib.sha256(data).hexdigest() != expected:
        raise ValueError(f"{VERSIONS}/{name} has changed since it was written")


def _checksums(path: Path) -> dict[str, str]:
    """Return the recorded SHA-256 by path below the folder, of several the last one."""
    try:
        data = read_regular(path / _CHECKSUMS, limit=_LARGEST_MANIFEST, follow=False)
    except FileNotFoundError:  # before format 4 there were none
        return {}
    lines = map(_LINE.fullmatch, data.decode(errors="replace").split("\n")[:-1])
    return {match[2]: match[1] for match in lines if match is not None}


def _check_columns(dataset: Any, path: Path) -> int:
    """Check that a table has the columns of a gallery; return the dimensions of the embeddings.

    Raises:
        ValueError: it has not.
        ArtifactError: it refers to files outside of the folder.
    """
    import pyarrow as pa

    if dataset.base_paths():
        raise _outside_error(path)
    types = {field.name: field.type for field in dataset.schema}
    if not pa.types.is_fixed_size_list(types.get("embedding", pa.null())):
        raise ValueError("it has no embeddings")
    dim = int(types["embedding"].list_size)
    if not 1 <= dim <= _MAX_DIM:
        raise ValueError(f"embeddings of {dim:,} dimensions")
    expected = {**dict.fromkeys(_TEXTS, pa.string()), "embedding": pa.list_(pa.float32(), dim)}
    if _SIGNATURE in types:
        expected[_SIGNATURE] = pa.string()
    for name, kind in expected.items():
        if types.get(name) != kind:
            raise ValueError(f"it has no column {name} of type {kind}")
    return dim


def _check_files(dataset: Any, path: Path) -> None:
    """Check that the data files of a version are in the folder and complete.

    Raises:
        ValueError: one is incomplete.
        OSError: one is missing.
        ArtifactError: one is not in the table's folder.
    """
    for fragment in dataset.get_fragments():
        for file in fragment.metadata.files:
            name = bare_name(file.path, str(path))
            if file.base_id is not None:
                raise _outside_error(path)
            size, actual = int(file.file_size_bytes or 0), (path / _DATA / name).stat().st_size
            if size and actual != size:
                raise ValueError(f"{_DATA}/{name} has {actual:,} of {size:,} bytes")


def _outside_error(path: Path) -> ArtifactError:
    return ArtifactError(f"{path}: the table has files outside of its folder, which are not read")


def _check_links(path: Path) -> None:
    """Check that a table has only files and folders.

    Links could lead to files of others, and Lance would wait without end for a pipe.

    Raises:
        ArtifactError: it has something else.
    """
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            check_no_link(Path(folder, name), what="a gallery")
        for name in files:
            try:
                check_regular(Path(folder, name))
            except OSError as error:
                raise ArtifactError(
                    f"{Path(folder, name)}: {error.strerror}; delete it, a gallery has only files"
                ) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise ArtifactError for whatever Lance raises in the block about a table that is broken."""
    try:
        yield
    except (OSError, ValueError) as error:
        if "error: KeyboardInterrupt" in str(error):  # which Lance may wrap
            raise KeyboardInterrupt from error
        raise _unreadable(path, error) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> ArtifactError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]
    return ArtifactError(
        f"{path}: the Lance table of the gallery is missing or broken ({reason}); restore it from "
        "a backup, or index the images into a new gallery"
    )
