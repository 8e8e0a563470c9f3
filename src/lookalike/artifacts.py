"""Artifacts on disk: folders that are written completely or not at all, with a manifest.

A manifest is a JSON file with the key ``format``. It is written last, by an atomic rename, so that
a folder without a manifest is unfinished, and one with a manifest is complete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.cancellation import check_cancelled
from lookalike.documents import SMALL, parse_json, read_json
from lookalike.errors import ArtifactError, BusyError, FormatVersionError, StorageError
from lookalike.files import check_regular, valid_text

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)

GALLERY_MANIFEST = "gallery.json"
ENCODER_MANIFEST = "encoder.json"
"""The manifests of a gallery's and an encoder's folder."""

FORMAT = 5
"""Format version of manifests. To raise it: add one here, teach :func:`_upgrade` the old layout,
keep a folder of the old version in ``tests/data`` with a test that opens it, and describe the
change in CHANGELOG."""

_CHECKSUM = "checksum"
_FIRST_CHECKSUM = 5
"""Oldest format version whose manifests have a checksum."""

OLDEST_RUN = 3
"""Oldest format version of interrupted training runs that can be resumed; to be raised only when
their own files change."""

_LONGEST_VERSION = 10_000

_LONGEST_PREFIX = 100
"""Characters of a file's name at the start of its temporary name."""

_KEYS_BEFORE_3 = {"normalised": "normalized", "learnt": "learned", "licence": "license"}
_NAMES_BEFORE_3 = (("colour", "color"),)
"""Manifest keys, and encoder names in values of ``name``, that formats 1 and 2 spell otherwise."""


