"""Where transferred files are put: errors of the cache, and its free space."""

from __future__ import annotations

import shutil
from pathlib import Path

from lookalike.errors import StorageError

_SPARE_BYTES = 50_000_000
"""Bytes of the disk that a download leaves free."""


def cache_error(path: Path, error: OSError | str) -> StorageError:
    """Return the error that the cache cannot be written, and what to do about it."""
    reason = error if isinstance(error, str) else error.strerror or str(error)
    return StorageError(
        f"{path}: cannot be written ({reason}); nothing was changed. Make room or choose another "
        "cache folder with LOOKALIKE_DATA"
    )


def check_space(folder: Path, size: int) -> None:
    """Check that files of so many bytes fit on the disk of a folder.

    Raises:
        StorageError: they do not.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < size + _SPARE_BYTES:
        needed = f"{size / 1e6:,.1f} MB and {_SPARE_BYTES / 1e6:g} MB to spare needed"
        raise cache_error(folder, f"{needed}, {free / 1e6:,.1f} MB free")
