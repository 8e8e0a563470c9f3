"""The errors of a store's files: what SQLite and the system raise, as errors of lookalike."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, BusyError, StorageError

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_ODD_VALUES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What Python raises about values of other types than were written: SQLite stores any in any
column, so a file that is damaged, or made by others, may have them everywhere."""

_FULL = 1 << 20
"""Free bytes below which a disk is taken for full."""

_PRIMARY = 0xFF
"""The bits of an error's code that are its kind; the others are details."""


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Raise ArtifactError for whatever is raised in the block about a broken database.

    Raises:
        ArtifactError: it is missing or broken.
        BusyError: it is being written, where that excludes readers.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # of a message that quotes the database
        check_cancelled()  # which may be why SQLite was interrupted
        if is_busy(error):
            raise _busy(path) from error
        raise unreadable(path, error) from error
    except _ODD_VALUES as error:
        raise unreadable(path, _ODD) from error


@contextlib.contextmanager
def odd_values() -> Iterator[None]:
    """Raise an error of SQLite for what values of other types than were written lead to.

    Raises:
        sqlite3.DatabaseError: the block failed since there are some.
    """
    try:
        yield
    except _ODD_VALUES as error:
        raise sqlite3.DatabaseError(_ODD) from error


_ODD = "it has values that make no sense"


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Raise StorageError for whatever SQLite or the system raises in the block.

    Raises:
        StorageError: it cannot be written.
        BusyError: another process is writing.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
        check_cancelled()
        if is_busy(error):
            raise _busy(path) from error
        raise StorageError(
            f"{path.parent}: the rows cannot be written ({_reason(path, error)}); those committed "
            "before are unchanged"
        ) from error


def _reason(path: Path, error: BaseException) -> object:
    """Return why something cannot be written: for some files SQLite hides that the disk is full."""
    if error_kind(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        import shutil  # seldom needed, and slow to import

        with contextlib.suppress(OSError):
            if shutil.disk_usage(path.parent).free < _FULL:
                return os.strerror(errno.ENOSPC)
    return getattr(error, "strerror", None) or error


def is_busy(error: BaseException) -> bool:
    """Return whether an error is that somebody else has a lock."""
    return error_kind(error) in _BUSY


def error_kind(error: BaseException) -> int | None:
    """Return the kind of an error of SQLite, as its constants; None for another error."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & _PRIMARY


def _busy(path: Path) -> BusyError:
    return BusyError(
        f"{path.parent}: the rows are being written by another process, or read where that "
        "excludes writers; try again when it has finished"
    )


def unreadable(path: Path, error: object) -> ArtifactError:
    """Return the error that the rows cannot be read, with the reason and the next command."""
    return ArtifactError(
        f"{path}: the rows of the gallery are missing or broken ({error}); to see what can be "
        f"done: lookalike doctor {shlex.quote(str(path.parent.parent))} --deep"
    )