def write_atomically(
    path: Path, data: bytes, *, parents: bool = True, mode: int | None = None
) -> None:
    """Write a file so that it holds either all of ``data`` or its previous content.

    Args:
        path: the file.
        data: its content.
        parents: create the folders above it; without, a folder that is missing is an error.
        mode: its permissions, whatever the umask; by default those of the file that it replaces,
            and for a new file what the umask allows.

    Raises:
        StorageError: the write failed (disk full, no permission); ``path`` is unchanged.
    """
    partial = path.parent / f".{path.name[:_LONGEST_PREFIX]}.{os.urandom(8).hex()}"
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(path)
        kept = _mode_of(path) if mode is None else mode
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(partial, flags, 0o666 if kept is None else kept & 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if kept is not None:
            partial.chmod(kept)
        partial.replace(path)
        flush(path.parent)
    except BaseException as error:  # also when it is interrupted
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def _check_replaceable(path: Path) -> None:
    """Check that nothing but a file would be replaced: not a device such as ``/dev/null``.

    Raises:
        OSError: there is something else, or a link to it.
    """
    with contextlib.suppress(FileNotFoundError):
        check_regular(path)


def _mode_of(path: Path) -> int | None:
    """Return the permissions of a regular file; None if there is none."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_IMODE(facts.st_mode) if stat.S_ISREG(facts.st_mode) else None


def write_cache(path: Path, data: bytes) -> None:
    """Write a file that only saves time, such as one of the cache; log a warning if that fails."""
    try:
        write_atomically(path, data)
    except StorageError as error:
        log.warning("not cached, so that it takes as long the next time: %s", error)


@contextlib.contextmanager
def sole_writer(
    path: Path, *, what: str, wait: float = 0, mode: int = -1, queue: Path | None = None
) -> Iterator[None]:
    """Hold a lock file. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; it is not deleted.
        what: what is being written, for messages.
        wait: seconds to wait for another process that holds it.
        mode: permissions of a lock file that does not exist yet; -1 leaves them to the umask.
        queue: a second lock file, held while waiting: a process that writes again and again cannot
            overtake one that waits.

    Raises:
        BusyError: another process holds it, or a thread of this one.
        CancelledError: the current work was cancelled while it waited.
        StorageError: it cannot be created.
    """
    from filelock import FileLock, Timeout  # loads asyncio and SQLite

    until = time.monotonic() + wait
    lock = FileLock(path, mode=mode)
    try:
        with contextlib.ExitStack() as place:
            if queue is not None:
                turn = FileLock(queue, mode=mode)
                _acquire(turn, until, what)
                place.callback(turn.release)
            _acquire(lock, until, what)
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


def _acquire(lock: BaseFileLock, until: float, what: str) -> None:
    """Acquire a lock file, and say so if that takes long.

    Raises:
        Timeout: another process holds it until then.
        CancelledError: the current work was cancelled.
    """
    from filelock import Timeout

    said_at = time.monotonic() + _SILENT_S
    while True:
        left = until - time.monotonic()
        try:
            lock.acquire(timeout=max(0.0, min(left, _CHECK_S)), poll_interval=_POLL_S)
        except Timeout:
            if left <= _CHECK_S:
                raise
            check_cancelled()
            if time.monotonic() > said_at:
                log.warning("%s is being written by another process; waiting for it", what)
                said_at = math.inf
        else:
            return


_POLL_S = 0.01
_CHECK_S = 0.1
"""Seconds that a lock file is waited for between checks whether the work was cancelled."""

_SILENT_S = 3.0
"""Seconds of waiting after which it is said."""


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
    """Return what :func:`write_manifest` writes.

    Bytes of file names that are no text are escaped, as :func:`lookalike.files.valid_text` does.
    """
    document = with_checksum({"format": FORMAT, **_valid(fields)})
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def with_checksum(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a JSON document with a checksum of them, for :func:`has_changed`."""
    return {**fields, _CHECKSUM: _checksum(fields)}


def has_changed(fields: Mapping[str, Any]) -> bool:
    """Return whether a JSON document differs from what was written with a checksum.

    Those that older versions wrote have none, and count as unchanged.
    """
    version = fields.get("format")
    is_older = isinstance(version, int) and version < _FIRST_CHECKSUM and _CHECKSUM not in fields
    return not is_older and fields.get(_CHECKSUM) != _checksum(fields)


def _checksum(fields: Mapping[str, Any]) -> str:
    """Return the CRC-32 of fields, whatever their order and layout, in hexadecimal."""
    others = {name: value for name, value in fields.items() if name != _CHECKSUM}
    text = json.dumps(others, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _valid(value: Any) -> Any:
    """Return a value of JSON whose texts can be written and read again."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, Mapping):
        return {key: _valid(each) for key, each in value.items()}
    return [_valid(each) for each in value] if isinstance(value, list | tuple) else value


def read_manifest(path: Path, *, what: str) -> dict[str, Any]:
    """Read a manifest of this or an older format version.

    Args:
        path: the JSON file; not a link.
        what: kind of the artifact, with its article ("a gallery"), for messages.

    Raises:
        ArtifactError: the folder or the manifest is missing or broken.
        FormatVersionError: a newer lookalike wrote it.
    """
    folder = path.parent
    try:
        fields = read_json(path, hint=f"{folder} is not {what}", follow=False)
    except (FileNotFoundError, NotADirectoryError):
        reason = f"has no {path.name}" if folder.is_dir() else "there is no such folder"
        raise ArtifactError(f"{folder}: not {what} ({reason})") from None
    return check_manifest(fields, place=str(path), what=what)


def parse_manifest(
    data: bytes, *, place: str, what: str, hint: str = "", limit: int = SMALL
) -> dict[str, Any]:
    """Return the fields of a manifest that is not a file, as :func:`read_manifest`."""
    fields = parse_json(data, place, hint=hint, limit=limit)
    return check_manifest(fields, place=place, what=what)


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
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{place}: has no format version; it is not the manifest of {what}")
    if version > FORMAT:
        shown = version if version < _LONGEST_VERSION else "unknown"
        raise FormatVersionError(
            f"{place}: written in format {shown}, this lookalike reads up to {FORMAT}; "
            "upgrade: pip install --upgrade lookalike"
        )
    upgraded = dict(_upgrade(fields) if version < 3 else fields)
    upgraded.pop(_CHECKSUM, None)
    return upgraded


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
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ArtifactError(f"{path}: already exists; choose another name or remove it first")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".{path.name[:_LONGEST_PREFIX]}.{os.urandom(8).hex()}"
        partial.mkdir()
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield partial
        partial.replace(path)
        flush(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    except StorageError as error:
        # The message names the temporary folder, which means nothing to the user.
        raise StorageError(str(error).replace(str(partial), str(path))) from error
    finally:
        import shutil

        shutil.rmtree(partial, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Check that a file or folder may be created or changed, before the work that it is to hold.

    Raises:
        StorageError: there is no permission, or the file system is read-only.
    """
    try:
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:  # its name is too long
        raise storage_error(path, error) from error
    if not os.access(nearest, os.W_OK):
        raise storage_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error that ``path`` could not be written, and why."""
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}); the previous state is unchanged"
    )
