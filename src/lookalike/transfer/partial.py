"""The bytes of a file while it is downloaded, resumed by the next process if this one ends."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from lookalike.artifacts import flush
from lookalike.files import open_regular
from lookalike.transfer.storage import cache_error
from lookalike.transfer.sums import Hasher, RemoteFile

_BLOCK = 1 << 20
_LONGEST_TAG = 400


def strong_tag(text: str) -> str:
    """Return an entity tag that may stand in If-Range, else nothing."""
    return text if re.fullmatch(r'"[!#-~]{1,200}"', text) else ""


class PartialFile:
    """A file that grows; its sums are computed while it does.

    Beside it, the entity tag of the response that its first bytes are from is kept.

    Args:
        path: where the bytes are; those that are there already are part of it.
        file: what it is to become.

    Attributes:
        target: the file that it is to become.
        hasher: the sums of its bytes so far.
        received: bytes that were added since it was opened, also before a restart.
        is_mixed: whether its bytes are of more than one response.
    """

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self._path = path
        self._tag_path = path.with_name(path.name + ".tag")
        self._file: BinaryIO | None = None
        self.target = file
        self.hasher = Hasher(file)
        self.received = 0
        self.is_mixed = False
        self._tag = ""

    def __enter__(self) -> PartialFile:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            self.close()
            raise cache_error(self._path, error) from error
        return self

    def _open(self) -> None:
        if self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):
            self._path.unlink()
        with contextlib.suppress(OSError), open_regular(self._tag_path, follow=False) as file:
            self._tag = strong_tag(file.read(_LONGEST_TAG).decode("ascii", "replace"))
        self._file = self._path.open("ab")
        if self._file.tell() > self.target.size:
            self._file.truncate(0)
        with open_regular(self._path, follow=False) as present:
            while block := present.read(_BLOCK):
                self.hasher.update(block)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its bytes stay."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.hasher.size

    @property
    def tag(self) -> str:
        """The entity tag of what the bytes are from, empty if it had none."""
        return self._tag

    @tag.setter
    def tag(self, tag: str) -> None:
        if tag == self._tag:
            return
        self._tag = tag
        try:
            self._tag_path.write_text(tag, encoding="ascii")
        except OSError as error:
            raise self._fail(error) from error

    def append(self, block: bytes) -> None:
        """Add the next bytes.

        Raises:
            StorageError: they cannot be written; all of it is deleted.
        """
        assert self._file is not None
        try:
            self._file.write(block)
        except OSError as error:
            raise self._fail(error) from error
        self.hasher.update(block)
        self.received += len(block)

    def restart(self) -> None:
        """Delete all bytes."""
        assert self._file is not None
        self.tag = ""
        try:
            self._file.truncate(0)
        except OSError as error:
            raise self._fail(error) from error
        self.hasher = Hasher(self.target)

    def finish(self, path: Path) -> None:
        """Make the whole file stand at a path.

        Raises:
            StorageError: that failed; all of it is deleted.
        """
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(path)
            flush(path.parent)
            self._tag_path.unlink(missing_ok=True)
            self._path.parent.rmdir()
        except OSError as error:
            if not path.is_file():
                raise self._fail(error, path) from error

    def _fail(self, error: OSError, place: Path | None = None) -> Exception:
        """Delete everything, and return the error that says why ``place`` cannot be written."""
        self.close()
        for path in (self._path, self._tag_path):
            with contextlib.suppress(OSError):
                path.unlink()
        return cache_error(place or self._path, error)
