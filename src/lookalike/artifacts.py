"""Artifacts on disk: folders that are written completely or not at all, with a manifest.

A manifest is a JSON file with the key ``format``. It is written last, by an atomic rename, so that
a folder without a manifest is unfinished, and one with a manifest is complete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lookalike.errors import ArtifactError, BusyError, FormatVersionError, StorageError

log = logging.getLogger(__name__)

FORMAT = 4
"""Format version of manifests. To raise it: add one here, teach :func:`_upgrade` the old layout,
keep a folder of the old version in ``tests/data`` with a test that opens it, and describe the
change in CHANGELOG."""

OLDEST_RUN = 3
"""Oldest format version of interrupted training runs that can be resumed; to be raised only when
their own files change."""

_KEYS_BEFORE_3 = {"normalised": "normalized", "learnt": "learned", "licence": "license"}
_NAMES_BEFORE_3 = (("colour", "color"),)
"""Manifest keys, and encoder names in values of ``name``, that formats 1 and 2 spell otherwise."""


def write_atomically(path: Path, data: bytes, *, parents: bool = True, mode: int = 0o644) -> None:
    """Write a file so that it holds either all of ``data`` or its previous content.

    Args:
        path: the file.
        data: its content.
        parents: create the folders above it; without, a folder that is missing is an error.
        mode: its permissions; until it has them, only its owner can read it.

    Raises:
        StorageError: the write failed (disk full, no permission); ``path`` is unchanged.
    """
    partial: Path | None = None
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as f:
            partial = Path(f.name)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        partial.chmod(mode)
        partial.replace(path)
        flush(path.parent)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def write_cache(path: Path, data: bytes) -> None:
    """Write a file that only saves time, such as one of the cache; log a warning if that fails."""
    try:
        write_atomically(path, data)
    except StorageError as error:
        log.warning("not cached, so that it takes as long the next time: %s", error)


@contextlib.contextmanager
def sole_writer(path: Path, *, what: str, wait: float = 0, mode: int = -1) -> Iterator[None]:
    """Hold a lock file. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; it is not deleted.
        what: what is being written, for messages.
        wait: seconds to wait for another process that holds it.
        mode: permissions of a lock file that does not exist yet; -1 leaves them to the umask.

    Raises:
        BusyError: another process holds it.
        StorageError: it cannot be created.
    """
    try:
        lock = FileLock(path, timeout=wait, mode=mode)
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"{what} is being written by another process; try again when it has finished"
        ) from None
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def flush(path: str | Path) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Raises:
        OSError: that failed.
    """
    if os.name == "nt" and Path(path).is_dir():  # folder entries need no flushing on Windows
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a manifest into an existing folder: ``fields`` and the format version, as JSON."""
    write_atomically(path, manifest_bytes(fields), parents=False)


def manifest_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return what :func:`write_manifest` writes."""
    text = json.dumps({"format": FORMAT, **fields}, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def read_manifest(path: Path, *, what: str, hint: str = "") -> dict[str, Any]:
    """Read a manifest of this or an older format version.

    Args:
        path: the JSON file.
        what: kind of the artifact, with its article ("a gallery"), for messages.
        hint: what to do if it is missing.

    Raises:
        ArtifactError: the folder or the manifest is missing or broken.
        FormatVersionError: a newer lookalike wrote it.
    """
    folder = path.parent
    try:
        fields = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        reason = "" if hint else f" (has no {path.name})"
        if not folder.is_dir():
            reason = " (there is no such folder)"
        raise ArtifactError(f"{folder}: not {what}{reason}{hint and f'. {hint}'}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); {folder} is not {what}") from error
    return check_manifest(fields, place=str(path), what=what)


def check_manifest(fields: Any, *, place: str, what: str) -> dict[str, Any]:
    """Return the fields of a manifest whose format version can be read.

    Args:
        fields: its content, as JSON values.
        place: where it was read, for messages.
        what: kind of the artifact, with its article.

    Raises:
        ArtifactError: it has no format version.
        FormatVersionError: a newer lookalike wrote it.
    """
    version = fields.get("format") if isinstance(fields, dict) else None
    if not isinstance(version, int):
        raise ArtifactError(f"{place}: has no format version; it is not the manifest of {what}")
    if version > FORMAT:
        raise FormatVersionError(
            f"{place}: written in format {version}, this lookalike reads up to {FORMAT}; "
            "upgrade: pip install --upgrade lookalike"
        )
    return dict(_upgrade(fields) if version < 3 else fields)


def _upgrade(value: Any, key: str = "") -> Any:
    """Return a manifest of format 1 or 2 with the names of format 3."""
    if isinstance(value, dict):
        return {
            _KEYS_BEFORE_3.get(name, name): _upgrade(inner, name) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_upgrade(inner, key) for inner in value]
    if key == "name" and isinstance(value, str):
        for old, new in _NAMES_BEFORE_3:
            value = value.replace(old, new)
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends well, else vanishes.

    Raises:
        ArtifactError: ``path`` exists and is not an empty folder.
        StorageError: it could not be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtifactError(f"{path}: already exists; choose another name or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    except StorageError as error:
        # The message names the temporary folder, which means nothing to the user.
        raise StorageError(str(error).replace(str(partial), str(path))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Check that a file or folder may be created or changed, before the work that it is to hold.

    Raises:
        StorageError: there is no permission, or the file system is read-only.
    """
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not os.access(nearest, os.W_OK):
        raise storage_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error that ``path`` could not be written, and why."""
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}); the previous state is unchanged"
    )
